"""`study.json`: the cells of a study, their factors, the files of their results, and the numbers."""

import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from imagenet_sd import __version__
from imagenet_sd.core.documents import read_document
from imagenet_sd.core.files import read_json
from imagenet_sd.core.results import Accuracies, EvaluationResults, StudyCell, StudyResults
from imagenet_sd.core.specs import EncoderSpec
from imagenet_sd.core.training_facts import training_facts
from imagenet_sd.core.typed import to_mapping
from imagenet_sd.study.planner import PlannedCell, Planner, augmentation, is_generated, read_stamp, slug
from imagenet_sd.training.self_supervised import SELF_SUPERVISED

_BY_AUGMENTATION = ("pytorch", "imagenet-sd")
"""Recipes that differ in their augmentation, which is a factor of its own."""
METRICS = set(Accuracies.model_fields) - {"top1_interval"}
_LIBRARIES = ("torch", "torchvision", "timm", "diffusers", "transformers", "accelerate", "datasets", "numpy", "pyarrow")
_STANDARD = ("generate.prompt", "generate.guidance_scale", "generate.num_inference_steps", "generate.multiple",
             "train.augmentation", "train.data", "train.also",
             "train.recipe", "train.steps", "encoder", "seed")  # fmt: skip


def study_cells(planned: list[PlannedCell], planner: Planner, out: Path) -> list[StudyCell]:
    """The cells of a finished study; paths are relative to its folder.

    Raises:
        ResultsError: a results file cannot be read.
    """
    whole = any(is_generated(cell.cell.study) for cell in planned)
    return [_cell(cell, planner if whole else None, out) for cell in planned]


def describe(name: str, cells: list[StudyCell], planned: list[PlannedCell], command: str) -> dict[str, Any]:
    """The whole document: the cells with the command, the versions and the machine they come from."""
    files = [run / "environment.json" for cell in planned if (run := cell.folder("train"))]
    facts = [read_json(file) for file in files if file.is_file()]
    devices = {str(each.get("device", "")) for each in facts if isinstance(each, dict)} - {"cpu", ""}
    machine = (f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} CPU cores", *sorted(devices))
    versions = {"imagenet-sd": __version__, "python": platform.python_version()}
    return StudyResults(
        name=name,
        commands=(command,) if command else (),
        versions=versions | {library: metadata.version(library) for library in _LIBRARIES},
        machine=", ".join(machine),
        cells=tuple(cells),
    ).to_json()


def command_line() -> str:
    """The command of this process, as one could type it."""
    return shlex.join(["imagenet-sd", *sys.argv[1:]])


def _cell(planned: PlannedCell, planner: Planner | None, out: Path) -> StudyCell:
    files = [stage.folder / stage.product for stage in planned.stages if stage.kind == "evaluate"]
    facts: dict[str, Any] = {}
    if dataset := planned.folder("generate"):
        facts["dataset"] = dataset.relative_to(out).as_posix()
    if run := planned.folder("train"):
        stamp = read_stamp(run)
        facts |= {"run": run.relative_to(out).as_posix()}
        facts |= {"images": stamp.get("num_images"), "epochs": stamp.get("epochs")}
        facts["training"] = training_facts(to_mapping(planned.cell.study.train.config()))
        if is_generated(planned.cell.study):
            facts["model"] = planned.cell.study.generate.model
    encoders = EncoderSpec.parse_ensemble(planned.cell.study.encoder) if not run else ()
    return StudyCell(
        id=run.name if run else slug("+".join(spec.label for spec in encoders)),
        factors=_factors(planned, planner),
        results=tuple(file.relative_to(out).as_posix() for file in files),
        metrics=_metrics(files),
        **facts,
    )


def _factors(planned: PlannedCell, planner: Planner | None) -> dict[str, Any]:
    """What tells this cell from the others; of a real dataset the size as a multiple of the synthetic base."""
    study, generate, train = planned.cell.study, planned.cell.study.generate, planned.cell.study.train
    changes = planned.cell.changes
    others = {key: value for key, value in changes.items() if key not in _STANDARD}
    recipe = changes.get("train.recipe")
    if recipe in SELF_SUPERVISED:  # the method is a factor
        others["method"] = recipe
    elif recipe not in (None, *_BY_AUGMENTATION):
        others["train.recipe"] = recipe
    run = planned.folder("train")
    if run is None:
        return {"encoder": study.encoder} | others
    factors: dict[str, Any] = {"augmentation": augmentation(study), "seed": train.config().seed}
    if is_generated(study):
        factors |= {
            "data": "both" if train.also else "synthetic",
            "prompt": generate.prompt,
            "guidance_scale": float(generate.scale),
            "num_inference_steps": generate.steps,
            "multiple": float(generate.multiple),
        }
    else:
        factors |= {"data": "real", "source": train.data}
        count = read_stamp(run).get("num_images")
        if planner and count:
            factors["multiple"] = round(count * generate.multiple / planner.num_images(study), 3)
    return factors | ({"also": train.also} if train.also else {}) | others


def _metrics(files: list[Path]) -> dict[str, Accuracies]:
    """Numbers by dataset and split; of several measurements of one the first, in the order of the evaluations.

    Of the probe `gradient` its own number, not that of a control, which is called `gradient-` and what it is.
    """
    metrics: dict[str, Accuracies] = {}
    for path in files:
        scores = read_document(EvaluationResults, path).scores
        for result in sorted(scores, key=lambda each: each.probe.startswith("gradient-")):
            numbers = result.model_dump(include=METRICS, exclude_unset=True)
            metrics.setdefault(f"{result.dataset}/{result.split}", Accuracies(**numbers))
    return metrics
