"""One worker process: loads the model once, works until no shard is left, reports to its parent how far it is.

Started as `python -m imagenet_sd.generation.workers.engines.child OUT RANK TTL`; the plan is read from the
dataset folder, so nothing else has to be passed. Writes JSON lines to standard output.
"""

import json
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from imagenet_sd.core import layout
from imagenet_sd.core.errors import DatasetError, ImagenetSDError, Interrupted
from imagenet_sd.core.types import Shard
from imagenet_sd.generation.workers.journal import Journal
from imagenet_sd.generation.workers.leases import TTL, LeaseBoard, worker_name
from imagenet_sd.generation.workers.loop import WorkerLoop
from imagenet_sd.generation.workers.stop import Stop
from imagenet_sd.storage.dataset import Dataset


@contextmanager
def open_loop(
    dataset: Dataset,
    *,
    rank: int = 0,
    ttl: float = TTL,
    stop: Stop | None = None,
    on_batch: Callable[[Shard, int], object] = lambda shard, images_done: None,
):
    """A worker loop on this process's device, with its model loaded.

    Raises:
        ImagenetSDError: the weights are not usable.
    """
    from imagenet_sd.generation.worker import make_worker

    name = worker_name()
    board = LeaseBoard(dataset.folder / layout.LEASES, name, ttl)
    try:
        with Journal(dataset.folder, name, ttl / 4) as journal:
            worker = make_worker(dataset)
            poll = min(1.0, ttl / 4)
            yield WorkerLoop(
                dataset, worker.run_shard, board, journal, stop=stop, rank=rank, poll=poll, on_batch=on_batch
            )
    finally:
        board.close()


def main() -> int:
    """Work; the exit code is 0 when no work is left, 1 after a known error, 128 + signal when stopped."""
    out, rank, ttl = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    stop = Stop(watch_parent=True)
    try:
        dataset = Dataset.open(out)
        with stop.listening(), open_loop(dataset, rank=rank, ttl=ttl, stop=stop, on_batch=_report) as loop:
            loop.run()
    except Interrupted as interrupted:
        return 128 + interrupted.signum
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (ImagenetSDError, OSError) as error:
        hint = error.hint if isinstance(error, ImagenetSDError) else "free space or repair the folder, then run again"
        print(json.dumps({"error": " ".join(str(error).split()), "hint": hint}), flush=True)
        return 1
    return 0


def _report(shard: Shard, images_done: int) -> None:
    try:
        print(json.dumps({"shard": layout.shard_id(shard), "images_done": images_done}), flush=True)
    except BrokenPipeError:
        raise DatasetError("the process that started this worker is gone") from None


if __name__ == "__main__":
    sys.exit(main())
