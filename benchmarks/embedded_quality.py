"""What the embedded generator generates, measured with classifiers that have seen real pictures only.

Photographs: for each guidance scale the share of images whose class a small CNN, trained on CIFAR-10's real training
photographs, takes for the one that was asked for; the spread within a class, coverage and recall in the features of
that CNN, against real test photographs. Digits: the same share for an RBF SVM trained on the 4,000 real training
digits. Colour words: how often the measured colour of car, truck or background is the one asked for. Nearest training
photographs beside generated ones, as a picture. Prints Markdown; writes pictures and `quality.json` into a folder.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photo_judge import (
    Judge,
    coverage_and_recall,
    judged,
    load_judge,
    nearest_rows,
    save_grid,
    spread,
)
from sklearn.svm import SVC

from imagenet_sd.core.progress import Progress
from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.core.types import ClassSpec, ImageRequest, Prompt
from imagenet_sd.data.builtin import mnist_digits
from imagenet_sd.data.colours import measure, strongest
from imagenet_sd.data.photos import cifar10
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.loading import load_pipeline
from imagenet_sd.generation.diffusion.options import SamplingOptions
from imagenet_sd.generation.models import EMBEDDED_FOLDER
from imagenet_sd.prompts.build import PromptBuilder
from imagenet_sd.prompts.classes import load_classes
from imagenet_sd.prompts.templates import get_template, load_templates

OBJECT_COLOURS = ("red", "blue", "white", "black", "green")
BACKGROUNDS = ("green", "white", "black")


class Sampler:
    """Generates images of prompts with the embedded model.

    Args:
        folder: the pipeline.
        scale: guidance scale.
        steps: sampling steps.
        scheduler: a scheduler's name, "" for the model's own.
    """

    def __init__(self, folder: Path, scale: float, steps: int, scheduler: str = ""):
        self.generator = ImageGenerator(
            load_pipeline(folder, torch.float32, torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            guidance_scale=scale,
            num_inference_steps=steps,
            width=32,
            height=32,
            batch_size=50,
            options=SamplingOptions(scheduler=scheduler),
        )

    def images(self, texts: Sequence[str], what: str = "images") -> np.ndarray:
        """uint8 [len(texts), 32, 32, 3]; image number i of a text has the same noise in every run."""
        seen: dict[str, int] = {}
        requests = []
        for text in texts:
            seen[text] = seen.get(text, -1) + 1
            prompt = Prompt(prompt_id="", wnid="", class_index=0, template="", background="", text=text)
            seed = stable_hash("quality", text, seen[text])
            requests.append(ImageRequest(image_id=f"{text} {seen[text]}", prompt=prompt, seed=seed))
        parts = []
        with Progress(what, len(requests)) as progress:
            for start in range(0, len(requests), 50):
                parts.append(self.generator.generate(requests[start : start + 50]))
                progress.advance(len(parts[-1]))
        return np.concatenate(parts)


def prompts_of(classes: Sequence[ClassSpec], template: str, per_class: int) -> tuple[list[str], np.ndarray]:
    """Prompts of a template, `per_class` a class, and their classes."""
    builder = PromptBuilder(get_template(template, load_templates()))
    texts = [builder.prompt(spec, index).text for spec in classes for index in range(per_class)]
    return texts, np.repeat([spec.class_index for spec in classes], per_class)


def real_reference(judge: Judge, per_class: int) -> dict[str, Any]:
    """How the judge sees real test photographs, and features of as many of them as will be generated."""
    images, labels = cifar10("test")
    classes, features = judged(judge, images)
    rows = np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in range(10)])
    others = np.concatenate([np.flatnonzero(labels == c)[per_class : 2 * per_class] for c in range(10)])
    coverage, recall = coverage_and_recall(features[rows], features[others])
    return {
        "accuracy": float((classes == labels).mean()),
        "features": features[rows],
        "spread": spread(features[rows], labels[rows]),
        "coverage": coverage,
        "recall": recall,
    }


def photo_row(images: np.ndarray, asked: np.ndarray, judge: Judge, real: dict[str, Any]) -> dict[str, Any]:
    """Agreement (of all, and by class), spread, coverage and recall of generated photographs."""
    classes, features = judged(judge, images)
    coverage, recall = coverage_and_recall(real["features"], features)
    return {
        "agreement": float((classes == asked).mean()),
        "by_class": [float((classes[asked == c] == c).mean()) for c in range(10)],
        "spread": spread(features, asked) / real["spread"],
        "coverage": coverage,
        "recall": recall,
    }


def digit_reader() -> tuple[SVC, float, float]:
    """An SVM trained on real digits, its accuracy on real test digits, and the spread of those."""
    real, labels = mnist_digits("train")
    test, test_labels = mnist_digits("test")
    real, test = (x.reshape(len(x), -1) / 255 for x in (real, test))
    reader = SVC(C=10).fit(real, labels)
    return reader, float(reader.score(test, test_labels)), spread(test, test_labels)


def digit_row(images: np.ndarray, asked: np.ndarray, reader: SVC, reference: float) -> dict[str, float]:
    """Agreement and spread of generated digits."""
    grey = (images[:, 2:30, 2:30].mean(3) / 255).reshape(len(images), -1)
    return {"agreement": float((reader.predict(grey) == asked).mean()), "spread": spread(grey, asked) / reference}


def colour_rows(sampler: Sampler, count: int, judge: Judge) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """For each prompt with a colour word: how often the colour is measured, and some of the images."""
    wanted = [(f"a {colour} {name}", "object", colour, name) for name in ("car", "truck") for colour in OBJECT_COLOURS]
    wanted += [(f"a dog on a {colour} background", "background", colour, "dog") for colour in BACKGROUNDS]
    names = [spec.lemmas[0] for spec in load_classes("photos-10")]
    images = sampler.images([text for text, *_ in wanted for _ in range(count)], "colours")
    rows, pictures = [], []
    for i, (text, kind, colour, name) in enumerate(wanted):
        some = images[i * count : (i + 1) * count]
        seen = [getattr(look, kind) for look in measure(some)]
        tops = [top[kind == "background"] for top in strongest(some)]
        classes, _ = judged(judge, some)
        rows.append(
            {
                "prompt": text,
                "as_asked": seen.count(colour) / count,
                "strongest": tops.count(colour) / count,
                "judged": float((classes == names.index(name)).mean()),
            }
        )
        pictures.append(some[:12])
    return rows, pictures


def copies(images: np.ndarray, folder: Path) -> dict[str, float]:
    """Distances of generated and of real test photographs to their nearest training ones; writes pairs as a picture."""
    train, test = cifar10("train")[0], cifar10("test")[0][:: max(1, 10000 // len(images))][: len(images)]
    rows, gaps = nearest_rows(images, train)
    _, real_gaps = nearest_rows(test, train)
    every = np.linspace(0, len(images) - 1, 24).astype(int)
    closest = gaps.argsort()[:12]
    pairs = [part for some in (every[:12], every[12:], closest) for part in (images[some], train[rows[some]])]
    save_grid(pairs, folder / "nearest.png")
    return {
        "median": float(np.median(gaps)),
        "smallest": float(gaps.min()),
        "median_of_real_test_photos": float(np.median(real_gaps)),
        "smallest_of_real_test_photos": float(real_gaps.min()),
    }


def report(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    real = found["real"]
    lines = [
        f"The judge is right on {real['accuracy']:.1%} of the 10,000 real test photographs, the SVM on "
        f"{found['real_digits']:.1%} of the 1,000 real test digits. Real photographs against other real ones: "
        f"coverage {real['coverage']:.2f}, recall {real['recall']:.2f}.\n",
        "| guidance scale | photographs as asked | spread (real = 1) | coverage | recall | digits as asked | spread |",
        "|---|---|---|---|---|---|---|",
    ]
    for scale, row in found["scales"].items():
        photos, digits = row["photos"], row["digits"]
        lines.append(
            f"| {scale} | {photos['agreement']:.1%} | {photos['spread']:.2f} | {photos['coverage']:.2f} | "
            f"{photos['recall']:.2f} | {digits['agreement']:.1%} | {digits['spread']:.2f} |"
        )
    names = [spec.lemmas[0] for spec in load_classes("photos-10")]
    lines += ["", "| guidance scale | " + " | ".join(names) + " |", "|---" * 11 + "|"]
    for scale, row in found["scales"].items():
        lines.append(f"| {scale} | " + " | ".join(f"{x:.0%}" for x in row["photos"]["by_class"]) + " |")
    for scale, rows in found["colours"].items():
        lines += [
            "",
            f"| prompt, scale {scale} | clearly the colour asked for | its strongest colour | class as asked |",
            "|---|---|---|---|",
        ]
        lines += [f"| {r['prompt']} | {r['as_asked']:.0%} | {r['strongest']:.0%} | {r['judged']:.0%} |" for r in rows]
    if gaps := found.get("nearest"):
        lines.append(
            f"\nNearest training photograph (root mean squared difference of 16x16 pictures, 0 to 255): median "
            f"{gaps['median']:.1f}, smallest {gaps['smallest']:.1f}; of real test photographs "
            f"{gaps['median_of_real_test_photos']:.1f} and {gaps['smallest_of_real_test_photos']:.1f}."
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EMBEDDED_FOLDER, help="folder of the pipeline")
    parser.add_argument("--per-class", type=int, default=100, help="photographs a class")
    parser.add_argument("--digits-per-class", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scheduler", default="", help="one of the generator's schedulers; by default the model's own")
    parser.add_argument("--scales", type=float, nargs="*", default=[1, 2, 4, 7.5])
    parser.add_argument("--colour-scales", type=float, nargs="*", default=[4])
    parser.add_argument("--colours", type=int, default=64, help="images of each prompt with a colour word")
    parser.add_argument("--prompt", default="c")
    parser.add_argument("--out", type=Path, default=Path("build/embedded_quality"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    judge, (reader, digit_accuracy, digit_spread) = load_judge(), digit_reader()
    real = real_reference(judge, args.per_class)
    found: dict[str, Any] = {"scales": {}, "colours": {}, "real_digits": digit_accuracy}
    found["real"] = {key: value for key, value in real.items() if key != "features"}
    found |= {key: getattr(args, key) for key in ("steps", "scheduler", "prompt", "per_class", "digits_per_class")}
    found["images_per_colour"] = args.colours
    photo_texts, photo_classes = prompts_of(load_classes("photos-10"), args.prompt, args.per_class)
    digit_texts, digit_classes = prompts_of(load_classes("digits-10"), args.prompt, args.digits_per_class)
    samples, shown = [], None
    for scale in args.scales:
        sampler = Sampler(args.model, scale, args.steps, args.scheduler)
        images, digits = sampler.images(photo_texts), sampler.images(digit_texts, "digits")
        found["scales"][f"{scale:g}"] = {
            "photos": photo_row(images, photo_classes, judge, real),
            "digits": digit_row(digits, digit_classes, reader, digit_spread),
        }
        samples += [np.concatenate([images[k :: args.per_class], digits[k :: args.digits_per_class]]) for k in range(2)]
        shown = images if scale == 2 or shown is None else shown
    if samples:
        save_grid(samples, args.out / "samples.png", zoom=2)
    for scale in args.colour_scales:
        sampler = Sampler(args.model, scale, args.steps, args.scheduler)
        found["colours"][f"{scale:g}"], pictures = colour_rows(sampler, args.colours, judge)
        save_grid(pictures, args.out / f"colours-{scale:g}.png")
    if shown is not None:
        found["nearest"] = copies(shown, args.out)
    (args.out / "quality.json").write_text(json.dumps(found, indent=2) + "\n")
    print(report(found))


if __name__ == "__main__":
    main()
