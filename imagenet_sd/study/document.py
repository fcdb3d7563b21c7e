"""`study.json`: the cells of a study, their factors, the files of their results, and the numbers."""

import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from imagenet_sd import __version__
from imagenet_sd.core.files import read_json
from imagenet_sd.core.results import Accuracies, EvaluationResults, StudyCell, StudyResults, read_document
from imagenet_sd.core.specs import EncoderSpec
from imagenet_sd.study.planner import PlannedCell, Planner, augmentation, is_generated, read_stamp, slug

METRICS = set(Accuracies.model_fields) - {"top1_interval"}
_LIBRARIES = ("torch", "torchvision", "timm", "diffusers", "transformers", "accelerate", "datasets", "numpy", "pyarrow")
_STANDARD = ("generate.prompt", "generate.guidance_scale", "generate.num_inference_steps", "generate.multiple",
             "train.augmentation", "train.data", "train.recipe", "train.steps", "encoder", "seed")  # fmt: skip


def study_cells(planned: list[PlannedCell], planner: Planner, out: Path) -> list[dict[str, Any]]:
    """The cells of a finished study; paths are relative to its folder.

    Raises:
        ResultsError: a results file cannot be read.
    """
    whole = any(is_generated(cell.cell.study) for cell in planned)
    return [_cell(cell, planner if whole else None, out) for cell in planned]


def describe(name: str, cells: list[dict[str, Any]], planned: list[PlannedCell], command: str) -> dict[str, Any]:
    """The whole document: the cells with the command, the versions and the machine they come from."""
    devices = {
        read_json(cell.run / "environment.json").get("device", "")
        for cell in planned
        if cell.run and (cell.run / "environment.json").is_file()
    }
    machine = [
        f"{platform.system()} {platform.machine()}",
        f"{os.cpu_count()} CPU cores",
        *sorted(devices - {"cpu", ""}),
    ]
    return StudyResults(
        name=name,
        commands=(command,) if command else (),
        versions=_versions(),
        machine=", ".join(machine),
        cells=tuple(StudyCell(**cell) for cell in cells),
    ).to_json()


def command_line() -> str:
    """The command of this process, as one could type it."""
    return shlex.join(["imagenet-sd", *sys.argv[1:]])


def _cell(planned: PlannedCell, planner: Planner | None, out: Path) -> dict[str, Any]:
    def place(folder: Path) -> str:
        return folder.relative_to(out).as_posix()

    study = planned.cell.study
    files = [stage.folder / stage.product for stage in planned.evaluations]
    encoders = EncoderSpec.parse_ensemble(study.encoder) if study.encoder else ()
    facts: dict[str, Any] = {}
    if planned.dataset:
        facts["dataset"] = place(planned.dataset)
    if planned.run:
        stamp = read_stamp(planned.run)
        facts |= {"run": place(planned.run), "images": stamp.get("num_images"), "epochs": stamp.get("epochs")}
    return StudyCell(
        id=planned.run.name if planned.run else slug("+".join(spec.label for spec in encoders)),
        factors=_factors(planned, planner),
        results=tuple(map(place, files)),
        metrics=_metrics(files),
        **facts,
    ).to_json()


def _factors(planned: PlannedCell, planner: Planner | None) -> dict[str, Any]:
    """What tells this cell from the others; of a real dataset the size as a multiple of the synthetic base."""
    study, generate, train = planned.cell.study, planned.cell.study.generate, planned.cell.study.train
    changes = planned.cell.changes
    others = {key: value for key, value in changes.items() if key not in _STANDARD}
    if planned.run is None:
        return {"encoder": study.encoder} | others
    factors: dict[str, Any] = {"augmentation": augmentation(study), "seed": train.config().seed}
    if is_generated(study):
        factors |= {
            "data": "synthetic",
            "prompt": generate.prompt,
            "guidance_scale": float(generate.guidance_scale),
            "num_inference_steps": generate.num_inference_steps,
            "multiple": float(generate.multiple),
        }
    else:
        factors |= {"data": "real", "source": train.data}
        count = read_stamp(planned.run).get("num_images")
        if planner and count:
            factors["multiple"] = round(count * generate.multiple / planner.num_images(study), 3)
    return factors | others


def _metrics(files: list[Path]) -> dict[str, Accuracies]:
    """Numbers by dataset and split; of several measurements of one the first, in the order of the evaluations."""
    metrics: dict[str, Accuracies] = {}
    for path in files:
        for result in read_document(EvaluationResults, path).scores:
            numbers = result.model_dump(include=METRICS, exclude_unset=True)
            metrics.setdefault(f"{result.dataset}/{result.split}", Accuracies(**numbers))
    return metrics


def _versions() -> dict[str, str]:
    versions = {"imagenet-sd": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
