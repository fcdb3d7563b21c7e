"""How fast the generator is, against diffusers' own pipeline on the same images, in one interleaved run.

Three variants (see `make_variants`) generate the same prompts from the same noise and end with the same thing, uint8
pixels in main memory. JPEG files are not part of the comparison, since the stock pipeline makes none; they are part of
the whole machine's images per second.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from imagenet_sd.core.progress import Progress
from imagenet_sd.core.types import ImageRequest
from imagenet_sd.generation.bench.config import SD14, BenchConfig
from imagenet_sd.generation.bench.profiling import CallTimer, timed_pipeline
from imagenet_sd.generation.bench.sd14 import tflop_per_image
from imagenet_sd.generation.bench.throughput import machine_seconds
from imagenet_sd.generation.bench.variants import copy_pipeline, cpu_worker, load_stock, make_variants, our_generator
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.loading import pick_device
from imagenet_sd.generation.worker import generator_facts
from imagenet_sd.generation.workers.engines.local import cores


def bench_generate(config: BenchConfig) -> dict[str, Any]:
    """Measure the three variants, the share of the denoiser, and on a CPU the whole machine.

    On a CPU everything runs on one thread, as a worker of `generate` does.

    Returns:
        `ratio_naive` and `ratio_batched` (median seconds of that variant over median seconds of ours; on a CPU also
        with `_cpu`, of processor time, which neighbours on a busy machine disturb less),
        `denoiser_share` (UNet and image decoder, of our wall time) and `shares` (of each part), `pixels_equal` (ours
        and batched, bit by bit in every round) and `largest_pixel_difference` (of 255), `images_per_second` (of the
        device; on a CPU of all `workers` together, JPEG files included), `seconds` (the raw samples: seconds per
        round of `naive`, `batched`, `ours`, these with `_cpu`, and of the whole `machine`), `images_per_round` (of one
        variant or worker), device, dtype, threads and versions, `settings`; on a GPU also `tflops` (sd-1.4 only) and
        `matmul_tflops`.

    Raises:
        ImagenetSDError: the model cannot be loaded, or generated an unusable image.
    """
    device = pick_device()
    config = config.resolved(device)
    on_cpu = device.type == "cpu"
    with cpu_worker(device), Progress("rounds", config.rounds * (2 if on_cpu else 1) + 2) as progress:
        stock = load_stock(config, device)
        ours = copy_pipeline(stock)
        generator = our_generator(config, ours)
        requests = config.requests()
        seconds, differences = compare(config, stock, generator, requests, lambda: progress.advance(1))
        shares = time_shares(config, ours, requests[0])
        progress.advance(1)
        if on_cpu:
            workers = config.workers or cores()
            seconds["machine"] = machine_seconds(config, workers, lambda: progress.advance(1))
            rate = workers * config.images_per_round / median(seconds["machine"])
            speed = ratios(seconds, "_cpu") | {"images_per_second": rate, "workers": workers}
        else:
            speed = _gpu_speed(config, config.images_per_round / median(seconds["ours"]), device)
        facts = generator_facts(generator)
    return {
        **ratios(seconds),
        "denoiser_share": shares["unet"] + shares["vae"],
        "shares": shares,
        "pixels_equal": max(differences) == 0,
        "largest_pixel_difference": max(differences),
        **speed,
        "seconds": seconds,
        "images_per_round": config.images_per_round,
        "device_type": device.type,
        **facts,
        "settings": dataclasses.asdict(config),
    }


def _gpu_speed(config: BenchConfig, rate: float, device: torch.device) -> dict[str, float]:
    speed = {"images_per_second": rate, "workers": 1, "matmul_tflops": matmul_tflops(device)}
    if config.model == SD14:
        settings = (config.width, config.height, config.num_inference_steps, config.guidance_scale)
        speed["tflops"] = rate * tflop_per_image(*settings)
    return speed


def ratios(seconds: dict[str, list[float]], kind: str = "") -> dict[str, float]:
    """Median seconds of each stock variant over those of ours; of wall time, or with "_cpu" of processor time."""
    ours = median(seconds["ours" + kind])
    return {f"ratio_{name}{kind}": median(seconds[name + kind]) / ours for name in ("naive", "batched")}


def compare(
    config: BenchConfig,
    stock: StableDiffusionPipeline,
    generator: ImageGenerator,
    rounds: Sequence[Sequence[ImageRequest]],
    on_round: Callable[[], object] = lambda: None,
) -> tuple[dict[str, list[float]], list[int]]:
    """Run the variants in turn, round by round, after a warm-up of each.

    Args:
        config: resolved settings.
        stock: the pipeline of `naive` and `batched`.
        generator: ours.
        rounds: the images of each round, whole batches.
        on_round: called after each round, the warm-up included.

    Returns:
        Seconds of each round by variant (with "_cpu" after its name: of processor time), and for each round the largest
        difference between our pixels and those of `batched`, 0 to 255.
    """
    variants = make_variants(config, stock, generator)
    for name, generate in variants.items():
        generate(rounds[0][: 1 if name == "naive" else config.batch_size])
    on_round()
    seconds: dict[str, list[float]] = {name + kind: [] for kind in ("", "_cpu") for name in variants}
    differences = []
    for requests in rounds:
        images = {}
        for name, generate in variants.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            images[name] = generate(requests)
            seconds[name].append(time.perf_counter() - started)
            seconds[f"{name}_cpu"].append(time.process_time() - cpu_started)
        pairs = zip(images["ours"], images["batched"], strict=True)
        differences.append(max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in pairs))
        on_round()
    return seconds, differences


def time_shares(
    config: BenchConfig, pipeline: StableDiffusionPipeline, requests: Sequence[ImageRequest]
) -> dict[str, float]:
    """The parts' shares of our wall time, measured in a pass of its own so that the comparison is not disturbed.

    Args:
        config: resolved settings.
        pipeline: our pipeline, warm.
        requests: whole batches.

    Returns:
        Fractions of `unet`, `vae`, `text` (the prompt encoder), `scheduler`, and `rest`; their sum is 1.
    """
    timer = CallTimer(pipeline.unet.device)
    generator = our_generator(config, timed_pipeline(pipeline, timer))
    generator.generate(requests[: config.batch_size])  # warms up, and encodes prompts that a run meets again and again
    before = timer.seconds()
    started = time.perf_counter()
    for k in range(0, len(requests), config.batch_size):
        generator.generate(requests[k : k + config.batch_size])
    total = time.perf_counter() - started
    after = timer.seconds()
    shares = {
        name: (after.get(name, 0.0) - before.get(name, 0.0)) / total for name in ("unet", "vae", "text", "scheduler")
    }
    return shares | {"rest": 1 - sum(shares.values())}


def matmul_tflops(
    device: torch.device, size: int = 8192, repeats: int = 20, groups: int = 5, dtype: torch.dtype = torch.bfloat16
) -> float:
    """Speed of a large matrix product on the device, in 10**12 operations a second: the practical ceiling.

    Args:
        device: where to multiply.
        size: rows and columns.
        repeats: products per measurement.
        groups: measurements, of which the median counts.
        dtype: of the matrices.
    """
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    rates = []
    for group in range(groups + 1):
        wait_for(device)
        started = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b)
        wait_for(device)
        if group:  # the first one warms up
            rates.append(2 * size**3 * repeats / (time.perf_counter() - started) / 1e12)
    return median(rates)


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all its work; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
