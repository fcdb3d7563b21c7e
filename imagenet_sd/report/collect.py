"""From the paths that a user gives to models with all that is known about each: what is what, what belongs to what."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imagenet_sd.report.checks import ReportError, read_object
from imagenet_sd.report.folders import known_class_list, read_dataset, read_run
from imagenet_sd.report.results import (
    Analysis,
    Cell,
    Dataset,
    Model,
    Results,
    Run,
    Score,
    Study,
    merge,
    read_results,
    read_study,
)


@dataclass(kw_only=True, slots=True)
class Inputs:
    """All that a report is made of. `remarks` are lines for the reader about what was left out, and why."""

    models: list[Model] = field(default_factory=list)
    studies: list[Study] = field(default_factory=list)
    datasets: list[Dataset] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    results: list[Results] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def collect(paths: list[Path]) -> Inputs:
    """Read everything that the paths name.

    Args:
        paths: files (`results.json`, `study.json`) and folders (of a dataset, a run, or of any of these).

    Raises:
        ReportError: a path holds nothing of the kind, or a file is damaged.
    """
    inputs = Inputs()
    for path in _unique(found for given in paths for found in _expand(given)):
        if path.is_dir():
            if (path / "dataset.json").is_file():
                inputs.datasets.append(read_dataset(path))
            else:
                inputs.runs.append(read_run(path))
        elif "cells" in read_object(path).value:
            study = read_study(path)
            taken = {s.name for s in inputs.studies}
            names = (study.name, *(f"{study.name} ({n})" for n in range(2, len(taken) + 2)))
            inputs.studies.append(replace(study, name=next(n for n in names if n not in taken)))
        else:
            inputs.results.append(read_results(path))
    free = list(inputs.results)
    loners = list(inputs.runs)
    for study in inputs.studies:
        inputs.models += _study_models(study, inputs)
    inputs.models += _free_models(free, loners, inputs)
    return inputs


def _unique(paths: Iterable[Path]) -> list[Path]:
    return list({path.resolve(): path for path in paths}.values())


def _expand(path: Path, depth: int = 0) -> list[Path]:
    """The study, results, run or dataset at `path`; of a folder that is none of them, those one level down."""
    if not path.is_dir():
        return [path]
    studies = [p for p in sorted(path.glob("*.json")) if _holds(p, {"name", "cells"})]
    if studies or (path / "results.json").is_file():
        return studies or [path / "results.json"]
    if (path / "dataset.json").is_file() or (path / "recipe.yaml").is_file():
        return [path]
    found = [p for p in sorted(path.glob("*.json")) if _holds(p, {"encoder", "suite", "results"})]
    if depth == 0:
        found += [p for child in sorted(path.iterdir()) if child.is_dir() for p in _expand(child, 1)]
        if not found:
            raise ReportError(
                f"{path} holds nothing to report on",
                "give results.json, study.json, or the folder of a run or a dataset",
            )
    return found


def _holds(path: Path, keys: set[str]) -> bool:
    try:
        return keys <= read_object(path).value.keys()
    except ReportError:
        return False


def _study_models(study: Study, inputs: Inputs) -> list[Model]:
    models = [_cell_model(cell, study, inputs) for cell in study.cells]
    # Real images are compared with clones of the same classes: one class list stands for the whole study.
    lists = {model.class_list for model in models if model.class_list}
    return [replace(m, class_list=m.class_list or next(iter(lists))) if len(lists) == 1 else m for m in models]


def _cell_model(cell: Cell, study: Study, inputs: Inputs) -> Model:
    dataset = run = None
    if cell.dataset and (cell.dataset / "dataset.json").is_file():
        dataset = _known(cell.dataset, inputs.datasets) or read_dataset(cell.dataset)
        if dataset not in inputs.datasets:
            inputs.datasets.append(dataset)
    if cell.run and (cell.run / "recipe.yaml").is_file():
        run = _known(cell.run, inputs.runs) or read_run(cell.run)
        if run not in inputs.runs:
            inputs.runs.append(run)
    scores: list[Score] = []
    analyses: list[Analysis] = []
    for path in cell.results:
        if not path.is_file():
            inputs.remarks.append(f"{cell.name}: {path.name} is named in the study, but is not there")
            continue
        results = _known(path, inputs.results) or read_results(path)
        if results not in inputs.results:
            inputs.results.append(results)
        scores += results.scores
        analyses += results.analyses
    measured = {(score.dataset, score.split) for score in scores}
    scores += [score for score in cell.metrics if (score.dataset, score.split) not in measured]
    if not scores and run and run.score:
        scores.append(run.score)
    kept, remarks = merge(scores)
    inputs.remarks += [f"{cell.name}: {remark}" for remark in remarks]
    return Model(
        name=str(cell.factors.get("encoder", cell.name)),
        study=study.name,
        factors=cell.factors,
        scores=kept,
        analyses=tuple(analyses),
        dataset=dataset,
        run=run,
        class_list=_class_list(dataset, run),
        num_images=cell.num_images or (dataset.num_images if dataset else None),
    )


def _known(path: Path, read: list[Any]) -> Any:
    return next((x for x in read if (x.file if isinstance(x, Results) else x.path).resolve() == path.resolve()), None)


def _free_models(results: list[Results], loners: list[Run], inputs: Inputs) -> list[Model]:
    """Models of the results and runs that no study names: results belong to a run by the encoder's path or name."""
    taken = {id(m.run) for m in inputs.models if m.run}
    used = {p.resolve() for study in inputs.studies for cell in study.cells for p in cell.results}
    grouped: dict[tuple, list[Results]] = {}
    for result in results:
        if result.file.resolve() not in used:
            grouped.setdefault((result.encoder, result.fingerprints), []).append(result)
    runs = [run for run in loners if id(run) not in taken]
    models, matched = [], set()
    for (encoder, _), group in grouped.items():
        run = _named(encoder, runs)
        if run:
            matched.add(id(run))
        models.append(_free_model(encoder, run, group, inputs))
    models += [_free_model(run.name, run, [], inputs) for run in runs if id(run) not in matched]
    return models


