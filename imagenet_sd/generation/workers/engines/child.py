"""One worker process: loads the model once, works until no shard is left, reports to its parent how far it is.

Started as `python -m imagenet_sd.generation.workers.engines.child OUT RANK TTL OFFLOAD`; the plan is read
from the dataset folder, so nothing else has to be passed. Writes JSON lines to standard output.
"""

import json
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imagenet_sd.core import layout
from imagenet_sd.core.errors import DatasetError, DeviceError, ImagenetSDError, Interrupted, one_line, os_hint
from imagenet_sd.core.types import Shard
from imagenet_sd.generation.diffusion.options import Offload
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
    offload: Offload = "none",
    stop: Stop | None = None,
    on_batch: Callable[[Shard, int], object] = lambda shard, images_done: None,
    on_wait: Callable[[dict[str, str]], object] = lambda holders: None,
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
            worker = make_worker(dataset, offload=offload)
            yield WorkerLoop(
                dataset, worker.run_shard, board, journal, stop=stop, rank=rank, poll=min(1.0, ttl / 4),
                on_batch=on_batch, on_wait=on_wait,
            )  # fmt: skip
    finally:
        board.close()


def main() -> int:
    """Work; the exit code is 0: no work is left, 1: an error, 2: the GPU failed, 128 + signal: stopped."""
    out, rank, ttl, offload = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    stop = Stop(watch_parent=True)
    try:
        dataset = Dataset.open(out)
        options: dict[str, Any] = {"offload": offload, "stop": stop, "on_batch": _report_batch, "on_wait": _report_wait}
        with stop.listening(), open_loop(dataset, rank=rank, ttl=ttl, **options) as loop:
            _report({"worker": loop.board.worker})
            loop.run()
    except Interrupted as interrupted:
        return 128 + interrupted.signum
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (ImagenetSDError, OSError) as error:
        hint = error.hint if isinstance(error, ImagenetSDError) else os_hint(error)
        print(json.dumps({"error": one_line(error, 1000), "hint": hint}), flush=True)
        return 2 if isinstance(error, DeviceError) else 1
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {one_line(error, 1000)}", "hint": ""}), flush=True)
        raise
    return 0


def _report_batch(shard: Shard, images_done: int) -> None:
    _report({"shard": layout.shard_id(shard), "images_done": images_done})


def _report_wait(holders: dict[str, str]) -> None:
    _report({"waiting": holders})


def _report(message: dict[str, Any]) -> None:
    try:
        print(json.dumps(message), flush=True)
    except BrokenPipeError:
        raise DatasetError("the process that started this worker is gone") from None


if __name__ == "__main__":
    sys.exit(main())
