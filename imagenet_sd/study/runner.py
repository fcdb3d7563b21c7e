"""A whole study: prompts, datasets, runs, evaluations and the report, from one file. The main path of the project.

Every stage is skipped when its inputs have not changed, and goes on where it stopped when it was interrupted. Cells are
finished one after the other, so that the first numbers, and the first errors, come early. Several processes may run one
study at the same time on one machine: each takes the first stage that no other has and whose inputs are there.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagenet_sd import pipeline
from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.files import write_json
from imagenet_sd.core.process import exclusive
from imagenet_sd.core.progress import duration, note
from imagenet_sd.core.typed import SettingsError
from imagenet_sd.study.document import describe, study_cells
from imagenet_sd.study.grid import expand
from imagenet_sd.study.inputs import missing_inputs
from imagenet_sd.study.planner import STAMP, PlannedCell, Planner, Stage, digest, read_stamp, unique_stages
from imagenet_sd.study.schema import Study
from imagenet_sd.study.stages import STAGES


def run(study: Study, *, out: Path | None = None, path: str = "study", command: str = "") -> dict[str, Any]:
    """Walk the whole path for every cell of a study, and write its numbers and its report.

    Args:
        study: the study.
        out: folder of the study; None: what the study says.
        path: file of the study, for messages.
        command: the command line, kept in `study.json`; "" for none.

    Returns:
        `out`, `study`, `page`, `stages` (their number, the report included) and `done` (those that had to be done).

    Raises:
        SettingsError: a file or folder that the study names is missing; nothing has been done then.
        Interrupted: a signal came; the same call goes on from there.
        ImagenetSDError: any other known fault; the same call goes on from there once it is fixed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError("run starts its own processes", "call it without a launcher; see train.processes")
    out = out or folder_of(study)
    cells = expand(study, path)
    if missing := missing_inputs(cells):
        key, place = next(iter(missing.items()))
        more = f" (and {len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        raise SettingsError(f"{path}: {key}: there is no {place}{more}", f"fix the study, or add --set {key}=...")
    planner = Planner(cells, out, path)
    planned = planner.plan()
    stages = unique_stages(planned)
    out.mkdir(parents=True, exist_ok=True)
    done = _run_stages(stages, planned, out)
    with suppress(_Taken), exclusive(out / ".lock", _Taken()):  # another process that ends now writes the same report
        done += _write_report(study, planned, planner, out, command, len(stages) + 1)
    return {
        "out": str(out),
        "study": str(out / study.report.study),
        "page": str(out / study.report.page),
        "stages": len(stages) + 1,
        "done": done,
    }


def dry_run_study(study: Study, *, out: Path | None = None, path: str = "study") -> dict[str, Any]:
    """What `run` would do, without a model, a network or a file written.

    Returns:
        `name`, `out`, `cells`, `stages` (kind, folder, whether it is done), `images` (to generate in all),
        `image_steps` (diffusion steps over all images), `missing` (files that the study names and that are not there)
        and `unknown` (models of the hub whose defaults are not known before `run` asks it: their steps are not counted,
        and their folders will have other names).
    """
    out = out or folder_of(study)
    cells = expand(study, path)
    planner = Planner(cells, out, path, forgiving=True)
    planned = planner.plan()
    stages = unique_stages(planned)
    generating = [stage for stage in stages if stage.kind == "generate"]
    return {
        "name": study.name,
        "out": str(out),
        "cells": len(planned),
        "stages": [
            {"stage": s.kind, "folder": s.folder.relative_to(out).as_posix(), "done": s.is_done()} for s in stages
        ],
        "images": sum(planner.num_images(stage.study) for stage in generating),
        "image_steps": int(sum(stage.work for stage in generating)),
        "missing": missing_inputs(cells),
        "unknown": planner.unknown_models(),
    }


def folder_of(study: Study) -> Path:
    """The folder of a study."""
    return Path(study.out) if study.out else Path("studies") / (study.name or "study")


class _Taken(ImagenetSDError):
    """Another process is at it."""

    def __init__(self) -> None:
        super().__init__("another process is at it", "wait for it")


def _run_stages(stages: list[Stage], planned: list[PlannedCell], out: Path) -> int:
    """Run and stamp the stages that are not done, and wait for those that other processes run; the number of ours."""
    todo = [stage for stage in stages if not stage.is_done()]
    finished = [(s, float(read_stamp(s.folder).get("seconds") or 0.0)) for s in stages if s not in todo]
    needed = {stage.folder: cell.stages[: cell.stages.index(stage)] for cell in planned for stage in cell.stages}
    ours, told = 0, False
    while todo:
        stage = next((s for s in todo if _run_stage(s, needed[s.folder], stages, finished, out)), None)
        ours += stage is not None
        todo = [s for s in todo if s is not stage and not s.is_done()]
        if stage is None and todo:
            if not told:
                note(f"the other stages of {out} are run by other processes; waiting for them")
            told = True
            time.sleep(1)
    return ours


def _run_stage(
    stage: Stage, needed: Sequence[Stage], stages: list[Stage], finished: list[tuple[Stage, float]], out: Path
) -> bool:
    """Run one stage; False where it is done, another process runs it, or what it needs is not there yet."""
    lock = out / ".locks" / digest(str(stage.folder.relative_to(out)))
    lock.parent.mkdir(exist_ok=True)
    with suppress(_Taken), exclusive(lock, _Taken()):
        ready = {done.folder for done, _ in finished}
        if stage.is_done() or not all(s.folder in ready or s.is_done() for s in needed if s.kind != "evaluate"):
            return False
        left = _time_left(finished, [s for s in stages if s.folder not in ready])
        note(f"[{stages.index(stage) + 1}/{len(stages) + 1}] {stage.kind} {stage.folder.relative_to(out)}{left}")
        start = time.monotonic()
        facts = STAGES[stage.kind](stage, out)
        seconds = round(time.monotonic() - start, 2)
        stamp = {"stage": stage.kind, "inputs": stage.inputs, "seconds": seconds, "work": stage.work, **facts}
        write_json(stage.folder / STAMP, stamp)
        finished.append((stage, seconds))
        return True
    return False


def _write_report(
    study: Study, planned: list[PlannedCell], planner: Planner, out: Path, command: str, number: int
) -> int:
    """Write `study.json` and the page where their numbers have changed; 1 if so, else 0."""
    document, page = out / study.report.study, out / study.report.page
    stamp = out / f".{page.name}.{STAMP}"
    cells = study_cells(planned, planner, out)
    inputs = digest([study.name, study.report.study, [cell.to_json() for cell in cells]])
    if read_stamp(out, stamp.name).get("inputs") == inputs and page.is_file() and document.is_file():
        return 0
    note(f"[{number}/{number}] report {page.name}")
    write_json(document, describe(study.name, cells, planned, command))
    pipeline.report(results=[document], out=page)
    write_json(stamp, {"stage": "report", "inputs": inputs})
    return 1


def _time_left(finished: list[tuple[Stage, float]], todo: list[Stage]) -> str:
    """Time that `todo` will take, as a part of a line, from the seconds that finished stages of each kind took.

    Returns:
        "" while a kind of stage is ahead of which none is finished.
    """
    left = 0.0
    for kind in {stage.kind for stage in todo}:
        known = [(seconds, stage.work or 1.0) for stage, seconds in finished if stage.kind == kind]
        if not known:
            return ""
        work = sum(stage.work or 1.0 for stage in todo if stage.kind == kind)
        left += work * sum(seconds for seconds, _ in known) / sum(done for _, done in known)
    return f", about {duration(left)} left"
