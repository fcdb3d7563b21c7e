"""Signals, child processes, locks: a stop from outside becomes one exception, wherever it arrives."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from imagenet_sd.core.errors import ImagenetSDError, Interrupted


@contextmanager
def exclusive(path: Path, busy: ImagenetSDError) -> Iterator[None]:
    """Lock a folder, or a file that is made for it, so that two processes do not write to one place.

    The system frees it when this process dies. On a file system without locks nothing is locked.

    Raises:
        ImagenetSDError: `busy`: another process has the lock.
    """
    lock = os.open(path, os.O_RDONLY if path.is_dir() else os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(lock)


@contextmanager
def on_sigterm(handler: Callable[[int, Any], object]) -> Iterator[None]:
    """Call `handler` on SIGTERM inside the block; for the main thread."""
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def stoppable() -> Iterator[None]:
    """Leave the block with `Interrupted` on SIGTERM or Ctrl-C; for the main thread.

    Raises:
        Interrupted: one of the two came.
    """
    received: list[int] = []

    def stop(signum: int, frame: object) -> None:  # no Exception: nothing that is tried again may catch it
        received.append(signum)
        raise KeyboardInterrupt

    try:
        with on_sigterm(stop):
            yield
    except KeyboardInterrupt:
        raise Interrupted(received[0] if received else signal.SIGINT) from None


def run_process(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command in an environment, hand SIGTERM on to it, and wait for it to end.

    Returns:
        Its exit code.

    Raises:
        Interrupted: it was stopped by SIGTERM.
    """
    with subprocess.Popen(arguments, env=environment) as process, on_sigterm(lambda *_: process.terminate()):
        try:
            code = process.wait()
        except BaseException:
            with suppress(OSError):
                process.terminate()
            process.wait()
            raise
    if code in (128 + signal.SIGTERM, -signal.SIGTERM):
        raise Interrupted(signal.SIGTERM)
    return code
