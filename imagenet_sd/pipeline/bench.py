"""Measuring speed: the generator, the data loader, the probe; and what a planned dataset will take."""

from typing import Any

from imagenet_sd.generation.config import GenerationConfig


def bench_generate(**settings: Any) -> dict[str, Any]:
    """Time the generator against diffusers' own pipeline, in one interleaved run.

    Args:
        settings: fields of `imagenet_sd.generation.bench.config.BenchConfig`.

    Returns:
        See `imagenet_sd.generation.bench.compare.bench_generate`.

    Raises:
        ImagenetSDError: a setting is out of range, or the model cannot be loaded.
    """
    from imagenet_sd.generation.bench.compare import bench_generate
    from imagenet_sd.generation.bench.config import BenchConfig

    return bench_generate(BenchConfig(**settings))


def bench_loader(*, rounds: int = 7) -> dict[str, Any]:
    """Time a multi-crop sample in a data worker against a plain torchvision pipeline.

    Args:
        rounds: measured rounds; the median counts.

    Returns:
        See `imagenet_sd.training.bench.bench_loader`.
    """
    from imagenet_sd.training.bench import bench_loader

    return bench_loader(rounds)


def bench_probe(*, rounds: int = 3) -> dict[str, Any]:
    """Time the linear probe's whole regularisation path against scikit-learn.

    Args:
        rounds: measured rounds; the median counts.

    Returns:
        See `imagenet_sd.evaluation.bench.bench_probe`.
    """
    from imagenet_sd.evaluation.bench import bench_probe

    return bench_probe(rounds)


def calibrate(config: GenerationConfig, seconds: float = 30.0) -> dict[str, Any]:
    """Generate a few of a plan's images, and say how long the whole of it takes and how much disk.

    Returns:
        See `imagenet_sd.generation.bench.calibrate.calibrate`.

    Raises:
        ImagenetSDError: the plan or the model is not usable.
    """
    from imagenet_sd.generation.bench.calibrate import calibrate

    return calibrate(config, seconds)
