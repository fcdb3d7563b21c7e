"""The largest batch that a device has memory for: found by generating, before a plan is made."""

from collections.abc import Callable, Iterable
from contextlib import suppress

import torch

from imagenet_sd.core.errors import GenerationMemoryError, UnusableImageError
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.worker import Worker, generator_facts

SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Batches that are tried, in turn. Above 32, images per second hardly grow."""
ON_CPU = 16
"""A CPU gains nothing from larger batches, and its memory is seldom what is short."""
_SAFE = 0.9
_STEPS = 2  # of the trial: memory does not grow with steps, and the second finds the caches full


def find_batch_size(worker: Worker) -> tuple[int, str]:
    """The largest size of `SIZES` whose peak leaves a tenth of the device's free memory alone.

    Args:
        worker: has the model; its plan's prompts are the trial's. Its generator is of no use afterwards.

    Returns:
        (size, name of the device); `ON_CPU` on a CPU, where nothing is tried.

    Raises:
        GenerationMemoryError: not even one image fits.
    """
    generator, device = worker.generator, str(generator_facts(worker.generator)["device"])
    if generator.device.type != "cuda":
        return ON_CPU, device
    free, _ = torch.cuda.mem_get_info(generator.device)
    budget = _SAFE * (free + torch.cuda.memory_reserved(generator.device))
    return largest_size(SIZES, lambda size: _peak(worker, generator, size), budget), device


def largest_size(sizes: Iterable[int], peak: Callable[[int], int], budget: float) -> int:
    """The last of growing sizes whose peak stays within the budget.

    Args:
        sizes: growing; the first must fit.
        peak: bytes that a batch of this size takes; raises GenerationMemoryError when there are too few.
        budget: bytes.

    Raises:
        GenerationMemoryError: the first size does not fit.
    """
    found = 0
    for size in sizes:
        try:
            if peak(size) > budget and found:
                break
        except GenerationMemoryError:
            if not found:
                raise
            break
        found = size
    return found


def _peak(worker: Worker, generator: ImageGenerator, size: int) -> int:
    """Most bytes reserved on the GPU while a batch is generated, flagged and encoded."""
    plan = worker.dataset.plan
    generator.batch_size, generator.num_inference_steps = size, _STEPS
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(generator.device)
    with suppress(UnusableImageError):  # after so few steps an image may well be of one colour
        for _ in generator.generate_encoded(plan.requests(plan.shard(0))[:size]):
            pass
    return torch.cuda.max_memory_reserved(generator.device)
