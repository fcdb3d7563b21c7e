"""The worker loop: claim a shard, draw it, publish it, until none is left. The same for every engine.

Workers join, leave and die as they like; the rank only sets where the scan starts. Knows nothing of torch.
"""

import errno
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

from imagenet_sd.core.errors import DatasetError, GenerationMemoryError, ImagenetSDError, Interrupted, ModelError
from imagenet_sd.core.files import read_json, write_json
from imagenet_sd.core.types import GenerationPlan, Shard, ShardManifest
from imagenet_sd.generation.workers.journal import Journal
from imagenet_sd.generation.workers.leases import Lease, LeaseBoard, work_folder
from imagenet_sd.storage.writer import is_done, manifest_names, manifest_path

ATTEMPTS = 3
_GOLDEN = 0.6180339887498949
_HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

RunShard = Callable[[int, Callable[[int], object]], ShardManifest]


def shard_name(shard: Shard) -> str:
    """Name of a shard's lease and failure files, e.g. `000-00017`."""
    return f"{shard.round:03d}-{shard.index:05d}"


def failure_path(out: Path, shard: Shard) -> Path:
    """Where the last error of a failed shard is written."""
    return work_folder(out) / "failed" / f"{shard_name(shard)}.json"


def failures(out: Path, plan: GenerationPlan) -> dict[str, str]:
    """Failed shards that are not done yet: path of the shard's file in the dataset -> its last error."""
    found = {}
    folder = work_folder(out) / "failed"
    names = {path.name for path in folder.glob("*.json")} if folder.is_dir() else set()
    for name in sorted(names):
        with suppress(ValueError, IndexError, DatasetError, KeyError, TypeError):
            round_, index = map(int, name.removesuffix(".json").split("-"))
            shard = plan.shard(round_ * plan.shards_per_round + index)
            if not is_done(out, shard, plan.fingerprint):
                error = read_json(folder / name)["error"]
                found[f"data/round-{shard.round:03d}/{shard.filename}"] = str(error)
    return found


