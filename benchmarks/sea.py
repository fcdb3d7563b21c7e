"""SeA against other augmentations on real features (section 4.1 and Tab. 5 of the paper), over five seeds.

Features: those of an encoder trained for two epochs on the built-in MNIST digits, or of a run folder of yours, for the
digits of scikit-learn, another source (599 test images). Every direction gets the same number of trials, over the
grids of the paper, on a validation split. Prints a Markdown table: mean and population deviation of top-1.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from imagenet_sd.data.open import open_images
from imagenet_sd.evaluation.analysis import unit
from imagenet_sd.evaluation.config import Augmentation, EvalConfig, SeaSettings
from imagenet_sd.evaluation.encoders import Encoder, weights_hash
from imagenet_sd.evaluation.features import extract
from imagenet_sd.evaluation.probes.search import SearchSettings, fit_sea, stratified_split
from imagenet_sd.pipeline import train
from imagenet_sd.training.export import load_run
from imagenet_sd.training.recipes import load_train_config

NAMES: dict[Augmentation, str] = {
    "none": "none", "isda": "ISDA", "me_ada": "ME-ADA", "adv": "Adv", "sea_neg": "SeA_Neg", "rand": "Rand",
    "mixup": "manifold mixup", "sea": "SeA",
}  # fmt: skip
ETAS = {"sea": (0.2, 0.4, 0.8, 1.0)}  # section 4.1 has one grid for all but Adv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a finished run folder")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--train-images", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = args.run or Path(folder) / "run"
        if args.run is None:
            train(load_train_config("small", ["optimizer.epochs=2"]), "builtin:mnist", run)
        module, _, _, crop_size = load_run(run)
        encoder = Encoder(name="run", module=module, fingerprint=weights_hash(module), crop_size=crop_size)
        config = EvalConfig(crop_size=crop_size)
        sets = [extract(encoder, open_images("builtin:digits", s), config, Path(folder)) for s in ("train", "test")]
    (x, y), (test, labels) = ((s.data.features, s.data.labels) for s in sets)
    rows = np.random.default_rng(0).permutation(len(x))[: args.train_images]
    x, y, test = x[rows], y[rows], unit(test)
    print(f"{len(x)} training and {len(test)} test images, {args.trials} trials, 5 seeds\n")
    print("| direction | top-1 | sd |\n|---|---|---|")
    for kind, name in NAMES.items():
        accuracies = []
        for seed in range(5):
            split = stratified_split(y, 0.2, "sea", seed)
            settings = SearchSettings(sea=SeaSettings(augmentation=kind, eta=ETAS.get(kind, ())))
            scores, _ = fit_sea(x, y, 10, split, args.trials, seed, settings)
            accuracies.append(float((scores(test).argmax(1) == labels).mean()))
        print(f"| {name} | {np.mean(accuracies):.2%} | {np.std(accuracies):.2%} |", flush=True)


if __name__ == "__main__":
    main()
