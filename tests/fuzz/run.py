"""Runs one format: writes mutated files, reads them, and notes what is neither a result nor one line."""

import random
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from imagenet_sd.core.errors import ImagenetSDError
from tests.fuzz.mutate import Mutator

SECONDS, BYTES = 10, 2 << 30


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file.

    Attributes:
        make: writes sound files into an empty folder.
        files: relative path -> how it is mutated; one of them is mutated for each input.
        read: reads the folder as the package does; raises what the package raises.
    """

    make: Callable[[Path], object]
    files: dict[str, Mutator]
    read: Callable[[Path], object]


@dataclass(kw_only=True)
class Outcome:
    """What came of the inputs: how many were read, how many refused in one line, and the findings by their kind."""

    name: str
    inputs: int = 0
    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    grown: int = 0
    findings: dict[str, list[int]] = field(default_factory=dict)

    def line(self) -> str:
        """One row of a table."""
        found = "; ".join(f"{kind} ({len(where)}, first {where[0]})" for kind, where in self.findings.items()) or "none"
        return (
            f"| {self.name} | {self.inputs:,} | {self.read:,} | {self.refused:,} | {found} | {self.seconds:.0f} s | "
            f"{self.slowest:.2f} s | {self.grown >> 20} MB |"
        )


class Hang(BaseException):
    """A reader took longer than `SECONDS`."""


def _hang(*_: object) -> None:
    raise Hang


def fuzz(name: str, what: Format, folder: Path, inputs: range, keep: Path | None = None) -> Outcome:
    """Read `inputs` mutated files; the number of an input and the name of the format decide what it is.

    Args:
        name: the format's name.
        what: the format.
        folder: an empty folder to work in.
        inputs: numbers of the inputs.
        keep: folder for the files of findings, and for the number of the input at work.
    """
    sound, work = folder / "sound", folder / "work"
    sound.mkdir(parents=True)
    what.make(sound)
    shutil.copytree(sound, work)
    what.read(work)  # sound files are read
    contents = {file: (sound / file).read_bytes() for file in what.files}
    outcome, start = Outcome(name=name), time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old = signal.signal(signal.SIGALRM, _hang)
    try:
        for number in inputs:
            rng = random.Random(f"{name} {number}")
            file = rng.choice(list(what.files))
            data = what.files[file](contents[file], rng)
            (work / file).write_bytes(data)
            if keep:
                (keep / f"{name}.at").write_text(str(number))
            fault = _read(what, work, outcome)
            peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
            if peak > BYTES and outcome.grown <= BYTES:
                fault = fault or f"{peak >> 20} MB"
            outcome.grown = peak
            if fault:
                outcome.findings.setdefault(fault, []).append(number)
                if keep and len(outcome.findings[fault]) == 1:
                    (keep / f"{name}-{number}-{Path(file).name}").write_bytes(data)
            (work / file).write_bytes(contents[file])
    finally:
        signal.signal(signal.SIGALRM, old)
    outcome.seconds = time.monotonic() - start
    return outcome


def _read(what: Format, work: Path, outcome: Outcome) -> str:
    """Read the folder once; what is wrong with how it went, "" for nothing."""
    outcome.inputs += 1
    start = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        what.read(work)
        outcome.read += 1
        return ""
    except (ImagenetSDError, OSError) as error:
        outcome.refused += 1
        text = f"{error} {getattr(error, 'hint', '')}"
        return f"{text.count(chr(10)) + 1} lines" if "\n" in text else ""
    except Hang:
        return "hang"
    except (Exception, SystemExit) as error:
        last = next(
            (f for f in reversed(traceback.extract_tb(error.__traceback__)) if "imagenet_sd" in f.filename), None
        )
        where = f"{Path(last.filename).name}:{last.lineno}" if last else "?"
        return f"{type(error).__name__} at {where}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        outcome.slowest = max(outcome.slowest, time.monotonic() - start)