class Stop:
    """Whether work should stop: a SIGTERM or SIGINT came, or the process that started this one is gone.

    The second signal of a kind stops at once, with KeyboardInterrupt.
    """

    def __init__(self, watch_parent: bool = False):
        self.signum = 0
        self._parent = os.getppid() if watch_parent else None

    @contextmanager
    def listening(self):
        """Catch the two signals inside the block; other threads than the main one leave them alone."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, signum: int, frame: object) -> None:
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum

    def check(self) -> None:
        """Raise Interrupted when work should stop."""
        if self._parent is not None and os.getppid() != self._parent:
            self.signum = self.signum or signal.SIGTERM
        if self.signum:
            raise Interrupted(self.signum)


class WorkerLoop:
    """Takes shards of a plan one after the other.

    Args:
        out: dataset folder.
        plan: its plan.
        run_shard: draws and publishes shard i; calls its second argument before each batch.
        board: the leases.
        journal: the events; its heartbeat renews the lease at hand.
        stop: when to hand the shard back.
        rank: where the scan starts, spread over the plan by the golden ratio, so no worker needs to know how many
            there are.
        poll: seconds between two looks when all that is left is in other hands.
        on_batch: called with (shard, images drawn of it) before each batch.
    """

    def __init__(
        self,
        out: Path,
        plan: GenerationPlan,
        run_shard: RunShard,
        board: LeaseBoard,
        journal: Journal,
        *,
        stop: Stop | None = None,
        rank: int = 0,
        poll: float = 1.0,
        on_batch: Callable[[Shard, int], object] = lambda shard, drawn: None,
    ):
        self.out, self.plan, self.run_shard, self.board, self.journal = out, plan, run_shard, board, journal
        self.stop, self.poll, self.on_batch = stop or Stop(), poll, on_batch
        first = int(rank * _GOLDEN % 1 * plan.num_shards)
        self.pending = deque((first + k) % plan.num_shards for k in range(plan.num_shards))
        self._started = board.now()
        self._found = manifest_names(out, plan)  # by earlier runs; those that come to it now were published whole

    def run(self) -> None:
        """Work until every shard is done, failed in this run, or in other hands that finish it.

        Raises:
            Interrupted: a signal came; the shard at hand was given back.
            ModelError, GenerationMemoryError, OSError: no shard could be drawn here, such as with a full disk.
        """
        while True:
            self.stop.check()
            claimed = self._claim()
            if claimed:
                self.attempt(*claimed)
            elif self.pending:
                time.sleep(self.poll)
            else:
                return

    def _claim(self) -> tuple[int, Lease] | None:
        """The next shard that nobody has: two listings, and a closer look at the few shards that are passed by."""
        done, leases, now = manifest_names(self.out, self.plan), self.board.names(), self.board.now()
        for _ in range(len(self.pending)):
            i = self.pending[0]
            shard = self.plan.shard(i)
            name = shard_name(shard)
            free = name not in leases or not self.board.is_live(name, now)
            manifest = manifest_path(self.out, shard).name
            over = manifest in done.get(shard.round, ())
            if over and manifest in self._found.get(shard.round, ()):
                over = self._is_done(shard)
            if over or self._failed_in_this_run(shard):
                self.pending.popleft()
                if free and name in leases and (left_over := self.board.claim(name)):
                    left_over.release()  # its holder died between publishing and release
                continue
            self.pending.rotate(-1)
            lease = self.board.claim(name) if free else None
            if lease is None:
                continue
            if self._is_done(shard):  # published between the look and the claim
                lease.release()
                self.pending.remove(i)
                continue
            return i, lease
        return None

    def _is_done(self, shard: Shard) -> bool:
        return is_done(self.out, shard, self.plan.fingerprint)

    def _failed_in_this_run(self, shard: Shard) -> bool:
        try:
            return failure_path(self.out, shard).stat().st_mtime >= self._started
        except OSError:
            return False

    def attempt(self, i: int, lease: Lease | None = None) -> str:
        """Draw shard `i`, again if it fails; a shard that fails each time is marked and left.

        Returns:
            "" or the last error.

        Raises:
            See `run`.
        """
        shard, self.journal.lease = self.plan.shard(i), lease
        name, error = shard_name(shard), ""
        self.journal.write("claim", shard=name)

        def before_batch(drawn: int) -> None:
            self.stop.check()
            self.on_batch(shard, drawn)

        try:
            for number in range(1, ATTEMPTS + 1):
                try:
                    manifest = self.run_shard(i, before_batch)
                except Exception as fault:
                    if isinstance(fault, Interrupted) or _is_hopeless(fault):
                        self.journal.write("released", shard=name, reason=_line(fault))
                        raise
                    error = _line(fault)
                    self.journal.write("retry", shard=name, attempt=number, error=error)
                else:
                    failure_path(self.out, shard).unlink(missing_ok=True)
                    seconds = manifest.generator.get("seconds")
                    self.journal.write("done", shard=name, images=manifest.num_rows, seconds=seconds)
                    return ""
            failure_path(self.out, shard).parent.mkdir(parents=True, exist_ok=True)
            write_json(failure_path(self.out, shard), {"shard": name, "error": error, "worker": self.journal.worker})
            self.journal.write("failed", shard=name, error=error)
            return error
        finally:
            self.journal.lease = None
            if lease:
                lease.release()


def _is_hopeless(fault: Exception) -> bool:
    """Whether every other shard would meet the same fault here: weights, memory, a full or read-only disk."""
    if isinstance(fault, (ModelError, GenerationMemoryError)):
        return True
    return isinstance(fault, OSError) and fault.errno in _HOPELESS


def _line(fault: BaseException) -> str:
    text = " ".join(str(fault).split())[:500]
    return text if isinstance(fault, ImagenetSDError) else f"{type(fault).__name__}: {text}"
