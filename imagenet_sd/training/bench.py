"""Worker time per multi-crop sample: ours against a straightforward torchvision-on-PIL pipeline of DINO's kind.

Both turn the same 512x384 JPEG photographs into 1 crop of 224 and 8 crops of 96 pixels with the same distributions. The
plain pipeline does everything in the worker; ours cuts crops there and leaves the photometric operations to the
training device, where they run in batches. Interleaved, median of several rounds, one core.
"""

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms as T

from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.images import LabelledImage
from imagenet_sd.training.config import RECIPES
from imagenet_sd.training.crops import MultiCrop
from imagenet_sd.training.recipes import load_train_config
from imagenet_sd.training.run import train_run
from imagenet_sd.training.runlog import read_metrics


def bench_loader(rounds: int = 7, samples: int = 24) -> dict[str, Any]:
    """Time a multi-crop sample of the paper's recipe, on one thread.

    Args:
        rounds: measured rounds, after one that warms up.
        samples: per round and pipeline.

    Returns:
        `ours_ms` and `plain_ms` (median time per sample), `ratio` (plain over ours, median of the rounds),
        `data_wait_share` (of the time of a short training run on this machine), `samples` (every measurement in ms).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = _sample_times(rounds, samples)
        data_wait_share = _data_wait_share()
    finally:
        torch.set_num_threads(threads)
    return {
        **{f"{name}_ms": round(median(values), 2) for name, values in times.items()},
        "ratio": round(median(p / o for p, o in zip(times["plain"], times["ours"], strict=True)), 2),
        "data_wait_share": data_wait_share,
        "samples": times,
    }


def _sample_times(rounds: int, samples: int) -> dict[str, list[float]]:
    files, transforms = _photographs(), _plain_transforms()
    recipe = RECIPES["imagenet-sd"]
    multi_crop = MultiCrop(recipe.crops, recipe.photometric, seed=0)

    def ours(number: int) -> None:
        record = LabelledImage(image_id=str(number), label=0, data=files[number % len(files)])
        multi_crop(record.decode(), 0, record.image_id)

    def plain(number: int) -> None:
        image = Image.open(io.BytesIO(files[number % len(files)])).convert("RGB")
        for transform in transforms:
            transform(image)

    pipelines: dict[str, Callable[[int], None]] = {"ours": ours, "plain": plain}
    times: dict[str, list[float]] = {name: [] for name in pipelines}
    for round_ in range(rounds + 1):
        for name, load in pipelines.items():
            started = time.perf_counter()
            for number in range(samples):
                load(number)
            if round_:  # the first round warms up
                times[name].append(1000 * (time.perf_counter() - started) / samples)
    return times


def _photographs() -> list[bytes]:
    """Photographs that scikit-image ships, as 512x384 JPEG files of quality 95 without chroma subsampling."""
    from skimage import data

    files = []
    for image in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket()):
        buffer = io.BytesIO()
        ImageOps.fit(Image.fromarray(image), (512, 384)).save(buffer, "JPEG", quality=95, subsampling=0)
        files.append(buffer.getvalue())
    return files


def _plain_transforms() -> list[T.Compose]:
    """One transform per crop, everything on PIL images in the worker."""

    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(np.random.uniform(0.1, 2.0)))

    def transform(size: int, scale: tuple[float, float], blur_p: float, *more: Any) -> T.Compose:
        crop = T.RandomResizedCrop(size, scale, interpolation=T.InterpolationMode.BICUBIC)
        jitter = T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8)
        color = [T.RandomHorizontalFlip(), jitter, T.RandomGrayscale(0.2), T.RandomApply([T.Lambda(blur)], p=blur_p)]
        return T.Compose([crop, *color, *more, T.ToTensor(), T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])

    global_crop = transform(224, (0.4, 1.0), 0.2, T.RandomSolarize(128, p=0.2))
    return [global_crop] + [transform(96, (0.05, 0.4), 0.5)] * 8


def _data_wait_share() -> float:
    """Share of time that one epoch of `small` on the built-in digits waits for data."""
    with tempfile.TemporaryDirectory() as folder:
        config = load_train_config("small", ["optimizer.epochs=1", "optimizer.warmup_epochs=0"])
        run = Path(folder) / "run"
        train_run(config, DataSpec(kind="builtin", name="mnist"), run, validation=None, workers=-1, stream=False)
        return read_metrics(run / "metrics.jsonl")[-1]["data_wait_share"]
