"""Checks of what changes rounding only: xformers and `torch.compile` against eager PyTorch."""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import torch

from gpu_checks.check import Check, Outcome, Setting, passed_if, skipped
from gpu_checks.generation import bench_config, make_generator
from gpu_checks.pixels import parity
from gpu_checks.timing import interleaved, rates
from imagenet_sd.core.errors import ModelError
from imagenet_sd.generation.bench.config import BenchConfig
from imagenet_sd.generation.bench.variants import load_stock
from imagenet_sd.generation.config import EMBEDDED
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.options import SamplingOptions


def xformers(setting: Setting) -> Outcome:
    """The embedded model with the attention of xformers."""
    return _against_eager(setting, _embedded_config(setting), SamplingOptions(attention="xformers"))


def compiled(setting: Setting) -> Outcome:
    """The embedded model, compiled."""
    if not setting.on_gpu:
        return skipped("takes minutes on a CPU")
    return _against_eager(setting, _embedded_config(setting), SamplingOptions(compile=True))


def compiled_sd14(setting: Setting) -> Outcome:
    """The true shapes of Stable Diffusion 1.4, compiled."""
    if setting.reduced:
        return skipped("the reduced form compiles the embedded model only")
    return _against_eager(setting, bench_config(setting, setting.dtype), SamplingOptions(compile=True))


def _embedded_config(setting: Setting) -> BenchConfig:
    sizes: dict[str, Any] = {"num_inference_steps": 3, "batch_size": 2} if setting.reduced else {"batch_size": 16}
    return BenchConfig(model=EMBEDDED, rounds=1, dtype=setting.dtype, **sizes).resolved(setting.device)


def _against_eager(setting: Setting, config: BenchConfig, options: SamplingOptions) -> Outcome:
    """Pixels and images per second with options and without."""
    requests = config.requests()[0]
    try:
        changed = _generator_with(setting, config, options)
    except ModelError as error:
        return skipped(str(error).splitlines()[0])
    generators = {"eager": make_generator(config, setting.device), "changed": changed}
    images = {name: generator.generate(requests) for name, generator in generators.items()}
    runs = {name: partial(generator.generate, requests) for name, generator in generators.items()}
    rate = rates(interleaved(setting.device, runs), dict.fromkeys(runs, len(requests)))
    del changed, generators, runs  # there is memory for float32 then
    exact: np.ndarray | None = None
    if setting.on_gpu:
        exact = make_generator(dataclasses.replace(config, dtype="float32"), setting.device).generate(requests)
    good, remark, figures = parity(images["changed"], images["eager"], exact)
    figures |= {"images_per_second": rate, "settings": dataclasses.asdict(config), "options": options.recorded()}
    torch._dynamo.reset()
    ratio = rate["changed"] / rate["eager"]
    return passed_if(good, f"{rate['changed']:.2f} images/s, {ratio:.2f} times eager; {remark}", figures)


def _generator_with(setting: Setting, config: BenchConfig, options: SamplingOptions) -> ImageGenerator:
    names: Any = ("guidance_scale", "num_inference_steps", "width", "height", "batch_size")
    values = {name: getattr(config, name) for name in names}
    return ImageGenerator(load_stock(config, setting.device), **values, options=options)


CHECKS = [
    Check(name="xformers", about="attention of xformers against PyTorch's", seconds=60, run=xformers),
    Check(name="compile", about="torch.compile against eager", seconds=150, run=compiled),
    Check(name="compile-sd-1.4", about="torch.compile at true shapes", seconds=240, run=compiled_sd14),
]
