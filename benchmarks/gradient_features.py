"""Gradient features on real CIFAR-10 photographs, as Tab. 1 of the paper has them: several seeds, equal steps.

For an encoder trained without labels and one trained with them (the runs of `invariances.py`, where they are in the
same folder), with theta2 = one, two and three of the last stages: activations alone, gradient features, the controls
with random omega, theta2 and theta1, and fine-tuning. Every model takes the same number of steps from the same logistic
regression. Writes gradient_features.json and a page in Markdown, with the paper's numbers beside ours.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from self_supervised_encoders import options, plain, same_settings, steps, trained, training

from imagenet_sd.core.files import read_json, write_json
from imagenet_sd.evaluation.config import EvalConfig
from imagenet_sd.pipeline import evaluate

THETA2 = ("layer4", "layer3,layer4", "layer2,layer3,layer4")
ROWS = {  # probe -> its title, and Tab. 1 for conv5, conv4-5, conv3-5 of a BiGAN encoder
    "gradient-start": ("logistic regression (the start)", (63.38, 63.38, 63.38)),
    "gradient-activations": ("activations alone, the same steps", None),
    "gradient": ("gradient features", (70.21, 70.74, 71.30)),
    "gradient-random-omega": ("random omega", (68.89, 69.83, 70.30)),
    "gradient-random-theta2": ("random theta2", (69.11, 67.10, 62.62)),
    "gradient-random-theta1": ("random theta1", (64.38, 64.31, 64.13)),
    "gradient-fine-tuned": ("fine-tuned", (72.27, 74.16, 77.14)),
}
Found = dict[str, dict[str, dict[str, list[float]]]]
"""Encoder -> theta2 -> probe -> top-1 per seed."""


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--probe-images", type=int, default=500, help="photographs per class to train on, and to test on"
    )
    parser.add_argument("--gradient-steps", type=int, default=1000, help="steps of every model")
    parser.add_argument("--theta2", nargs="+", default=list(THETA2), help="blocks, the last one first")
    parser.add_argument("--training", choices=["paper", "code"], default="paper")
    parser.add_argument("--plain", action="store_true", help="without the NTK parametrisation of paper and code")
    parser.add_argument("--page", type=Path, help="Markdown page; by default gradient_features.md in the folder")
    args = parser.parse_args()
    found: Found = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    path = args.out / "gradient_features.json"
    if path.exists() and same_settings((kept := read_json(path)).get("settings"), args):
        for name, columns in kept["encoders"].items():
            for blocks, values in columns.items():
                found[name][blocks].update(values)
    for seed in range(args.seeds):
        for name, recipe in (("without labels", args.method), ("with labels", "supervised-small")):
            for blocks in args.theta2:
                if len(found[name][blocks]["gradient"]) <= seed:
                    measure(args, str(trained(args, recipe, seed)), blocks, seed, found[name][blocks])
                    write_json(path, {"settings": plain(args), "steps": steps(args), "encoders": found})
        page = args.page or args.out / "gradient_features.md"
        page.write_text(as_markdown(found, args), encoding="utf-8")
        print(f"seed {seed} is done: {page}", flush=True)


def measure(args: argparse.Namespace, encoder: str, blocks: str, seed: int, found: dict[str, list[float]]) -> None:
    """One encoder with one theta2; the seed is that of the training and of the probe."""
    config = EvalConfig(
        probe="gradient",
        blocks=blocks,
        controls="all",
        gradient_steps=args.gradient_steps,
        gradient_training=args.training,
        ntk=not args.plain,
        crop_size=32,
        seeds=(seed,),
        trials=15,
    )
    data = {"photos": f"{args.data}@per_class={args.probe_images}"}
    for row in evaluate(encoder, data, config, cache=args.out / "features")["results"]:
        found[row["probe"]].append(row["top1"])


def as_markdown(found: Mapping[str, Mapping[str, Mapping[str, list[float]]]], args: argparse.Namespace) -> str:
    """One table per encoder, and the gain over activations, by seed."""
    count = min(len(values["gradient"]) for columns in found.values() for values in columns.values())
    ntk = "without" if args.plain else "with"
    lines = [
        "# Gradient features",
        "",
        f"{training(args)}; probes on {10 * args.probe_images:,} of these photographs, tested on as many others, with "
        f"{args.gradient_steps:,} steps of each model ({args.training}'s optimisers, {ntk} the NTK parametrisation). "
        f"Top-1 in percent, mean ± population standard deviation over {count} seeds; in brackets the paper's Tab. 1 (a "
        "BiGAN encoder, 50,000 photographs).",
    ]
    for encoder, columns in found.items():
        lines += ["", f"## Trained {encoder}", "", f"| trained {encoder} | {' | '.join(columns)} |"]
        lines.append("|---|" + "---:|" * len(columns))
        for probe, (title, paper) in ROWS.items():
            cells = [
                _shown(values[probe]) + (f" ({paper[k]:.2f})" if paper else "")
                for k, values in enumerate(columns.values())
            ]
            lines.append(f"| {title} | {' | '.join(cells)} |")
        for than, title in (("activations", "activations"), ("start", "the logistic regression")):
            gains = [np.subtract(values["gradient"], values[f"gradient-{than}"]) for values in columns.values()]
            lines.append(f"| **gain over {title}** | {' | '.join(_shown(gain) for gain in gains)} |")
    return "\n".join([*lines, ""])


def _shown(values: list[float] | np.ndarray) -> str:
    array = 100 * np.asarray(values, float)
    return f"{array.mean():.2f} ± {array.std():.2f}" if len(array) else "-"


if __name__ == "__main__":
    main()
