"""Measuring speed: the generator, the data loader, the probe; and what a planned dataset will take."""

from typing import Any

from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.diffusion.options import Offload


def bench_generate(**settings: Any) -> dict[str, Any]:
    """Time the generator against diffusers' own pipeline; see `imagenet_sd.generation.bench.compare.bench_generate`.

    Args:
        settings: fields of `imagenet_sd.generation.bench.config.BenchConfig`.

    Raises:
        ImagenetSDError: a setting is out of range, or the model cannot be loaded.
    """
    from imagenet_sd.generation.bench.compare import bench_generate
    from imagenet_sd.generation.bench.config import BenchConfig

    return bench_generate(BenchConfig(**settings))


def bench_loader(*, rounds: int = 7) -> dict[str, Any]:
    """Time a multi-crop sample against a plain torchvision pipeline; see `imagenet_sd.training.bench.bench_loader`.

    Args:
        rounds: measured rounds; the median counts.
    """
    from imagenet_sd.training.bench import bench_loader

    return bench_loader(rounds)


def bench_probe(*, rounds: int = 3, stream: bool = False) -> dict[str, Any]:
    """Time the linear probe's regularisation path against scikit-learn; see `imagenet_sd.evaluation.bench`.

    Args:
        rounds: measured rounds; the median counts.
        stream: time instead a part of a pass of SGD over 1,281,167 x 2,048 features in a file, and its memory.
    """
    from imagenet_sd.evaluation import bench

    return bench.bench_stream() if stream else bench.bench_probe(rounds)


def calibrate(config: GenerationConfig, seconds: float = 30.0, offload: Offload = "none") -> dict[str, Any]:
    """How long a plan takes and how much disk; see `imagenet_sd.generation.bench.calibrate.calibrate`."""
    from imagenet_sd.generation.bench.calibrate import calibrate

    return calibrate(config, seconds, offload)
