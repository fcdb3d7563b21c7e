"""Encoders trained on real CIFAR-10 photographs for `invariances.py` and `gradient_features.py`: equal steps, seeds.

Both scripts train what they need; runs that are there already are used again, and an interrupted one goes on where it
stopped. `python self_supervised_encoders.py --out OUT --recipe NAME --recipe NAME` trains some of them beforehand
(`random`: weights without learning), so that several processes can share the work.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from imagenet_sd.pipeline import train
from imagenet_sd.study.stages import nearest_epochs
from imagenet_sd.training.config import with_epochs
from imagenet_sd.training.recipes import load_train_config

BATCH = 128
"""Images per step of the `-small` recipes."""


def options(description: str | None) -> argparse.ArgumentParser:
    """The options that both scripts share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of runs, features and results")
    parser.add_argument("--method", default="mocov2-small", help="recipe without labels, of the default family")
    parser.add_argument("--data", default="builtin:cifar10", help="data spec")
    parser.add_argument("--train-images", type=int, default=1000, help="training photographs in each of ten classes")
    parser.add_argument("--steps", type=int, default=780, help="optimiser steps of every run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        help="a training setting, such as model.small_images=false",
    )
    return parser


RANDOM = "random"
"""Stands for a recipe: the supervised one without learning, so that batch norms have the statistics of the data."""


def trained(args: argparse.Namespace, recipe: str, seed: int) -> Path:
    """The folder of a finished run of a recipe, or of random weights."""
    run = args.out / "runs" / f"{recipe}-seed{seed}"
    data = f"{args.data}@per_class={args.train_images}"
    settings, epochs = [f"seed={seed}", *args.settings], 1
    if recipe == RANDOM:
        recipe = "supervised-small"
        settings += ["optimizer.base_lr=1e-12", "optimizer.warmup_epochs=0", "model.zero_init_last=false"]
    else:
        epochs = num_epochs(args)
    config = with_epochs(load_train_config(recipe, settings), epochs)
    result = train(config, data, run)
    if not result["finished"]:
        raise SystemExit("interrupted; run the same command again to go on")
    return run


def num_epochs(args: argparse.Namespace) -> int:
    """Whole epochs that are nearest to the steps asked for."""
    return nearest_epochs(args.steps, args.train_images * 10, BATCH)


def steps(args: argparse.Namespace) -> int:
    """The optimiser steps that a run takes."""
    return num_epochs(args) * (args.train_images * 10 // BATCH)


def training(args: argparse.Namespace) -> str:
    """What a page says of the encoders."""
    return (
        f"Encoders (ResNet-10 on 32 pixels) trained on {10 * args.train_images:,} real CIFAR-10 photographs with "
        f"{steps(args):,} steps of {BATCH}"
    )


def same_settings(found: object, args: argparse.Namespace) -> bool:
    """Whether results were made with these settings, whatever their number of seeds and their page."""
    return isinstance(found, dict) and all(
        found.get(key) == value for key, value in plain(args).items() if key not in ("seeds", "page")
    )


def plain(args: argparse.Namespace) -> dict[str, Any]:
    """The settings as JSON has them."""
    return json.loads(json.dumps({key: value for key, value in vars(args).items() if key != "out"}, default=str))


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
