"""The journal: one JSON-lines file of events per worker, whose time stamp is also the worker's heartbeat."""

import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from imagenet_sd.core import layout
from imagenet_sd.core.errors import one_line
from imagenet_sd.generation.workers.leases import Lease


class Journal:
    """Appends events, one line each, and keeps worker and lease alive from a thread of its own. A context manager.

    Events: `start`, `claim`, `done`, `retry`, `failed`, `released`, `stop`; each with `time` (the node's clock, for
    people; nothing is decided by it).

    Args:
        folder: dataset folder.
        worker: name of this worker.
        beat: seconds between two heartbeats.
    """

    def __init__(self, folder: Path, worker: str, beat: float = 30.0):
        events = folder / layout.EVENTS
        events.mkdir(parents=True, exist_ok=True)
        self.path = events / f"{worker}.jsonl"
        self.worker, self.beat = worker, beat
        self.lease: Lease | None = None
        self._descriptor = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="heartbeat", daemon=True)

    def __enter__(self) -> "Journal":
        self.write("start", worker=self.worker, pid=os.getpid())
        self._thread.start()
        return self

    def __exit__(self, kind: object, value: BaseException | None, trace: object) -> None:
        self._over.set()
        self._thread.join()
        self.write("stop", reason=one_line(value, 500) if value else "no work left")
        os.close(self._descriptor)

    def write(self, event: str, **facts: object) -> None:
        """Append one event in one write. A full disk must not stop the work, so its error is ignored."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts}, ensure_ascii=False) + "\n"
        with suppress(OSError):
            os.write(self._descriptor, line.encode())

    def _keep_alive(self) -> None:
        while not self._over.wait(self.beat):
            with suppress(OSError):
                os.utime(self._descriptor)
            if lease := self.lease:
                lease.renew()
