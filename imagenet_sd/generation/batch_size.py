"""The largest batch that a device has memory for: found by generating, before a plan is made."""

import gc
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import torch

from imagenet_sd.core.errors import GenerationMemoryError, UnusableImageError
from imagenet_sd.generation.diffusion.loading import pick_device
from imagenet_sd.generation.diffusion.options import Offload
from imagenet_sd.generation.worker import Worker, make_worker
from imagenet_sd.storage.dataset import Dataset

SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Batches that are tried, in turn. Above 32, images per second hardly grow."""
ON_CPU = 16
"""A CPU gains nothing from larger batches, and its memory is seldom what is short."""
_SAFE = 0.9
_STEPS = 2  # of the trial: memory does not grow with steps, and the second finds the caches full


def find_batch_size(dataset: Dataset, offload: Offload = "none") -> tuple[int, str]:
    """The largest size of `SIZES` whose peak leaves a tenth of the free memory alone. Gives the memory back.

    Args:
        dataset: its settings name the model, its prompts are those of the trial; nothing is written to its folder.
        offload: see `make_worker`.

    Returns:
        (size, name of the device); `ON_CPU` on a CPU, where nothing is tried.

    Raises:
        GenerationMemoryError: not even one image fits.
    """
    device = pick_device()
    if device.type != "cuda":
        return ON_CPU, "a CPU"
    budget = _SAFE * torch.cuda.mem_get_info(device)[0]
    peak = partial(_peak, make_worker(dataset, offload=offload))
    try:
        return largest_size(SIZES, peak, budget), torch.cuda.get_device_name(device)
    finally:
        del peak  # a worker of another process may need the memory
        free_memory()


def free_memory() -> None:
    """Give the memory of models that nothing refers to any more back to the GPU."""
    gc.collect()
    torch.cuda.empty_cache()  # nothing without a GPU


def largest_size(sizes: Iterable[int], peak: Callable[[int], int], budget: float) -> int:
    """The last of growing sizes whose peak stays within the budget.

    Args:
        sizes: growing; the first must fit.
        peak: bytes that a batch of this size takes; raises GenerationMemoryError when there are too few.
        budget: bytes.

    Raises:
        GenerationMemoryError: the first size does not fit.
    """
    largest = 0
    for size in sizes:
        try:
            if peak(size) > budget and largest:
                break
        except GenerationMemoryError:
            if not largest:
                raise
            break
        largest = size
    return largest


def _peak(worker: Worker, size: int) -> int:
    """Most bytes reserved on the GPU while a batch is generated, flagged and encoded."""
    plan, generator = worker.dataset.plan, worker.generator
    generator.batch_size, generator.num_inference_steps = size, _STEPS
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(generator.device)
    with suppress(UnusableImageError):  # after so few steps an image may well be of one colour
        for _ in generator.generate_encoded(plan.requests(plan.shard(0))[:size]):
            pass
    return torch.cuda.max_memory_reserved(generator.device)
