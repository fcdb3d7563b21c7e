"""Fakes for what is slow or rare: a generator that returns images generated before, and faults at chosen moments."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from imagenet_sd.core import layout
from imagenet_sd.core.types import ShardManifest
from imagenet_sd.generation.workers.journal import Journal
from imagenet_sd.generation.workers.leases import LeaseBoard, worker_name
from imagenet_sd.generation.workers.loop import WorkerLoop
from imagenet_sd.generation.workers.stop import Stop
from imagenet_sd.storage.dataset import Dataset
from imagenet_sd.storage.schema import Row
from imagenet_sd.storage.writer import write_shard


class Replay:
    """Generates shards by reading the same rows from a finished dataset; publishes them with the real code."""

    def __init__(self, reference: Path, dataset: Dataset):
        self.reference, self.dataset = reference, dataset
        self.generated: list[int] = []

    def run_shard(self, i: int, on_batch: Callable[[int], object] = lambda images_done: None) -> ShardManifest:
        shard = self.dataset.plan.shard(i)
        rows = []
        for row in pq.read_table(layout.shard_path(self.reference, shard)).to_pylist():
            on_batch(len(rows))
            rows.append(Row(jpeg=row.pop("image")["bytes"], **row))
        self.generated.append(i)
        return write_shard(self.dataset, shard, rows, {"seconds": 1.0})


@contextmanager
def replay_loop(reference: Path, out: Path, ttl: float = 30.0, rank: int = 0, stop: Stop | None = None):
    """(loop, replay) on the folder `out`, which gets the plan of `reference` when it has none."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "dataset.json").exists():
        (out / "dataset.json").write_bytes((reference / "dataset.json").read_bytes())
    dataset, name = Dataset.open(out), worker_name()
    replay = Replay(reference, dataset)
    board = LeaseBoard(out / layout.LEASES, name, ttl)
    with Journal(out, name, ttl / 4) as journal:
        yield WorkerLoop(dataset, replay.run_shard, board, journal, rank=rank, stop=stop, poll=0.02), replay
    board.close()


def die_at(step: int) -> None:
    """SIGKILL this process before its `step`-th call of os.fsync or os.replace: each point of publishing."""
    count = 0

    def counted(function):
        def wrapper(*args):
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args)

        return wrapper

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)


if __name__ == "__main__":  # REFERENCE OUT STEP: replay a dataset and die while publishing
    die_at(int(sys.argv[3]))
    with replay_loop(Path(sys.argv[1]), Path(sys.argv[2])) as (loop, _):
        loop.run()
