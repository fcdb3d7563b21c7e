"""Worker time per multi-crop sample: ours against a straightforward torchvision-on-PIL pipeline of DINO's kind.

Both turn the same 512x384 JPEG photographs into 1 crop of 224 and 8 crops of 96 pixels with the same distributions. The
plain pipeline does everything in the worker; ours cuts crops there and leaves the photometric operations to the
training device, where they run in batches. Interleaved, median of several rounds, one core. Also prints the share of
time that a short training run on this machine waits for data.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from skimage import data as photographs
from torchvision import transforms as T

from imagenet_sd.data.images import LabelledImage
from imagenet_sd.pipeline import train
from imagenet_sd.training.config import get_recipe
from imagenet_sd.training.crops import MultiCrop
from imagenet_sd.training.recipes import load_train_config
from imagenet_sd.training.runlog import read_metrics

BICUBIC = T.InterpolationMode.BICUBIC


def photos() -> list[bytes]:
    """Photographs that scikit-image ships, as 512x384 JPEG files of quality 95 without chroma subsampling."""
    files = []
    for image in (photographs.astronaut(), photographs.coffee(), photographs.chelsea(), photographs.rocket()):
        buffer = io.BytesIO()
        ImageOps.fit(Image.fromarray(image), (512, 384)).save(buffer, "JPEG", quality=95, subsampling=0)
        files.append(buffer.getvalue())
    return files


def blur(image: Image.Image) -> Image.Image:
    """A Gaussian blur of random radius, by Pillow."""
    return image.filter(ImageFilter.GaussianBlur(np.random.uniform(0.1, 2.0)))


def plain_pipeline() -> list[T.Compose]:
    """One transform per crop, everything on PIL images in the worker."""
    jitter = T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8)
    end = [T.ToTensor(), T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    flip, gray = T.RandomHorizontalFlip(), T.RandomGrayscale(0.2)
    solarize = T.RandomSolarize(128, p=0.2)
    global_crop = T.RandomResizedCrop(224, (0.4, 1.0), interpolation=BICUBIC)
    local_crop = T.RandomResizedCrop(96, (0.05, 0.4), interpolation=BICUBIC)
    one = T.Compose([global_crop, flip, jitter, gray, T.RandomApply([T.Lambda(blur)], p=0.2), solarize, *end])
    many = T.Compose([local_crop, flip, jitter, gray, T.RandomApply([T.Lambda(blur)], p=0.5), *end])
    return [one] + [many] * 8


def data_wait_share() -> float:
    """Share of time that two epochs of `small` on the built-in digits wait for data."""
    with tempfile.TemporaryDirectory() as folder:
        config = load_train_config("small", ["optimizer.epochs=1", "optimizer.warmup_epochs=0"])
        train(config, "builtin:mnist", Path(folder) / "run")
        return read_metrics(Path(folder) / "run" / "metrics.jsonl")[-1]["data_wait_share"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=int, default=24, help="samples per round and pipeline")
    args = parser.parse_args()
    torch.set_num_threads(1)
    files, transforms = photos(), plain_pipeline()
    recipe = get_recipe("imagenet-sd")
    cut = MultiCrop(recipe.crops, recipe.photometric, seed=0)

    def ours(number: int) -> None:
        record = LabelledImage(image_id=str(number), label=0, data=files[number % len(files)])
        cut(record.decode(), 0, record.image_id)

    def plain(number: int) -> None:
        image = Image.open(io.BytesIO(files[number % len(files)])).convert("RGB")
        for transform in transforms:
            transform(image)

    samples: dict[str, list[float]] = {"ours": [], "plain": []}
    for round_ in range(args.rounds + 1):
        for name, work in (("ours", ours), ("plain", plain)):
            started = time.perf_counter()
            for number in range(args.samples):
                work(number)
            if round_:  # the first round warms up
                samples[name].append(1000 * (time.perf_counter() - started) / args.samples)
    result = {f"{name}_ms": round(statistics.median(times), 2) for name, times in samples.items()}
    result["ratio"] = round(statistics.median(p / o for p, o in zip(samples["plain"], samples["ours"], strict=True)), 2)
    result["data_wait_share"] = data_wait_share()
    print(json.dumps(result | {"samples": samples}, indent=2))


if __name__ == "__main__":
    main()
