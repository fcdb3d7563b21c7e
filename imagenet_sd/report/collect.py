"""From the paths that a user gives to encoders with all that is known about each."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from imagenet_sd.core import layout
from imagenet_sd.core.documents import ResultsError, parse_json, read_document, read_text, validate
from imagenet_sd.core.results import EvaluationResults, ProbeResult, StudyCell, StudyResults
from imagenet_sd.report.encoders import IN1K, TRANSFER, DatasetFolder, EvaluatedEncoder, RunFolder, Score, merge
from imagenet_sd.report.folders import known_class_list, read_dataset, read_run

T = TypeVar("T")
_LEVEL = re.compile(r"(?:.*-)?L[1-5]")


@dataclass(kw_only=True, slots=True)
class Inputs:
    """All that a report is made of; files and folders by their path, each read once.

    `remarks` are lines for the reader about what was left out, and why.
    """

    encoders: list[EvaluatedEncoder] = field(default_factory=list)
    studies: dict[Path, StudyResults] = field(default_factory=dict)
    datasets: dict[Path, DatasetFolder] = field(default_factory=dict)
    runs: dict[Path, RunFolder] = field(default_factory=dict)
    results: dict[Path, EvaluationResults] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def collect(paths: list[Path]) -> Inputs:
    """Read everything that the paths name.

    Args:
        paths: files (`results.json`, `study.json`) and folders (of a dataset, a run, or of any of these).

    Raises:
        ResultsError: a path holds nothing of the kind, or a file is damaged.
    """
    inputs = Inputs()
    for path in [each for given in paths for each in _expand(given)]:
        key = path.resolve()
        if key in inputs.studies:
            continue
        if layout.holds_dataset(path):
            _once(inputs.datasets, path, read_dataset)
        elif path.is_dir():
            _once(inputs.runs, path, read_run)
        elif isinstance(document := _read(path), StudyResults):
            taken = {study.name for study in inputs.studies.values()}
            names = (document.name, *(f"{document.name} ({n})" for n in range(2, len(taken) + 2)))
            name = next(name for name in names if name not in taken)
            inputs.studies[key] = document.model_copy(update={"name": name})
        else:
            inputs.results[key] = document
    for path, study in inputs.studies.items():
        inputs.encoders += _study_encoders(study, path.parent, inputs)
    inputs.encoders += _free_encoders(inputs)
    return inputs


def _once(known: dict[Path, T], path: Path, read: Callable[[Path], T]) -> T:
    key = path.resolve()
    if key not in known:
        known[key] = read(path)
    return known[key]


def _read(path: Path) -> EvaluationResults | StudyResults:
    """The document in a JSON file: a study has cells."""
    value = parse_json(read_text(path), path)
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else "a single value"
        raise ResultsError(f"{path} holds {kind}, not a JSON object", "give results.json, study.json or a folder")
    if "cells" in value:
        return validate(StudyResults, value, path)
    if not {"encoder", "suite", "results"} <= value.keys():
        raise ResultsError(
            f"{path} is no results.json of `evaluate`", "give results.json, study.json, a run or a dataset"
        )
    return validate(EvaluationResults, value, path)


def _expand(path: Path, depth: int = 0) -> list[Path]:
    """The study, results, run or dataset at `path`; of a folder that is none of them, those one level down."""
    if not path.is_dir():
        return [path]
    studies = [p for p in sorted(path.glob("*.json")) if _holds(p, {"name", "cells"})]
    if studies or (path / "results.json").is_file():
        return studies or [path / "results.json"]
    if layout.holds_dataset(path) or (path / "recipe.yaml").is_file():
        return [path]
    files = [p for p in sorted(path.glob("*.json")) if _holds(p, {"encoder", "suite", "results"})]
    if depth == 0:
        files += [p for child in sorted(path.iterdir()) if child.is_dir() for p in _expand(child, 1)]
        if not files:
            raise ResultsError(
                f"{path} holds nothing to report on",
                "give results.json, study.json, or the folder of a run or a dataset",
            )
    return files


def _holds(path: Path, keys: set[str]) -> bool:
    try:
        value = parse_json(read_text(path), path)
    except ResultsError:
        return False
    return isinstance(value, dict) and keys <= value.keys()


def _study_encoders(study: StudyResults, folder: Path, inputs: Inputs) -> list[EvaluatedEncoder]:
    encoders = [_cell_encoder(cell, study, folder, inputs) for cell in study.cells]
    # Real images are compared with clones of the same classes: one class list stands for the whole study.
    lists = {encoder.class_list for encoder in encoders if encoder.class_list}
    if len(lists) != 1:
        return encoders
    return [replace(each, class_list=each.class_list or next(iter(lists))) for each in encoders]


def _cell_encoder(cell: StudyCell, study: StudyResults, folder: Path, inputs: Inputs) -> EvaluatedEncoder:
    dataset = run = None
    if cell.dataset and layout.holds_dataset(folder / cell.dataset):
        dataset = _once(inputs.datasets, folder / cell.dataset, read_dataset)
    if cell.run and (folder / cell.run / "recipe.yaml").is_file():
        run = _once(inputs.runs, folder / cell.run, read_run)
    documents = []
    for name in cell.results:
        if (folder / name).is_file():
            documents.append(_once(inputs.results, folder / name, partial(read_document, EvaluationResults)))
        else:
            inputs.remarks.append(f"{cell.id}: {Path(name).name} is named in the study, but is not there")
    measured = {(result.dataset, result.split) for document in documents for result in document.scores}
    repeated = [score for score in _repeated_scores(cell) if score.key[:2] not in measured]
    if not (measured or repeated) and run and run.score:
        repeated.append(run.score)
    encoder = _encoder(cell.id, dict(cell.factors), documents, repeated, dataset, run, inputs)
    return replace(
        encoder,
        name=str(cell.factors.get("encoder", cell.id)),
        study=study.name,
        num_images=cell.images or encoder.num_images,
        training=({**encoder.training, **cell.training} | ({"optimizer.epochs": cell.epochs} if cell.epochs else {})),
        model=encoder.model or cell.model,
    )


def _encoder(
    name: str,
    factors: dict[str, Any],
    documents: list[EvaluationResults],
    further: list[Score],
    dataset: DatasetFolder | None,
    run: RunFolder | None,
    inputs: Inputs,
) -> EvaluatedEncoder:
    """An encoder with the scores of its results files, and `further` ones after them."""
    scores = [Score(suite=document.suite, result=result) for document in documents for result in document.scores]
    kept, remarks = merge(scores + further)
    remarks += [f"{score.result.dataset}: {score.result.note}" for score in kept if score.result.note]
    inputs.remarks += [f"{name}: {remark}" for remark in remarks]
    return EvaluatedEncoder(
        name=name,
        factors=factors,
        scores=kept,
        analyses=tuple(analysis for document in documents for analysis in document.analyses),
        invariances=tuple(result for document in documents for result in document.invariances),
        regressions=tuple(result for document in documents for result in document.regressions),
        noise=tuple(noise for document in documents for noise in document.noise),
        dataset=dataset,
        run=run,
        class_list=dataset.class_list if dataset else known_class_list(run.classes) if run else "",
        num_images=(run.num_images if run else None) or (dataset.num_images if dataset else None),
        training=run.training if run else {},
        model=dataset.facts["model"] if dataset else "",
    )


def _repeated_scores(cell: StudyCell) -> list[Score]:
    """The numbers that the study file repeats, by "DATASET/SPLIT"."""
    scores = []
    for key, accuracies in cell.metrics.items():
        dataset, _, split = key.rpartition("/")
        result = ProbeResult(dataset=dataset, split=split, probe="study", **accuracies.to_json())
        transfer = dataset in (*TRANSFER, *IN1K) or _LEVEL.fullmatch(dataset)
        scores.append(Score(suite="transfer" if transfer else "imagenet", result=result))
    return scores


def _free_encoders(inputs: Inputs) -> list[EvaluatedEncoder]:
    """Encoders of the results and runs that no study names: results belong to a run by its path or name."""
    in_studies = {id(encoder.run) for encoder in inputs.encoders if encoder.run}
    used = {
        (p.parent / name).resolve() for p, study in inputs.studies.items() for c in study.cells for name in c.results
    }
    grouped: dict[tuple, list[EvaluationResults]] = {}
    for path, document in inputs.results.items():
        if path not in used:
            grouped.setdefault((document.encoder, document.encoder_fingerprints), []).append(document)
    free = [run for run in inputs.runs.values() if id(run) not in in_studies]
    encoders, matched = [], set()
    for (encoder, _), group in grouped.items():
        run = _named(encoder, free)
        matched.add(id(run))
        encoders.append(_free_encoder(encoder, run, group, inputs))
    return encoders + [_free_encoder(run.name, run, [], inputs) for run in free if id(run) not in matched]


def _free_encoder(name: str, run: RunFolder | None, group: list[EvaluationResults], inputs: Inputs) -> EvaluatedEncoder:
    if not run:
        return _encoder(name, {}, group, [], None, None, inputs)
    dataset = _named(run.data, list(inputs.datasets.values()))
    # Without its dataset folder, a run on images out of folders and packages is one on real images.
    real = run.data.partition(":")[0] in ("imagefolder", "builtin", "torchvision", "imagenet")
    data = dataset.factors if dataset else {"data": "real"} if real else {}
    factors = {key: value for key, value in {**data, **run.factors}.items() if value != ""}
    return _encoder(run.name, factors, group, [run.score] if run.score else [], dataset, run, inputs)


def _named(name: str, known: list[Any]) -> Any:
    """The run or dataset that a path in another file means: the same path, else the only one of that folder name."""
    same = [each for each in known if str(each.path) == name or each.path.resolve() == Path(name).absolute()]
    alike = [each for each in known if each.name == Path(name).name]
    return same[0] if same else alike[0] if len(alike) == 1 else None
