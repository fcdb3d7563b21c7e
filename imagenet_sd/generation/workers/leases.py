"""Leases: who works on which shard, told by files alone, on one machine or many.

A lease only saves work that two workers would do twice. Correctness never rests on it: shards are deterministic and
published atomically. Knows nothing of images or plans.
"""

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TTL = 120.0
_SUFFIX = ".lease"


def worker_name() -> str:
    """A name for this worker that no other worker has: host, process id, six random digits."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]
    return f"{host}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


@dataclass(slots=True)
class Lease:
    """A held lease. The open file is renewed, never the path: a lease that was stolen does not renew the thief's."""

    name: str
    path: Path
    descriptor: int

    def renew(self) -> None:
        """Set the time stamp to the file server's now."""
        with suppress(OSError):
            os.utime(self.descriptor)

    def release(self) -> None:
        """Give the lease back; one that was stolen meanwhile stays the thief's."""
        with suppress(OSError):
            if os.stat(self.path).st_ino == os.fstat(self.descriptor).st_ino:
                self.path.unlink()
        with suppress(OSError):
            os.close(self.descriptor)


class LeaseBoard:
    """The leases of one dataset folder, as one worker sees them.

    The age of a lease is the difference to a file that was touched just now in the same folder, so that the file
    server's clock is asked twice and a worker's clock never. A lease of a dead process of this very machine is stale
    at once.

    Args:
        folder: folder of the lease files; made when missing.
        worker: name of this worker.
        ttl: seconds without renewal after which a lease may be stolen.
        look_only: nothing will be claimed; a folder that cannot be written then serves too, with this machine's clock.
    """

    def __init__(self, folder: Path, worker: str, ttl: float = TTL, *, look_only: bool = False):
        self.folder, self.worker, self.ttl, self.look_only = folder, worker, ttl, look_only
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            if not look_only:
                raise
        self._clock = folder / f".clock-{worker}"
        self._owners: dict[tuple[str, int], tuple[str, int]] = {}

    def now(self) -> float:
        """Seconds since the epoch by the clock of the file server."""
        try:
            with open(self._clock, "ab") as file:
                os.utime(file.fileno())
                return os.fstat(file.fileno()).st_mtime
        except OSError:
            if not self.look_only:
                raise
            return time.time()

    def close(self) -> None:
        """Remove this worker's clock file."""
        with suppress(OSError):
            self._clock.unlink()

    def names(self) -> set[str]:
        """Names of all leases, live or stale, by one listing of the folder."""
        files = os.listdir(self.folder) if self.folder.is_dir() else []
        return {name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX) and not name.startswith(".")}

    def is_live(self, name: str, now: float) -> bool:
        """Whether somebody holds a lease and renews it; `now` is of this board."""
        path = self.folder / f"{name}{_SUFFIX}"
        try:
            return not self._stale(path, os.stat(path), now)
        except FileNotFoundError:
            return False

    def owner(self, name: str) -> str:
        """Name of the worker that holds a lease; "" when nobody does, or before it is written."""
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            return str(json.loads((self.folder / f"{name}{_SUFFIX}").read_bytes())["worker"])
        return ""

    def held(self) -> dict[str, bool]:
        """All leases: name -> whether it is live (True) or stale (False)."""
        now = self.now()
        return {name: self.is_live(name, now) for name in self.names()}

    def claim(self, name: str) -> Lease | None:
        """Take a lease that nobody holds, or that is stale; None when another worker holds it."""
        path = self.folder / f"{name}{_SUFFIX}"
        for _ in range(2):
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
            except FileExistsError:
                if not self._clear(path):
                    return None
                continue
            machine = _machine()
            os.write(descriptor, json.dumps({"worker": self.worker, "machine": machine, "pid": os.getpid()}).encode())
            return Lease(name, path, descriptor)
        return None

    def _clear(self, path: Path) -> bool:
        """Move a stale lease out of the way; False when it is live. Of several thieves one wins."""
        try:
            seen = os.stat(path)
            if not self._stale(path, seen, self.now()):
                return False
            moved = path.with_name(f".{path.name}.{uuid.uuid4().hex}.stale")
            os.rename(path, moved)
        except FileNotFoundError:
            return True
        taken = os.stat(moved)
        fresh = (taken.st_ino, taken.st_mtime_ns) != (seen.st_ino, seen.st_mtime_ns)
        if fresh:  # renewed, or another thief's new one, between the check and the rename: put it back
            with suppress(OSError):
                os.link(moved, path)
        moved.unlink()
        return not fresh

    def _stale(self, path: Path, facts: os.stat_result, now: float) -> bool:
        if abs(now - facts.st_mtime) > self.ttl:  # from the future: not renewed through this server's clock
            return True
        key = (path.name, facts.st_ino)
        if key not in self._owners:
            try:
                content = json.loads(path.read_bytes())
                self._owners[key] = (str(content["machine"]), int(content["pid"]))
            except (OSError, ArithmeticError, ValueError, KeyError, TypeError, RecursionError):
                return False  # not written yet, or garbled: its age decides
        machine, pid = self._owners[key]
        return machine == _machine() and not _alive(pid)


def _machine() -> str:
    """Where process ids mean the same: this boot of this kernel, this process namespace; if unknown, nowhere else."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"unknown-{uuid.uuid4().hex}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
