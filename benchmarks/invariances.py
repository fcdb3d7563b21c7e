"""What encoders keep: invariances and linear read-outs of three augmentation families, each alone and fused.

Trains on real CIFAR-10 photographs, with equal steps and over several seeds: one method without labels with the
default, the spatial and the appearance family, and with labels; beside them random weights. Then, on test photographs:

- invariance to every transformation (cosine of whitened features, Mahalanobis distance),
- read-outs of the class (logistic regression), of mean hue and of an applied rotation (ridge regression), for each
  encoder and for the raw features of spatial + appearance and of default + spatial + appearance side by side.

Writes invariances.json and a page in Markdown, with the orderings of Ericsson et al. (2022) beside ours.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from self_supervised_encoders import options, trained

from imagenet_sd.core.files import write_json
from imagenet_sd.evaluation.config import EvalConfig
from imagenet_sd.evaluation.transformations import TRANSFORMATIONS
from imagenet_sd.pipeline import evaluate

FAMILIES = ("default", "spatial", "appearance")
FUSIONS = (("spatial", "appearance"), ("default", "spatial", "appearance"))
TARGETS = ("class", "hue", "rotation")
ORDERINGS = {  # claim of the poster -> (what it says of ours, the greater thing first)
    "the spatial family is the most invariant to spatial changes": ("spatial", ("spatial", "default", "appearance")),
    "the appearance family is the most invariant to appearance": ("appearance", ("appearance", "default", "spatial")),
    "default reads out classes better than spatial, spatial better than appearance": (
        "class",
        ("default", "spatial", "appearance"),
    ),
    "spatial reads out colour better than appearance": ("hue", ("spatial", "appearance")),
    "appearance reads out pose (here: rotation) better than spatial": ("rotation", ("appearance", "spatial")),
}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--strengths", type=int, default=16)
    parser.add_argument("--images", type=int, default=1000, help="photographs that are transformed")
    parser.add_argument("--read-images", type=int, default=200, help="photographs per class to fit read-outs on")
    parser.add_argument("--page", type=Path, help="Markdown page; by default invariances.md in the folder")
    args = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(args.seeds):
        measure(args, seed, found)
        write_json(args.out / "invariances.json", {"settings": _plain(vars(args)), "encoders": found})
        page = args.page or args.out / "invariances.md"
        page.write_text(as_markdown(found, args), encoding="utf-8")
        print(f"seed {seed} is done: {page}", flush=True)


def measure(args: argparse.Namespace, seed: int, found: dict[str, dict[str, list[float]]]) -> None:
    """All encoders of one seed; values are appended to `found` by encoder and measure."""
    runs = {family: args.method + ("" if family == "default" else f"-{family}") for family in FAMILIES}
    runs |= {"supervised": "supervised-small"}
    encoders = {name: str(trained(args, recipe, seed)) for name, recipe in runs.items()}
    if seed == 0:  # untrained weights are made with one seed
        encoders["random"] = "timm:resnet10t@random"
    for name, encoder in encoders.items():
        config = EvalConfig(suite="invariance", crop_size=32, strengths=args.strengths, measured_images=args.images)
        document = evaluate(encoder, {"photos": f"{args.data}@per_class=500"}, config, cache=args.out / "features")
        for row in document["results"]:
            found[name][f"cosine {row['transformation']}"].append(row["cosine"])
            found[name][f"distance {row['transformation']}"].append(row["distance"])
    for names in [*((name,) for name in encoders), *FUSIONS]:
        config = EvalConfig(suite="readout", crop_size=32, targets=",".join(TARGETS), fusion="raw")
        joined = "+".join(encoders[name] for name in names)
        data = {"photos": f"{args.data}@per_class={args.read_images}"}
        for row in evaluate(joined, data, config, cache=args.out / "features")["results"]:
            target = "class" if row["dataset"] == "photos" else row["dataset"].removeprefix("photos-")
            found[" + ".join(names)][target].append(row["top1"] if target == "class" else row["r2"])


def family_means(values: Mapping[str, list[float]], family: str) -> np.ndarray:
    """Mean cosine over the transformations of a family, one number per seed."""
    rows = [values[f"cosine {t.name}"] for t in TRANSFORMATIONS.values() if t.family == family]
    return np.mean(rows, axis=0)


def as_markdown(found: Mapping[str, Mapping[str, list[float]]], args: argparse.Namespace) -> str:
    """The tables, and each claim of the poster with what came here."""
    alone = [name for name in found if " + " not in name]
    count = len(found[alone[0]]["class"])
    lines = [
        "# What encoders keep",
        "",
        f"Encoders trained on {10 * args.train_images:,} real CIFAR-10 photographs with {args.steps:,} steps each "
        f"({args.method}, its families, and with labels), {count} seeds: mean ± population standard deviation.",
        "",
        f"## Invariance: cosine of whitened features (1: invariant), {args.images} test photographs, "
        f"{args.strengths} strengths",
        "",
        *_table(
            ["transformation", *alone],
            (
                [f"{t.name} ({t.family})", *(_shown(found[name][f"cosine {t.name}"]) for name in alone)]
                for t in TRANSFORMATIONS.values()
            ),
        ),
        *(
            _row([f"**mean, {family}**", *(_shown(family_means(found[name], family)) for name in alone)])
            for family in ("spatial", "appearance")
        ),
        "",
        "## Mahalanobis distance (0: invariant)",
        "",
        *_table(
            ["transformation", *alone],
            (
                [f"{t.name} ({t.family})", *(_shown(found[name][f"distance {t.name}"], 2) for name in alone)]
                for t in TRANSFORMATIONS.values()
            ),
        ),
        "",
        f"## Read-outs from {10 * args.read_images:,} photographs, tested on as many",
        "",
        *_table(
            ["features", "class, top-1", "hue, R²", "rotation, R²"],
            ([name, *(_shown(values[target]) for target in TARGETS)] for name, values in found.items()),
        ),
        "",
        "## The poster's orderings",
        "",
        *_table(["poster", "here", "holds for the mean", "holds for seeds"], _orderings(found)),
        "",
    ]
    return "\n".join(lines)


def _orderings(found: Mapping[str, Mapping[str, list[float]]]) -> Iterable[list[str]]:
    for claim, (measure_, order) in ORDERINGS.items():
        value: Callable[[str], np.ndarray] = (
            (lambda name, m=measure_: family_means(found[name], m))
            if measure_ in ("spatial", "appearance")
            else (lambda name, m=measure_: np.array(found[name][m]))
        )
        values = np.stack([value(name) for name in order])
        holds = (np.diff(values, axis=0) < 0).all(0)
        mean_holds = bool((np.diff(values.mean(1)) < 0).all())
        here = ", ".join(f"{name} {_shown(each)}" for name, each in zip(order, values, strict=True))
        yield [claim, here, "yes" if mean_holds else "no", f"{int(holds.sum())} of {len(holds)}"]
    best = {t: max(found, key=lambda name: np.mean(found[name][t]) if found[name][t] else -np.inf) for t in TARGETS}
    fused = " + ".join(FUSIONS[-1])
    wins = [target for target in TARGETS if best[target] == fused]
    yield [
        "the fusion of all three is the most consistent",
        "; ".join(f"{target}: best is {name}" for target, name in best.items()),
        f"best in {len(wins)} of {len(TARGETS)}",
        "",
    ]


def _shown(values: Iterable[float], digits: int = 3) -> str:
    array = np.asarray(list(values), float)
    if not len(array):
        return "-"
    spread = f" ± {array.std():.{digits}f}" if len(array) > 1 else ""
    return f"{array.mean():.{digits}f}{spread}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(columns: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [_row(columns), _row(["---"] + ["---:"] * (len(columns) - 1)), *map(_row, rows)]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values, default=str))


if __name__ == "__main__":
    main()