def _free_model(name: str, run: Run | None, group: list[Results], inputs: Inputs) -> Model:
    scores = [score for result in group for score in result.scores]
    if run and run.score:
        scores.append(run.score)
    kept, remarks = merge(scores)
    inputs.remarks += [f"{name}: {remark}" for remark in remarks]
    dataset = _named(run.data, inputs.datasets) if run else None
    factors: dict[str, Any] = {}
    if run:
        factors = {**(dataset.factors if dataset else {"data": _origin(run.data)}), **run.factors}
    return Model(
        name=run.name if run else name,
        factors={key: value for key, value in factors.items() if value != ""},
        scores=kept,
        analyses=tuple(a for result in group for a in result.analyses),
        dataset=dataset,
        run=run,
        class_list=_class_list(dataset, run),
        num_images=dataset.num_images if dataset else None,
    )


def _origin(data: str) -> str:
    """Images out of folders and packages are real, unless a dataset folder was named that is not part of the report."""
    return "real" if data.partition(":")[0] in ("imagefolder", "builtin", "torchvision", "imagenet") else ""


def _named(name: str, known: list[Any]) -> Any:
    """The run or dataset that a path in another file means: the same path, else the only one of that folder name."""
    same = [x for x in known if str(x.path) == name or x.path.resolve() == Path(name).absolute()]
    alike = [x for x in known if x.name == Path(name).name]
    return same[0] if same else alike[0] if len(alike) == 1 else None


def _class_list(dataset: Dataset | None, run: Run | None) -> str:
    if dataset:
        return dataset.class_list
    return known_class_list(run.classes) if run else ""
