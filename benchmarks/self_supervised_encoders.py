"""Encoders trained on real CIFAR-10 photographs for `invariances.py` and `gradient_features.py`: equal steps, seeds.

Both scripts train what they need; runs that are there already are used again, and an interrupted one goes on where it
stopped. `python self_supervised_encoders.py --out OUT --recipe NAME --recipe NAME` trains some of them beforehand, so
that several processes can share the work.
"""

import argparse
from pathlib import Path

from imagenet_sd.data.open import open_images
from imagenet_sd.pipeline import train
from imagenet_sd.study.stages import nearest_epochs
from imagenet_sd.training.config import with_epochs
from imagenet_sd.training.recipes import load_train_config


def options(description: str | None) -> argparse.ArgumentParser:
    """The options that both scripts share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of runs, features and results")
    parser.add_argument("--method", default="mocov2-small", help="recipe without labels, of the default family")
    parser.add_argument("--data", default="builtin:cifar10", help="data spec")
    parser.add_argument("--train-images", type=int, default=1000, help="training photographs per class")
    parser.add_argument("--steps", type=int, default=1500, help="optimiser steps of every run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        help="a training setting, such as model.small_images=false",
    )
    return parser


def trained(args: argparse.Namespace, recipe: str, seed: int) -> Path:
    """The folder of a finished run of a recipe."""
    run = args.out / "runs" / f"{recipe}-seed{seed}"
    data = f"{args.data}@per_class={args.train_images}"
    config = load_train_config(recipe, [f"seed={seed}", *args.settings])
    count = sum(open_images(data, "train").group_sizes)
    config = with_epochs(config, nearest_epochs(args.steps, count, config.optimizer.batch_size))
    result = train(config, data, run)
    if not result["finished"]:
        raise SystemExit("interrupted; run the same command again to go on")
    return run


def main() -> None:
    """Train the named recipes with every seed."""
    parser = options(__doc__)
    parser.add_argument("--recipe", dest="recipes", action="append", required=True, help="a recipe; repeatable")
    args = parser.parse_args()
    for seed in range(args.seeds):
        for recipe in args.recipes:
            print(trained(args, recipe, seed), flush=True)


if __name__ == "__main__":
    main()
