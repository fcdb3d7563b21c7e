"""What a check is, what its result is, and how a list of them runs within budgets of time.

A check may fail, raise, or take too long: the others run all the same.
"""

import gc
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch

from imagenet_sd.core.errors import one_line
from imagenet_sd.core.machine import fast_bfloat16
from imagenet_sd.core.progress import note
from imagenet_sd.generation.diffusion.loading import pick_dtype

Status = Literal["passed", "failed", "skipped"]
OUT_OF_TIME = "out of time"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Where and how large.

    Attributes:
        device: the device that is checked.
        reduced: tiny sizes.
        folder: an empty folder for files, which is not kept.
    """

    device: torch.device
    reduced: bool
    folder: Path

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU to check."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> Any:
        """Name of the dtype that `generate` and `train` would take here."""
        return str(pick_dtype("auto", self.device)).removeprefix("torch.")

    @property
    def dtypes(self) -> list[Any]:
        """Names of the dtypes that the device computes in, the most exact first."""
        bfloat16 = not self.on_gpu or fast_bfloat16(self.device)
        return ["float32", "float16", *["bfloat16"] * bfloat16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The result of a check: a line for the table, and figures for the file."""

    status: Status
    remark: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A named check.

    Attributes:
        name: for the table and `--only`.
        about: what it shows, in a line.
        seconds: its budget on a GPU; on a CPU it has twice as long. A check that takes longer has failed.
        run: does it.
    """

    name: str
    about: str
    seconds: float
    run: Callable[[Setting], Outcome]


class TimeIsUp(BaseException):
    """Ends a check; no `except Exception` on the way catches it."""


def passed_if(condition: bool, remark: str, figures: dict[str, Any]) -> Outcome:
    """A check that has come to its end."""
    return Outcome(status="passed" if condition else "failed", remark=remark, figures=figures)


def skipped(reason: str) -> Outcome:
    """A check that cannot be made here."""
    return Outcome(status="skipped", remark=reason)


def run_checks(
    checks: Sequence[Check],
    setting: Setting,
    budget: float,
    on_row: Callable[[list[dict[str, Any]]], object] = lambda rows: None,
) -> list[dict[str, Any]]:
    """Run checks one after the other until the time is up; what is left is skipped.

    Args:
        checks: what to run.
        setting: where.
        budget: seconds for all of them together.
        on_row: called after each check with the rows so far.

    Returns:
        For each check `name`, `status`, `seconds`, `remark` and `figures`.
    """
    deadline = time.monotonic() + budget
    rows: list[dict[str, Any]] = []
    for number, check in enumerate(checks, 1):
        left, started = deadline - time.monotonic(), time.monotonic()
        if left > 0:
            note(f"[{number}/{len(checks)}] {check.name}: {check.about}")
        outcome = _run(check, setting, left) if left > 0 else skipped(OUT_OF_TIME)
        seconds = round(time.monotonic() - started, 1)
        rows.append(
            {
                "name": check.name,
                "status": outcome.status,
                "seconds": seconds,
                "remark": outcome.remark,
                "figures": outcome.figures,
            }
        )
        note(f"[{number}/{len(checks)}] {check.name}: {outcome.status} in {seconds:.1f} s: {outcome.remark}")
        on_row(rows)
        gc.collect()
        if setting.on_gpu:
            torch.cuda.empty_cache()
    return rows


def _run(check: Check, setting: Setting, left: float) -> Outcome:
    seconds = check.seconds * (1 if setting.on_gpu else 2)
    try:
        with _limited(min(seconds, left)):
            return check.run(setting)
    except TimeIsUp:
        if left < seconds:
            return skipped(OUT_OF_TIME)
        return Outcome(status="failed", remark=f"took longer than its {seconds:.0f} s")
    except Exception as error:  # whatever it is, the other checks are worth their time
        traceback.print_exc()
        return Outcome(status="failed", remark=f"{type(error).__name__}: {one_line(error)}")


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `TimeIsUp` in the block after some seconds; only the main thread can be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of `run_checks`, aligned."""
    cells = [("check", "result", "seconds", "remark")]
    cells += [(row["name"], row["status"], f"{row['seconds']:.1f}", row["remark"]) for row in rows]
    widths = [max(len(line[k]) for line in cells) for k in range(3)]
    return "\n".join(
        f"{name:<{widths[0]}}  {status:<{widths[1]}}  {seconds:>{widths[2]}}  {remark}".rstrip()
        for name, status, seconds, remark in cells
    )
