"""What encoders keep: invariances and linear read-outs of three augmentation families, each alone and fused.

Trains on real CIFAR-10 photographs, with equal steps and over several seeds: one method without labels with the
default, the spatial and the appearance family, and with labels; beside them random weights. Then, on test photographs:

- invariance to every transformation (cosine of whitened features, Mahalanobis distance),
- read-outs of the class (logistic regression), of mean hue and of an applied rotation (ridge regression), for each
  encoder and for the raw features of spatial + appearance and of default + spatial + appearance side by side.

Writes invariances.json and a page in Markdown, with the orderings of Ericsson et al. (2022) beside ours.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from self_supervised_encoders import RANDOM, options, plain, same_settings, steps, trained, training

from imagenet_sd.core.files import read_json, write_json
from imagenet_sd.evaluation.config import EvalConfig
from imagenet_sd.evaluation.transformations import TRANSFORMATIONS
from imagenet_sd.pipeline import evaluate

FAMILIES = ("default", "spatial", "appearance")
FUSIONS = (("spatial", "appearance"), ("default", "spatial", "appearance"))
TARGETS = ("class", "hue", "rotation")
GROUPS = {  # mean cosine over these
    "spatial": [t.name for t in TRANSFORMATIONS.values() if t.family == "spatial"],
    "appearance": [t.name for t in TRANSFORMATIONS.values() if t.family == "appearance"],
    "colour (hue, saturation, grayscale)": ["hue", "saturation", "grayscale"],
    "crops (resized_crop, translation, scale)": ["resized_crop", "translation", "scale"],
}
COLOUR, CROPS = list(GROUPS)[2:]
ORDERINGS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    # claim -> a target or a group, and encoders: each of a part above each of the next
    "the spatial family is the most invariant to spatial changes": (
        "spatial",
        (("spatial",), ("default", "appearance")),
    ),
    "the appearance family is the most invariant to appearance": (
        "appearance",
        (("appearance",), ("default", "spatial")),
    ),
    "the spatial family is the least invariant to colour": (COLOUR, (("default", "appearance"), ("spatial",))),
    "the appearance family is the least invariant to crops": (CROPS, (("default", "spatial"), ("appearance",))),
    "class: default and supervised above spatial, spatial above appearance": (
        "class",
        (("default", "supervised"), ("spatial",), ("appearance",)),
    ),
    "colour is read out of spatial better than out of appearance": ("hue", (("spatial",), ("appearance",))),
    "pose (here: rotation) is read out of appearance better than out of spatial": (
        "rotation",
        (("appearance",), ("spatial",)),
    ),
}
Found = dict[str, dict[str, list[float]]]
"""Encoder, or encoders with + between -> measure -> value per seed."""


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--strengths", type=int, default=16)
    parser.add_argument("--images", type=int, default=1000, help="photographs that are transformed")
    parser.add_argument("--read-images", type=int, default=200, help="photographs per class to fit read-outs on")
    parser.add_argument("--page", type=Path, help="Markdown page; by default invariances.md in the folder")
    args = parser.parse_args()
    found: Found = defaultdict(lambda: defaultdict(list))
    done, path = 0, args.out / "invariances.json"
    if path.exists() and same_settings((kept := read_json(path)).get("settings"), args):
        for name, values in kept["encoders"].items():
            found[name].update(values)
        done = len(found["default"]["class"])
    for seed in range(done, args.seeds):
        measure(args, seed, found)
        write_json(path, {"settings": plain(args), "steps": steps(args), "encoders": found})
        print(f"seed {seed} is done", flush=True)
    page = args.page or args.out / "invariances.md"
    page.write_text(as_markdown(found, args), encoding="utf-8")


def measure(args: argparse.Namespace, seed: int, found: Found) -> None:
    """All encoders of one seed; values are appended to `found` by encoder and measure."""
    runs = {family: args.method + ("" if family == "default" else f"-{family}") for family in FAMILIES}
    runs |= {"supervised": "supervised-small", "random": RANDOM}
    encoders = {name: str(trained(args, recipe, seed)) for name, recipe in runs.items()}
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


def group_means(values: Mapping[str, list[float]], group: str) -> np.ndarray:
    """Mean cosine over the transformations of a group, one number per seed."""
    return np.mean([values[f"cosine {name}"] for name in GROUPS[group]], axis=0)


def as_markdown(found: Mapping[str, Mapping[str, list[float]]], args: argparse.Namespace) -> str:
    """The tables, and each claim of the poster with what came here."""
    alone = [name for name in found if " + " not in name]
    count = len(found[alone[0]]["class"])

    def transformations(measure_: str, digits: int) -> Iterable[list[str]]:
        for each in TRANSFORMATIONS.values():
            cells = (_shown(found[name][f"{measure_} {each.name}"], digits) for name in alone)
            yield [f"{each.name} ({each.family})", *cells]

    lines = [
        "# What encoders keep",
        "",
        f"{training(args)}: {args.method}, its spatial and appearance families, with labels, and random weights. "
        f"{count} seeds, mean ± population standard deviation. Read-outs are fitted on training photographs that the "
        "encoders have seen, and tested on others. The small recipes train without blur.",
        "",
        f"## Invariance: cosine of whitened features (1: invariant), {args.images} test photographs, "
        f"{args.strengths} strengths",
        "",
        *_table(["cosine under", *alone], transformations("cosine", 3)),
        *(
            _row([f"**mean, {group}**", *(_shown(group_means(found[name], group)) for name in alone)])
            for group in GROUPS
        ),
        "",
        "## Mahalanobis distance (0: invariant)",
        "",
        *_table(["distance under", *alone], transformations("distance", 2)),
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
        *_table(["claim", "here", "holds for the mean", "holds for seeds"], _orderings(found)),
        "",
    ]
    return "\n".join(lines)


def _orderings(found: Mapping[str, Mapping[str, list[float]]]) -> Iterable[list[str]]:
    for claim, (measure_, parts) in ORDERINGS.items():
        values = {
            name: group_means(found[name], measure_) if measure_ in GROUPS else np.array(found[name][measure_])
            for part in parts
            for name in part
        }
        holds = ordered(values, parts)
        mean_holds = ordered({name: each.mean(keepdims=True) for name, each in values.items()}, parts).item()
        here = ", ".join(f"{name} {_shown(each)}" for name, each in values.items())
        yield [claim, here, "yes" if mean_holds else "no", f"{int(holds.sum())} of {len(holds)}"]
    ranks = worst_ranks(found)
    fused = " + ".join(FUSIONS[-1])
    here = "; ".join(f"{name} {rank}" for name, rank in sorted(ranks.items(), key=lambda item: item[1]))
    yield [
        "the fusion of all three is the most consistent: its worst rank over the targets is the best",
        here,
        "yes" if ranks[fused] == min(ranks.values()) else "no",
        "",
    ]


def ordered(values: Mapping[str, np.ndarray], parts: tuple[tuple[str, ...], ...]) -> np.ndarray:
    """Whether each encoder of a part is above each of the next, per seed: bool [seeds]."""
    low = [np.min([values[name] for name in part], axis=0) for part in parts]
    high = [np.max([values[name] for name in part], axis=0) for part in parts]
    return np.all([a > b for a, b in zip(low, high[1:], strict=False)], axis=0)


def worst_ranks(found: Mapping[str, Mapping[str, list[float]]]) -> dict[str, int]:
    """The worst rank of each encoder and fusion over the targets, by the means; 1 is the best."""
    means = {name: [float(np.mean(values[target])) for target in TARGETS] for name, values in found.items()}
    return {
        name: max(1 + sum(other[k] > own[k] for other in means.values()) for k in range(len(TARGETS)))
        for name, own in means.items()
    }


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


if __name__ == "__main__":
    main()
