"""What a report is made of, and how `results.json` and `study.json` become it.

All accuracies are fractions in [0, 1]. Knows nothing of pages and plots.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imagenet_sd.report.checks import Record, ReportError, clean, inside, read_object

TRANSFER = ("aircraft", "cars196", "dtd", "eurosat", "flowers", "pets", "food101", "sun397", "inat18", "inat19")
"""The ten transfer sets of Tab. 5.3, as the suites call them, in its order."""
_LEVEL = re.compile(r"(?:.*-)?L[1-5]")
_SUITES = ("imagenet", "transfer", "fewshot", "analysis", "cog")
_MEASURES = ("sparsity", "intra_class_distance", "redundancy", "coding_length", "coding_length_per_sample")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """One misclassified test image: its name, true class and predicted class (class ids)."""

    image: str
    wnid: str
    predicted: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One classifier on one test set. None: not measured."""

    dataset: str
    split: str
    probe: str
    suite: str
    top1: float
    top5: float | None = None
    mean_per_class: float | None = None
    log_odds: float | None = None
    interval: tuple[float, float] | None = None
    top1_sd: float | None = None
    num_test: int | None = None
    num_classes: int | None = None
    masked: bool = False
    seeds: int = 0
    per_class: Mapping[str, float] = field(default_factory=dict)
    worst: tuple[Mistake, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """Data set, split and probe: what makes two scores comparable."""
        return self.dataset, self.split, self.probe

    @property
    def kind(self) -> str:
        """`training`: the encoder's own classifier; `transfer`: a probe on other data; `other`: few-shot, episodes."""
        if self.suite in ("transfer", "cog"):
            return "transfer"
        return "other" if self.suite == "fewshot" else "training"


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """The feature measures of one encoder on one data set (Fig. 5.6)."""

    dataset: str
    sparsity: float
    intra_class_distance: float
    redundancy: float
    coding_length: float
    coding_length_per_sample: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """One `results.json`."""

    file: Path
    encoder: str
    fingerprints: tuple[str, ...]
    suite: str
    scores: tuple[Score, ...]
    analyses: tuple[Analysis, ...]
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """One dataset folder: what its `dataset.json` says."""

    path: Path
    name: str
    document: Mapping[str, Any]
    facts: Mapping[str, str]
    factors: Mapping[str, Any]
    class_list: str
    names: Mapping[str, str]
    num_images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run folder of `train`."""

    path: Path
    name: str
    data: str
    facts: Mapping[str, str]
    factors: Mapping[str, Any]
    classes: frozenset[str]
    score: Score | None
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """One encoder with all that was measured on it.

    `factors` may hold prompt, guidance_scale, num_inference_steps, multiple, augmentation, data and seed, and whatever
    else a study varied. `num_images`: images that it was trained on; None where nobody says.
    """

    name: str
    study: str = ""
    factors: Mapping[str, Any] = field(default_factory=dict)
    scores: tuple[Score, ...] = ()
    analyses: tuple[Analysis, ...] = ()
    dataset: Dataset | None = None
    run: Run | None = None
    class_list: str = ""
    num_images: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """One `study.json`; `cells` are not yet linked to their folders."""

    file: Path
    name: str
    commands: tuple[str, ...]
    versions: Mapping[str, str]
    machine: str
    cells: tuple["Cell", ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of a study: its factors, its folders (None: not named) and the scores that the study file repeats."""

    name: str
    factors: Mapping[str, Any]
    dataset: Path | None
    run: Path | None
    results: tuple[Path, ...]
    metrics: tuple[Score, ...]
    num_images: int | None


def read_results(path: Path) -> Results:
    """Read and check a `results.json` of `evaluate`.

    Raises:
        ReportError: the file cannot be read, or a value in it is missing or out of its range.
    """
    record = read_object(path)
    if not {"encoder", "suite", "results"} <= record.value.keys():
        raise ReportError(
            f"{path} is no results.json of `evaluate`", "give results.json, study.json, a run or a dataset"
        )
    suite = record.raw_text("suite")
    if suite not in _SUITES:
        record.fail("suite", f"is {clean(suite)[:60]!r}, not one of {', '.join(_SUITES)}")
    scores, analyses = [], []
    for entry in record.records("results"):
        if entry.raw_text("probe") == "analysis":
            values = {name: entry.number(name, 0) for name in _MEASURES}
            analyses.append(Analysis(dataset=entry.text("dataset"), **values))
        else:
            scores.append(_score(entry, suite))
    return Results(
        file=path,
        encoder=record.text("encoder"),
        fingerprints=tuple(record.texts("encoder_fingerprints")),
        suite=suite,
        scores=tuple(scores),
        analyses=tuple(analyses),
        versions=record.facts("versions"),
    )


def _score(entry: Record, suite: str) -> Score:
    num_test, num_classes = entry.number("num_test", 1), entry.optional("num_classes", 1)
    return Score(
        dataset=entry.text("dataset"),
        split=entry.text("split"),
        probe=entry.text("probe"),
        suite=suite,
        interval=_interval(entry),
        top1_sd=entry.optional("top1_sd", 0),
        num_test=int(num_test),
        num_classes=None if num_classes is None else int(num_classes),
        masked=entry.has("masked") and entry.record("masked").value.get("scored") != "all",
        seeds=len(entry.items("seeds", 10_000)),
        per_class=entry.fractions("per_class"),
        worst=tuple(
            Mistake(image=m.text("image", ""), wnid=m.text("wnid"), predicted=m.text("predicted"))
            for m in entry.records("worst")[:100]
        ),
        **_accuracies(entry),
    )


def _accuracies(entry: Record) -> dict[str, Any]:
    return {
        "top1": entry.number("top1", 0, 1),
        "top5": entry.optional("top5", 0, 1),
        "mean_per_class": entry.optional("mean_per_class_accuracy", 0, 1),
        "log_odds": entry.optional("log_odds"),
    }


def _interval(entry: Record) -> tuple[float, float] | None:
    if not entry.has("top1_interval"):
        return None
    values = entry.items("top1_interval", 2)
    pair = Record(dict(enumerate(values)), entry.file, f"{entry.place}.top1_interval")  # pyright: ignore[reportArgumentType]
    if len(values) != 2:
        entry.fail("top1_interval", f"has {len(values)} numbers, not 2")
    # Episodes have a normal interval, which may pass 0 or 1 by a little.
    return pair.number(0, -1, 2), pair.number(1, -1, 2)  # pyright: ignore[reportArgumentType]


def wilson(share: float, count: int) -> tuple[float, float]:
    """95% Wilson interval of a share of `count` images; for accuracies that came without their images."""
    z = 1.959963984540054
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def read_study(path: Path) -> Study:
    """Read and check a `study.json`; the paths in it must stay in its folder.

    Raises:
        ReportError: the file cannot be read, a value in it is missing or out of its range, or a path leads outside.
    """
    record, folder = read_object(path), path.parent
    if not {"name", "cells"} <= record.value.keys():
        raise ReportError(f"{path} is no study.json of `imagenet-sd run`", "give the file that `imagenet-sd run` wrote")
    cells = []
    for entry in record.records("cells", 10_000):
        place = {
            key: inside(folder, entry.raw_text(key), entry, key) if entry.has(key) else None
            for key in ("dataset", "run")
        }
        named = entry.texts("results")
        cells.append(
            Cell(
                name=entry.text("id"),
                factors=_factors(entry.record("factors", required=True)),
                **place,
                results=tuple(inside(folder, name, entry, f"results[{i}]") for i, name in enumerate(named)),
                num_images=int(entry.number("images", 1)) if entry.has("images") else None,
                metrics=tuple(_metric(entry.record("metrics"), key) for key in entry.record("metrics").value),
            )
        )
    if len({(cell.name, *sorted((k, str(v)) for k, v in cell.factors.items())) for cell in cells}) < len(cells):
        record.fail("cells", "hold one cell twice", "every cell needs its own id or factors")
    return Study(
        file=path,
        name=record.text("name"),
        commands=tuple(map(clean, record.texts("commands"))),
        versions=record.facts("versions"),
        machine=record.text("machine", ""),
        cells=tuple(cells),
    )


def _factors(record: Record) -> dict[str, Any]:
    factors: dict[str, Any] = {}
    for key in ("prompt", "augmentation", "data"):
        if record.has(key):
            factors[key] = record.text(key)
    for key, low in (("guidance_scale", 0), ("num_inference_steps", 1), ("multiple", 0), ("seed", 0)):
        if record.has(key):
            factors[key] = record.number(key, low)
    for key, value in list(record.value.items())[:40]:
        if clean(key) not in factors and isinstance(value, str | int | float) and value != "":
            factors[clean(key)] = clean(value) if isinstance(value, str) else record.number(key)
    return factors


def _metric(metrics: Record, key: str) -> Score:
    dataset, slash, split = key.rpartition("/")
    if not slash:
        metrics.fail(key, "does not name a data set and a split", 'write the key as "DATASET/SPLIT"')
    dataset = clean(dataset)
    suite = "transfer" if dataset in TRANSFER or _LEVEL.fullmatch(dataset) else "imagenet"
    entry = metrics.record(key, required=True)
    return Score(dataset=dataset, split=clean(split), probe="study", suite=suite, **_accuracies(entry))


def merge(scores: list[Score]) -> tuple[tuple[Score, ...], list[str]]:
    """Scores without repetitions, the first of each kept, and a remark on every repetition that says otherwise."""
    kept: dict[tuple[str, str, str, str], Score] = {}
    remarks = []
    for score in scores:
        key = (*score.key, score.suite)
        if key not in kept:
            kept[key] = score
        elif replace(kept[key], per_class={}, worst=()) != replace(score, per_class={}, worst=()):
            remarks.append(f"{score.dataset}/{score.split} ({score.probe}) was measured twice; the first is shown")
    return tuple(kept.values()), remarks
