"""The worker loop: claim a shard, generate it, publish it, until none is left. The same for every engine.

Workers join, leave and die as they like; the rank only sets where the scan starts. Knows nothing of torch.
"""

import errno
import time
from collections import deque
from collections.abc import Callable

from imagenet_sd.core import layout
from imagenet_sd.core.errors import (
    DeviceError,
    GenerationMemoryError,
    ImagenetSDError,
    Interrupted,
    ModelError,
    one_line,
)
from imagenet_sd.core.files import write_json
from imagenet_sd.core.types import Shard, ShardManifest
from imagenet_sd.generation.workers.journal import Journal
from imagenet_sd.generation.workers.leases import Lease, LeaseBoard
from imagenet_sd.generation.workers.stop import Stop
from imagenet_sd.storage.dataset import Dataset

ATTEMPTS = 3
_GOLDEN = 0.6180339887498949
_FATAL_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

RunShard = Callable[[int, Callable[[int], object]], ShardManifest]


class WorkerLoop:
    """Takes shards of a dataset one after the other.

    Args:
        dataset: what to generate.
        run_shard: generates and publishes shard i; calls its second argument before each batch.
        board: the leases.
        journal: the events; its heartbeat renews the lease that is held.
        stop: when to give the shard back.
        rank: where the scan starts, spread over the plan by the golden ratio, so no worker needs to know how many
            there are.
        poll: seconds between two scans when other workers hold all that is left.
        on_batch: called with (shard, images done of it) before each batch, and when the shard is published.
        on_wait: called while other workers hold all that is left, with shard id -> name of the worker.
    """

    def __init__(
        self,
        dataset: Dataset,
        run_shard: RunShard,
        board: LeaseBoard,
        journal: Journal,
        *,
        stop: Stop | None = None,
        rank: int = 0,
        poll: float = 1.0,
        on_batch: Callable[[Shard, int], object] = lambda shard, images_done: None,
        on_wait: Callable[[dict[str, str]], object] = lambda holders: None,
    ):
        self.dataset, self.plan = dataset, dataset.plan
        self.run_shard, self.board, self.journal = run_shard, board, journal
        self.stop, self.poll, self.on_batch, self.on_wait = stop or Stop(), poll, on_batch, on_wait
        first = int(rank * _GOLDEN % 1 * self.plan.num_shards)
        self.pending = deque((first + k) % self.plan.num_shards for k in range(self.plan.num_shards))
        self._started = board.now()
        self._listed_at_start = dataset.listed_shards()  # by earlier runs; those that come later were published whole

    def run(self) -> None:
        """Work until every shard is done, failed in this run, or held by another worker that finishes it.

        Raises:
            Interrupted: a signal came; the shard was given back.
            ModelError, GenerationMemoryError, DeviceError, OSError: no shard could be generated here, such as with a
                full disk.
        """
        while True:
            self.stop.check()
            claimed = self._claim()
            if claimed:
                self.attempt(*claimed)
            elif self.pending:
                names = (layout.shard_id(self.plan.shard(i)) for i in self.pending)
                self.on_wait({name: owner for name in names if (owner := self.board.owner(name))})
                time.sleep(self.poll)
            else:
                return

    def _claim(self) -> tuple[int, Lease] | None:
        """The next shard that nobody has: two listings, and a check of the few shards that are passed by."""
        listed, leases, now = self.dataset.listed_shards(), self.board.names(), self.board.now()
        for _ in range(len(self.pending)):
            i = self.pending[0]
            shard = self.plan.shard(i)
            name = layout.shard_id(shard)
            free = name not in leases or not self.board.is_live(name, now)
            done = i in listed and (i not in self._listed_at_start or self.dataset.is_done(shard))
            if done or self._failed_in_this_run(shard):
                self.pending.popleft()
                if free and name in leases and (abandoned := self.board.claim(name)):
                    abandoned.release()  # its holder died between publishing and release
                continue
            self.pending.rotate(-1)
            lease = self.board.claim(name) if free else None
            if lease is None:
                continue
            if self.dataset.is_done(shard):  # published between the listing and the claim
                lease.release()
                self.pending.remove(i)
                continue
            return i, lease
        return None

    def _failed_in_this_run(self, shard: Shard) -> bool:
        try:
            return layout.failure_path(self.dataset.folder, shard).stat().st_mtime >= self._started
        except OSError:
            return False

    def attempt(self, i: int, lease: Lease | None = None) -> str:
        """Generate shard `i`, again if it fails; a shard that fails each time is marked and left.

        Returns:
            "" or the last error.

        Raises:
            See `run`.
        """
        shard, self.journal.lease = self.plan.shard(i), lease
        name, failure = layout.shard_id(shard), layout.failure_path(self.dataset.folder, shard)
        self.journal.write("claim", shard=name)
        try:
            error = ""
            for number in range(1, ATTEMPTS + 1):
                if not (error := self._try(i, shard)):
                    failure.unlink(missing_ok=True)
                    return ""
                self.journal.write("retry", shard=name, attempt=number, error=error)
            failure.parent.mkdir(parents=True, exist_ok=True)
            write_json(failure, {"shard": name, "error": error, "worker": self.journal.worker})
            self.journal.write("failed", shard=name, error=error)
            return error
        finally:
            self.journal.lease = None
            if lease:
                lease.release()

    def _try(self, i: int, shard: Shard) -> str:
        """One attempt: "" or the error. What another attempt, or another shard, would meet too is raised."""

        def before_batch(images_done: int) -> None:
            self.stop.check()
            self.on_batch(shard, images_done)

        name = layout.shard_id(shard)
        try:
            manifest = self.run_shard(i, before_batch)
        except Exception as error:
            if isinstance(error, Interrupted) or _affects_every_shard(error):
                self.journal.write("released", shard=name, reason=_describe(error))
                raise
            return _describe(error)
        seconds = manifest.generator.get("seconds")
        self.journal.write("done", shard=name, images=manifest.num_rows, seconds=seconds)
        self.on_batch(shard, shard.num_rows)
        return ""


def _affects_every_shard(error: Exception) -> bool:
    """Whether every other shard would meet the same error here: weights, memory, a broken GPU, a full disk."""
    if isinstance(error, (ModelError, GenerationMemoryError, DeviceError)):
        return True
    return isinstance(error, OSError) and error.errno in _FATAL_ERRNO


def _describe(error: Exception) -> str:
    text = one_line(error, 500)
    return text if isinstance(error, ImagenetSDError) else f"{type(error).__name__}: {text}"
