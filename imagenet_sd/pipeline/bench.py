"""Measuring speed: the generator, the data loader, the probe; and what a planned dataset will take."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.generation.config import GenerationConfig

_SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


def bench_generate(**settings: Any) -> dict[str, Any]:
    """Time the generator against diffusers' own pipeline, in one interleaved run.

    Args:
        settings: fields of `imagenet_sd.generation.bench.config.BenchConfig`.

    Returns:
        See `imagenet_sd.generation.bench.compare.bench_generate`.

    Raises:
        ImagenetSDError: a setting is out of range, or the model cannot be had.
    """
    from imagenet_sd.generation.bench import compare
    from imagenet_sd.generation.bench.config import BenchConfig

    return compare.bench_generate(BenchConfig(**settings))


def bench_script(name: str, arguments: Sequence[object] = (), folder: Path | None = None) -> dict[str, Any]:
    """Run a benchmark script of the checkout in a process of its own.

    Args:
        name: "loader" or "probe".
        arguments: of the script.
        folder: where the scripts are; None: in the checkout that this package runs from.

    Returns:
        What the script prints, see there.

    Raises:
        ImagenetSDError: there is no such script, or it failed.
    """
    script = (folder or _SCRIPTS) / f"{name}.py"
    if not script.is_file():
        raise ImagenetSDError(
            f"there is no benchmarks/{name}.py: installed packages leave it out",
            "run it from a checkout of the repository, installed with `pip install -e .`",
        )
    root = str(script.resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    try:
        result = json.loads(done.stdout)
    except ValueError:
        result = None
    if done.returncode or not isinstance(result, dict):
        raise ImagenetSDError(
            f"benchmarks/{name}.py ended with code {done.returncode} and no result", "read the lines above"
        )
    return result


def calibrate(config: GenerationConfig, seconds: float = 30.0) -> dict[str, Any]:
    """Draw a few of a plan's images, and say how long the whole of it takes and how much disk.

    Returns:
        See `imagenet_sd.generation.bench.calibrate.calibrate`.

    Raises:
        ImagenetSDError: the plan or the model is not usable.
    """
    from imagenet_sd.generation.bench import calibrate

    return calibrate.calibrate(config, seconds)
