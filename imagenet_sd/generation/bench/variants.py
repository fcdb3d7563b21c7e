"""The pipelines that the benchmark compares: diffusers' own, and our generator on a copy of its modules."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from imagenet_sd.core.errors import ModelError
from imagenet_sd.core.types import ImageRequest
from imagenet_sd.generation.bench.config import SD14, BenchConfig
from imagenet_sd.generation.bench.sd14 import sd14_pipeline
from imagenet_sd.generation.config import EMBEDDED
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.loading import load_pipeline, pick_dtype, set_up_cpu_worker
from imagenet_sd.generation.diffusion.options import SamplingOptions
from imagenet_sd.generation.kinds import STABLE_DIFFUSION
from imagenet_sd.generation.models import EMBEDDED_FOLDER, check_pipeline_folder

Generate = Callable[[Sequence[ImageRequest]], list[np.ndarray]]


def load_stock(config: BenchConfig, device: torch.device) -> StableDiffusionPipeline:
    """The stock pipeline of a resolved configuration.

    Raises:
        ModelError: there is no such folder, it is damaged, or of a kind with another denoising loop than the compared.
    """
    dtype = pick_dtype(config.dtype, device)
    if config.model == SD14:
        return sd14_pipeline(dtype, device, config.seed)
    folder = EMBEDDED_FOLDER if config.model == EMBEDDED else Path(config.model)
    if not folder.is_dir():
        raise ModelError(f"{config.model!r} is no folder", f"give `embedded`, `{SD14}`, or a local diffusers folder")
    kind = check_pipeline_folder(folder)
    if kind.pipeline != STABLE_DIFFUSION.pipeline:
        raise ModelError(
            f"{config.model} is a {kind.pipeline}, and the benchmark compares loops of Stable Diffusion 1 and 2",
            f"give `embedded`, `{SD14}`, or a folder of that kind; `generate --calibrate` measures every kind",
        )
    return load_pipeline(folder, dtype, device)


def copy_pipeline(stock: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A pipeline with modules of its own, so that what our generator does to them leaves the stock one as it is."""
    parts = dict(stock.components)
    parts |= {name: copy.deepcopy(parts[name]) for name in ("unet", "vae", "scheduler")}
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def our_generator(config: BenchConfig, pipeline: StableDiffusionPipeline) -> ImageGenerator:
    """Our generator as `generate` would build it from a resolved configuration."""
    return ImageGenerator(
        pipeline,
        guidance_scale=config.guidance_scale,
        num_inference_steps=config.num_inference_steps,
        width=config.width,
        height=config.height,
        batch_size=config.batch_size,
        options=SamplingOptions(compile=config.compile),
    )


def stock_images(
    config: BenchConfig, stock: StableDiffusionPipeline, requests: Sequence[ImageRequest]
) -> list[np.ndarray]:
    """The images uint8 [height, width, 3] of one call of the stock pipeline with a list of prompts."""
    output: Any = stock(
        [request.prompt.text for request in requests],
        width=config.width,
        height=config.height,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        generator=[torch.Generator().manual_seed(request.seed) for request in requests],
    )
    return [np.asarray(image) for image in output.images]


def make_variants(
    config: BenchConfig, stock: StableDiffusionPipeline, generator: ImageGenerator
) -> dict[str, Generate]:
    """What is compared, each a function from requests to images uint8 [height, width, 3].

    Returns:
        `naive` (one call of the stock pipeline per prompt), `batched` (one per batch), `ours`.
    """

    def batches(generate: Callable[[Sequence[ImageRequest]], Any], size: int) -> Generate:
        return lambda requests: [
            image for k in range(0, len(requests), size) for image in generate(requests[k : k + size])
        ]

    def call_stock(requests: Sequence[ImageRequest]) -> list[np.ndarray]:
        return stock_images(config, stock, requests)

    return {
        "naive": batches(call_stock, 1),
        "batched": batches(call_stock, config.batch_size),
        "ours": batches(generator.generate, config.batch_size),
    }


@contextmanager
def cpu_worker(device: torch.device) -> Iterator[None]:
    """On a CPU set this process up as a worker of `generate`; its number of threads is restored at the end."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        set_up_cpu_worker()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
