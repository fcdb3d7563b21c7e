"""Interleaved timings on a device."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import TypeVar

import torch

from imagenet_sd.generation.bench.compare import matmul_tflops, wait_for

Key = TypeVar("Key")
ROUNDS = 3


def interleaved(
    device: torch.device, runs: Mapping[Key, Callable[[], object]], rounds: int = ROUNDS
) -> dict[Key, list[float]]:
    """Seconds of each run in each round; all take turns. They are warm already."""
    seconds: dict[Key, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            wait_for(device)
            started = time.perf_counter()
            run()
            wait_for(device)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def rates(seconds: Mapping[Key, list[float]], images: Mapping[Key, int]) -> dict[Key, float]:
    """Images per second, of the median round."""
    return {name: images[name] / median(times) for name, times in seconds.items()}


def ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product of a dtype; a small one on a CPU."""
    if device.type == "cuda":
        return matmul_tflops(device, dtype=dtype)
    return matmul_tflops(device, size=512, repeats=2, groups=3, dtype=dtype)
