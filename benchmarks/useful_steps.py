"""How few steps are too few: the share of digits that are read as asked for, by scheduler, guidance scale and steps.

The embedded model generates digits (`digits-10`), and an RBF SVM that has seen real training digits only reads them.
Prints one row for each scheduler and scale, and the fewest steps from which on 95% are read as asked for: those of
`FEWEST_STEPS` in `imagenet_sd/generation/diffusion/schedulers.py`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.svm import SVC

from imagenet_sd.core.types import ImageRequest
from imagenet_sd.data.builtin import mnist_digits
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.loading import load_pipeline, set_up_cpu_worker
from imagenet_sd.generation.diffusion.options import SamplingOptions
from imagenet_sd.generation.diffusion.schedulers import SCHEDULERS
from imagenet_sd.generation.models import EMBEDDED_FOLDER
from imagenet_sd.prompts.build import build_prompts
from imagenet_sd.prompts.classes import load_classes
from imagenet_sd.prompts.templates import load_templates

ENOUGH = 0.95


def shares(
    model: Path, scheduler: str, scale: float, steps: list[int], requests: list[ImageRequest], judge: SVC
) -> list[float]:
    """Share of the images read as asked for, for each number of steps."""
    asked, found = np.array([request.prompt.class_index for request in requests]), []
    for number in steps:
        generator = ImageGenerator(
            load_pipeline(model, torch.float32, torch.device("cpu")),
            guidance_scale=scale,
            num_inference_steps=number,
            width=32,
            height=32,
            batch_size=len(requests),
            options=SamplingOptions(scheduler=scheduler),
        )
        grey = generator.generate(requests).mean(3)[:, 2:30, 2:30].reshape(len(requests), -1) / 255
        found.append(float((judge.predict(grey) == asked).mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=EMBEDDED_FOLDER, help="a folder whose model knows the digits")
    parser.add_argument("--images-per-class", type=int, default=10)
    parser.add_argument("--schedulers", nargs="+", choices=list(SCHEDULERS), default=list(SCHEDULERS))
    parser.add_argument("--scales", nargs="+", type=float, default=[2.0, 7.5])
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 3, 4, 6, 8, 10, 12, 15, 20])
    options = parser.parse_args()
    set_up_cpu_worker()
    real, labels = mnist_digits("train")
    judge = SVC(C=10).fit(real.reshape(len(real), -1) / 255, labels)
    prompts = build_prompts(
        load_classes("digits-10"), load_templates()["c_dc"], images_per_class=options.images_per_class
    )
    requests = [ImageRequest(image_id=str(i), prompt=prompt, seed=i) for i, prompt in enumerate(prompts)]
    print(f"| scheduler | scale | {' | '.join(map(str, options.steps))} | fewest |")
    print("|---" * (len(options.steps) + 3) + "|")
    for scheduler in options.schedulers:
        for scale in options.scales:
            found = shares(options.model, scheduler, scale, options.steps, requests, judge)
            good = [n for k, n in enumerate(options.steps) if min(found[k:]) >= ENOUGH]
            row = " | ".join(f"{share:.0%}" for share in found)
            print(f"| {scheduler} | {scale:g} | {row} | {good[0] if good else 'none'} |", flush=True)


if __name__ == "__main__":
    main()
