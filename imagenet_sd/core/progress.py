"""Progress of long work: a bar on a terminal, one log line now and then elsewhere; always on standard error."""

import sys
import time

from imagenet_sd.core.errors import visible


class Progress:
    """Counts work done and shows rate and time left. A context manager.

    Args:
        what: what is being done, e.g. "images".
        total: number of units in all.
        done: units that were finished before this run; they count for the bar, not for the rate.
        interval: seconds between two log lines where standard error is no terminal.
        brief: the work may be over before the first line is due, and is not worth a line then.
    """

    def __init__(self, what: str, total: int, done: int = 0, interval: float = 10.0, *, brief: bool = False):
        self.what, self.total, self.done, self.interval = what, total, done, interval
        self._start, self._skipped, self._last = time.monotonic(), done, time.monotonic()
        self._printed = total if brief else -1
        self._bar = self._task = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
            )
            self._bar = RichProgress(*columns, console=Console(stderr=True), transient=brief)
            self._task = self._bar.add_task(what, total=total, completed=done, rate="")

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line beside the bar."""
        if self._bar is not None:
            self._bar.console.print(visible(text), markup=False, highlight=False, soft_wrap=True)
        else:
            note(text)

    def rate(self) -> float:
        """Units a second in this run; 0 before the first."""
        return (self.done - self._skipped) / max(1e-9, time.monotonic() - self._start)

    def advance(self, count: int, *, cached: bool = False) -> None:
        """Add `count` finished units and show it; cached ones do not count for the rate."""
        self._skipped += count if cached else 0
        self.update(self.done + count)

    def update(self, done: int) -> None:
        """Set the number of finished units and show it."""
        self.done = done
        rate = self.rate()
        rate_and_left = (
            (f"{_rate(rate)} {self.what}/s", f"{duration((self.total - self.done) / rate)} left") if rate else ()
        )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, rate=", ".join(rate_and_left))
        elif time.monotonic() - self._last >= self.interval or self.done >= self.total > self._printed:
            self._last, self._printed = time.monotonic(), self.done
            line = ", ".join((f"{self.what} {self.done}/{self.total}", *rate_and_left))
            print(line, file=sys.stderr, flush=True)


def _rate(rate: float) -> str:
    return f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"


def note(text: str) -> None:
    """Print a line on standard error: what a user should know while work goes on."""
    print(visible(text), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as people say them: "42 s", "7 min", "3.5 h", "12.1 d"."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (129600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if unit != "h" else f"{seconds / size:.1f} h"
    return f"{seconds / 86400:.1f} d"


def size(num_bytes: float) -> str:
    """Bytes as people say them, with two digits at least: "700 bytes", "38 kB", "1.2 GB"."""
    for limit, unit in ((1e3, "bytes"), (1e6, "kB"), (1e9, "MB"), (1e12, "GB")):
        if num_bytes < limit:
            amount = num_bytes / (limit / 1e3)
            return f"{amount:.0f} {unit}" if amount >= 10 or unit == "bytes" else f"{amount:.1f} {unit}"
    return f"{num_bytes / 1e12:,.1f} TB"


def counted(number: int, noun: str) -> str:
    """A number and what it counts: "1 shard", "2,000 shards"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
