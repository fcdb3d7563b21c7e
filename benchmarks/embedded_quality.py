"""What the embedded model generates, measured with a classifier that has seen real digits only.

For each prompt kind and guidance scale: the share of images that an RBF SVM, trained on the 4,000 real training digits,
reads as the class that was asked for; and the spread within a class (root mean squared distance of an image from the
mean of its class, in pixels, over that of real test digits). Prints a Markdown table.
"""

import argparse

import numpy as np
import torch
from sklearn.svm import SVC

from imagenet_sd.core.progress import Progress
from imagenet_sd.data.builtin import mnist_digits
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.loading import load_pipeline
from imagenet_sd.generation.models import EMBEDDED_FOLDER, ModelIdentity
from imagenet_sd.generation.plan import make_plan


def spread(images: np.ndarray, labels: np.ndarray) -> float:
    """Root mean squared distance of float images [N, D] from their class means."""
    distances = [((images[labels == c] - images[labels == c].mean(0)) ** 2).sum(1) for c in range(10)]
    return float(np.sqrt(np.concatenate(distances).mean()))


def generate(prompt: str, scale: float, steps: int, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey images float [N, 784] in [0, 1] and the labels that were asked for."""
    config = GenerationConfig(model="embedded", prompt=prompt, guidance_scale=scale, images_per_class=per_class, seed=1)
    plan, _ = make_plan(config, ModelIdentity(model_id="embedded"))
    generator = ImageGenerator(
        load_pipeline(EMBEDDED_FOLDER, torch.float32, torch.device("cpu")),
        guidance_scale=scale,
        num_inference_steps=steps,
        width=32,
        height=32,
        batch_size=50,
    )
    requests = [request for shard in plan.shards() for request in plan.requests(shard)]
    images = []
    with Progress("images", len(requests)) as progress:
        for start in range(0, len(requests), 50):
            images.append(generator.generate(requests[start : start + 50]))
            progress.advance(len(images[-1]))
    grey = np.concatenate(images)[:, 2:30, 2:30].mean(3) / 255
    return grey.reshape(len(grey), -1), np.array([request.prompt.class_index for request in requests])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-class", type=int, default=50)
    parser.add_argument("--steps", type=int, nargs="+", default=[20])
    parser.add_argument("--scales", type=float, nargs="+", default=[1, 2, 4, 7.5])
    parser.add_argument("--prompts", nargs="+", default=["c", "c_hc", "c_dc"])
    args = parser.parse_args()
    real, labels = mnist_digits("train")
    test, test_labels = mnist_digits("test")
    real, test = (x.reshape(len(x), -1) / 255 for x in (real, test))
    classifier = SVC(C=10).fit(real, labels)
    reference = spread(test, test_labels)
    print(f"the classifier reads {classifier.score(test, test_labels):.1%} of the 1,000 held-out real digits\n")
    print(
        "| prompt | guidance scale | steps | read as asked | spread within a class (real = 1) |\n|---|---|---|---|---|"
    )
    for steps in args.steps:
        for prompt in args.prompts:
            for scale in args.scales:
                images, asked = generate(prompt, scale, steps, args.per_class)
                agreement = (classifier.predict(images) == asked).mean()
                print(
                    f"| {prompt} | {scale:g} | {steps} | {agreement:.1%} | {spread(images, asked) / reference:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
