"""A whole study: prompts, datasets, runs, evaluations and the report, from one recipe. The main path of the project.

Every stage is skipped when its inputs have not changed, and goes on where it stopped when it was interrupted. Cells are
worked off one after the other, so that the first numbers, and the first errors, come early.
"""

import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from imagenet_sd.core.errors import ImagenetSDError, Interrupted
from imagenet_sd.core.files import write_json
from imagenet_sd.core.progress import duration
from imagenet_sd.study import Recipe, RecipeError, expand
from imagenet_sd.study.document import describe, study_cells
from imagenet_sd.study.inputs import missing
from imagenet_sd.study.planner import STAMP, PlannedCell, Planner, Stage, digest, read_stamp, unique_stages


def run(recipe: Recipe, *, out: Path | None = None, path: str = "recipe", command: str = "") -> dict[str, Any]:
    """Walk the whole path for every cell of a recipe, and write the study and its report.

    Args:
        recipe: the recipe.
        out: folder of the study; None: what the recipe says.
        path: file of the recipe, for messages.
        command: the command line, kept in the study; "" for none.

    Returns:
        `out`, `study`, `page`, `stages` (their number, the report included) and `done` (those that had to be done).

    Raises:
        RecipeError: a file or folder that the recipe names is missing; nothing has been done then.
        Interrupted: a signal came; the same call goes on from there.
        ImagenetSDError: any other known fault; the same call goes on from there once it is mended.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("run starts its own processes", "call it without a launcher; see train.processes")
    out = out or folder_of(recipe)
    cells = expand(recipe, path)
    if lacking := missing(cells):
        key, place = next(iter(lacking.items()))
        more = f" (and {len(lacking) - 1} more are missing)" if len(lacking) > 1 else ""
        raise RecipeError(f"{path}: {key}: there is no {place}{more}", f"mend the recipe, or add --set {key}=...")
    planner = Planner(cells, out, path)
    planned = planner.plan()
    stages = unique_stages(planned)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        worked = _work_off(recipe, out, planned, planner, stages, command)
    page = out / recipe.report.page
    return {
        "out": str(out),
        "study": str(out / recipe.report.study),
        "page": str(page),
        "stages": len(stages) + 1,
        "done": worked,
    }


def dry_run_study(recipe: Recipe, *, out: Path | None = None, path: str = "recipe") -> dict[str, Any]:
    """What `run` would do, without a model, a network or a file written.

    Returns:
        `out`, `cells`, `stages` (kind, folder, whether it is done), `images` (to draw in all), `image_steps`
        (diffusion steps over all images) and `missing` (files that the recipe names and that are not there).
    """
    out = out or folder_of(recipe)
    cells = expand(recipe, path)
    planner = Planner(cells, out, path, forgiving=True)
    planned = planner.plan()
    stages = unique_stages(planned)
    drawn = [stage for stage in stages if stage.kind == "generate"]
    return {
        "name": recipe.name,
        "out": str(out),
        "cells": len(planned),
        "stages": [
            {"stage": s.kind, "folder": s.folder.relative_to(out).as_posix(), "done": s.is_done()} for s in stages
        ],
        "images": sum(planner.num_images(stage.recipe) for stage in drawn),
        "image_steps": int(sum(stage.work for stage in drawn)),
        "missing": missing(cells),
    }


def folder_of(recipe: Recipe) -> Path:
    """Where the study of a recipe lies."""
    return Path(recipe.out) if recipe.out else Path("studies") / (recipe.name or "study")


def _work_off(
    recipe: Recipe, out: Path, planned: list[PlannedCell], planner: Planner, stages: list[Stage], command: str
) -> int:
    """Do what is not done, then the report; the number of stages that had to be worked on."""
    todo = [stage for stage in stages if not stage.is_done()]
    clock = _Clock(stages, todo)
    for stage in todo:
        number = stages.index(stage) + 1
        _say(f"[{number}/{len(stages) + 1}] {stage.kind} {stage.folder.relative_to(out)}{clock.left(stage)}")
        clock.took(stage, _carry_out(stage, out))
    cells = study_cells(planned, planner, out)
    inputs = digest([recipe.name, recipe.report.study, cells])
    stamp = out / f".{recipe.report.page}.{STAMP}"
    page, study = out / recipe.report.page, out / recipe.report.study
    known = read_stamp(stamp.parent, stamp.name)
    if known.get("inputs") == inputs and page.is_file() and study.is_file():
        return len(todo)
    _say(f"[{len(stages) + 1}/{len(stages) + 1}] report {recipe.report.page}")
    write_json(study, describe(recipe.name, cells, planned, command))
    from imagenet_sd import pipeline

    pipeline.report(results=[study], out=page)
    write_json(stamp, {"stage": "report", "inputs": inputs})
    return len(todo) + 1


def _carry_out(stage: Stage, out: Path) -> float:
    """Do a stage and stamp it; the seconds it took."""
    from imagenet_sd.study import stages as carry

    start = time.monotonic()
    facts = {"generate": carry.generate, "train": carry.train, "evaluate": carry.evaluate}[stage.kind](stage, out)
    seconds = round(time.monotonic() - start, 2)
    stamp = {"stage": stage.kind, "inputs": stage.inputs, "seconds": seconds, "work": stage.work, **facts}
    write_json(stage.folder / STAMP, stamp)
    return seconds


class _Clock:
    """Tells how long the rest will take, from what stages of each kind took per unit of work, earlier runs included."""

    def __init__(self, stages: list[Stage], todo: list[Stage]):
        self.todo = list(todo)
        self._seconds: dict[str, float] = defaultdict(float)
        self._work: dict[str, float] = defaultdict(float)
        for stage in stages:
            if stage not in todo:
                self._add(stage, float(read_stamp(stage.folder).get("seconds") or 0.0))

    def _add(self, stage: Stage, seconds: float) -> None:
        self._seconds[stage.kind] += seconds
        self._work[stage.kind] += stage.work or 1.0

    def took(self, stage: Stage, seconds: float) -> None:
        """A stage is done."""
        self._add(stage, seconds)
        self.todo.remove(stage)

    def left(self, stage: Stage) -> str:
        """Time left at the start of `stage`; "" while a kind of stage is ahead of which none is known."""
        if not all(self._work[s.kind] for s in self.todo):
            return ""
        left = sum(self._seconds[s.kind] / self._work[s.kind] * (s.work or 1.0) for s in self.todo)
        return f", about {duration(left)} left"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the study's folder, so that no second run trains into the same files; freed by the system if we die."""
    try:
        import fcntl
    except ImportError:  # not on this system: nothing to hold
        yield
        return
    with open(out / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ImagenetSDError(f"another run is at work in {out}", "wait for it, or name another --out") from None
        except OSError:
            pass  # a file system without locks
        yield


def run_process(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command in an environment, hand SIGTERM on to it, and wait for it to end.

    Returns:
        Its exit code.

    Raises:
        Interrupted: it was stopped by SIGTERM.
    """
    import subprocess

    with subprocess.Popen(arguments, env=environment) as process:
        previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = process.wait()
        except BaseException:
            with suppress(OSError):
                process.terminate()
            process.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)
    if code in (128 + signal.SIGTERM, -signal.SIGTERM):
        raise Interrupted(signal.SIGTERM)
    return code
