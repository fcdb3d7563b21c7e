"""What a plan will take: a few of its own images are generated, and time and disk are estimated from them."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from imagenet_sd.core.types import GenerationPlan, ImageRequest
from imagenet_sd.generation.bench.profiling import Proxy
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.diffusion.batches import BatchGenerator, EncodedImage
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.options import Offload
from imagenet_sd.generation.models import identify, resolve
from imagenet_sd.generation.plan import estimate_bytes, make_plan
from imagenet_sd.generation.worker import Worker, generator_facts, make_worker
from imagenet_sd.generation.workers.engines.local import cores
from imagenet_sd.storage.dataset import Dataset

_ROWS = 100  # of a row group: compression works on no more at a time


class _TimeIsUp(Exception):
    """Ends a batch that would take too long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What was generated.

    Attributes:
        images_per_second: of one worker.
        images: the first images of the plan, in order; empty when not even one batch was done in time.
        timed: images that the rate was measured on, 0 if it was extrapolated from single denoising steps.
    """

    images_per_second: float
    images: list[EncodedImage]
    timed: int


def calibrate(config: GenerationConfig, seconds: float = 30.0, offload: Offload = "none") -> dict[str, Any]:
    """Generate images of the plan for a while, and say what the whole of it takes. Leaves nothing on the disk.

    The first batch warms up and is not counted, unless it is the only one. A batch that does not come to its end in
    time is broken off, and its denoising steps alone tell the rate (`extrapolated`; the image decoder is left out then,
    and the disk is estimated by rule of thumb). Loading the model is not part of the seconds.

    Args:
        config: the dataset.
        seconds: how long to generate at most, give or take one denoising step and one image decoding.
        offload: see `make_worker`.

    Returns:
        `images_per_second` (of one device, or of one CPU core), `device`, `devices` (of this machine: GPUs or cores),
        `device_hours` (for the whole plan) and `hours` (with all devices of this machine), `num_images`,
        `sample_images`, `extrapolated`, `bytes_per_image` and `estimated_bytes` (of the whole plan, as shards).

    Raises:
        ImagenetSDError: the model cannot be loaded, or generated an unusable image.
    """
    model = identify(config)
    config = resolve(config, model.revision)
    plan, document = make_plan(config, model)
    with tempfile.TemporaryDirectory() as folder:
        worker = make_worker(Dataset.from_document(Path(folder), document), offload=offload)
        sample = generate_sample(worker, seconds)
        total = shard_bytes(worker, sample.images) if sample.images else estimate_bytes(plan, *config.size)
    on_gpu = worker.generator.device.type == "cuda"
    devices = torch.cuda.device_count() if on_gpu else cores()
    hours = plan.num_images / sample.images_per_second / 3600
    return {
        "images_per_second": sample.images_per_second,
        "device": generator_facts(worker.generator)["device"],
        "devices": devices,
        "device_hours": hours,
        "hours": hours / devices,
        "num_images": plan.num_images,
        "sample_images": sample.timed,
        "extrapolated": not sample.images,
        "bytes_per_image": total / plan.num_images,
        "estimated_bytes": total,
    }


def generate_sample(worker: Worker, seconds: float, clock: Callable[[], float] = time.perf_counter) -> Sample:
    """Generate batches, from the first of the plan on and from there again at its end, until the time is up.

    Args:
        worker: has the plan and the generator.
        seconds: see `calibrate`.
        clock: tells the time.
    """
    generator = worker.generator
    started = clock()
    calls: list[float] = []

    def after_call() -> None:
        if generator.device.type == "cuda" and not times:
            torch.cuda.synchronize()  # or the steps of the first batch would seem to be done before they are
        calls.append(clock())
        if len(calls) > 1 and calls[-1] - started >= seconds:
            raise _TimeIsUp

    images: list[EncodedImage] = []
    times: list[float] = []
    with suppress(_TimeIsUp), _denoiser_calls(generator, after_call):
        for batch in _batches(worker.dataset.plan):
            before = clock()
            images += generator.generate_encoded(batch)
            times.append((clock() - before) / len(batch))
            if clock() - started + times[-1] * len(batch) > seconds:
                break
    if not times:
        step = (calls[-1] - calls[0]) / (len(calls) - 1)
        steps = len(generator.scheduler.timesteps)
        return Sample(images_per_second=generator.batch_size / (step * steps), images=[], timed=0)
    counted = times[1:] or times
    timed = len(counted) * (len(images) // len(times))
    return Sample(images_per_second=len(counted) / sum(counted), images=images, timed=timed)


@contextmanager
def _denoiser_calls(generator: BatchGenerator, after_call: Callable[[], None]) -> Iterator[None]:
    """Have every call of the denoiser followed by `after_call`."""
    whole, denoiser = generator.pipeline, generator.denoiser
    own_loop = isinstance(generator, ImageGenerator)
    run = denoiser if own_loop else denoiser.forward

    def call(*args: Any, **kwargs: Any) -> Any:
        result = run(*args, **kwargs)
        after_call()
        return result

    if own_loop:  # outside of what is compiled
        generator.pipeline = Proxy(whole, unet=Proxy(denoiser, call))
    else:
        denoiser.forward = call
    try:
        yield
    finally:
        generator.pipeline = whole
        vars(denoiser).pop("forward", None)


def _batches(plan: GenerationPlan) -> Iterator[list[ImageRequest]]:
    """Full batches of round 0, over and over."""
    shards = map(plan.shard, itertools.cycle(range(plan.shards_per_round)))
    images = itertools.chain.from_iterable(map(plan.requests, shards))
    while True:
        yield list(itertools.islice(images, plan.batch_size))


def shard_bytes(worker: Worker, images: list[EncodedImage]) -> int:
    """Bytes of all shards of the worker's plan, estimated from two shards that hold the first images of it.

    Two, because a shard has a fixed part (class names and the like) and a part that grows with its rows.

    Args:
        worker: writes into a folder that is not kept.
        images: the first images of the plan.
    """
    plan = worker.dataset.plan
    few, many = 1, min(len(images), plan.images_per_round, plan.shard_size, 10 * _ROWS)

    def size(rows: int) -> int:
        generator = Proxy(worker.generator, generate_encoded=lambda requests, on_batch: iter(images[:rows]))
        part = replace(worker.dataset, plan=replace(plan, shard_size=rows))
        replace(worker, dataset=part, generator=generator).run_shard(0)  # pyright: ignore[reportArgumentType]
        return part.shard_path(part.plan.shard(0)).stat().st_size

    smallest = size(few)
    a_row = (size(many) - smallest) / (many - few) if many > few else 0.0
    fixed = smallest - a_row * few
    return round(plan.num_shards * fixed + plan.num_images * a_row) if a_row else plan.num_images * smallest
