"""How far a dataset is: the progress of a run, and `status`, over all workers of all machines.

What they know they read from files; to ask the file server's clock they write a file among the leases and delete it,
where they may.
"""

import json
import os
import statistics
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagenet_sd.core import layout
from imagenet_sd.core.errors import DatasetError, printable
from imagenet_sd.core.files import read_json
from imagenet_sd.core.progress import Progress, counted
from imagenet_sd.core.types import Shard
from imagenet_sd.generation.workers.leases import TTL, LeaseBoard
from imagenet_sd.generation.workers.metrics import write_metrics
from imagenet_sd.storage.dataset import Dataset

_RECENT = 64
_FORGOTTEN = 3600.0
_PATIENCE, _REMIND = 3.0, 60.0


class RunProgress:
    """Shows how far a dataset is while this process works on it.

    Args:
        dataset: the dataset.
        bar: what shows it.
        metrics_file: Prometheus text file to keep up to date; None for none.
        interval: seconds between two listings of the folder.
    """

    def __init__(self, dataset: Dataset, bar: Progress, metrics_file: Path | None, interval: float = 1.0):
        self.dataset, self.bar = dataset, bar
        self.metrics_file, self.interval = metrics_file, interval
        self._in_progress: dict[int, tuple[int, int]] = {}  # process id -> (number of a shard, images done of it)
        self._updated = self._measured = 0.0
        self.generated: set[int] = set()
        """Numbers of the shards that workers of this run have published."""
        self._waiting_since, self._said = 0.0, ("", 0.0)

    def on_batch(self, shard: Shard, images_done: int) -> None:
        """Note how many images of a shard a worker of this process has done, and show it."""
        self.note(os.getpid(), layout.shard_id(shard), images_done)
        self.update()

    def note(self, worker: int, shard_id: str, images_done: int) -> None:
        """Note how many images of a shard the worker with this process id has done."""
        i = self.dataset.plan.number(*layout.parse_shard_id(shard_id))
        self._in_progress[worker], self._waiting_since = (i, images_done), 0.0
        if images_done == self.dataset.plan.shard(i).num_rows:
            self.generated.add(i)

    def on_wait(self, holders: dict[str, str]) -> None:
        """Say for whom this run waits: after some seconds, and again each minute or when it is for another.

        Args:
            holders: shard id -> name of a worker of another run.
        """
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        self.update()
        if not holders or now - self._waiting_since < _PATIENCE:
            return
        (name, worker), *others = holders.items()
        more = f", and for {counted(len(others), 'shard')} of others" if others else ""
        text = f"waiting for shard {name}, which {worker} is generating{more}"
        if text != self._said[0] or now - self._said[1] > _REMIND:
            self._said = text, now
            self.bar.say(text)

    def update(self, last: bool = False) -> None:
        """Bring bar and metrics up to date, at most once per interval."""
        now = time.monotonic()
        if not last and now - self._updated < self.interval:
            return
        listed, self._updated = self.dataset.listed_shards(), now
        partial = sum(images for i, images in list(self._in_progress.values()) if i not in listed)
        self.bar.update(min(self.dataset.plan.num_images, self.dataset.count_images(listed) + partial))
        if self.metrics_file and (last or now - self._measured > 10):
            self._measured = now
            write_metrics(status(self.dataset), self.metrics_file)


def status(dataset: Dataset, ttl: float = TTL) -> dict[str, Any]:
    """How far a dataset is and who works on it.

    Returns:
        `num_images`, `images_done`, `num_shards`, `shards_done`, `images_per_second` (live workers times the median
        rate of the last 64 shards), `eta_seconds` (None when nobody works), `workers_live`, `workers_stale`,
        `shards_at_work`, `failed` (shard path -> last error), `complete`.
    """
    plan, listed = dataset.plan, dataset.listed_shards()
    images = dataset.count_images(listed)
    board = LeaseBoard(dataset.folder / layout.LEASES, f"status-{uuid.uuid4().hex[:6]}", ttl, look_only=True)
    try:
        live, stale = _workers(dataset, board.now(), ttl) if images < plan.num_images else (0, 0)
        in_progress = sum(board.held().values())
    finally:
        board.close()
    rate = live * _recent_rate(dataset, listed)
    left = plan.num_images - images
    return {
        "out": str(dataset.folder),
        "fingerprint": plan.fingerprint,
        "num_images": plan.num_images,
        "images_done": images,
        "num_shards": plan.num_shards,
        "shards_done": len(listed),
        "images_per_second": round(rate, 3),
        "eta_seconds": 0.0 if not left else round(left / rate, 1) if rate else None,
        "workers_live": live,
        "workers_stale": stale,
        "shards_at_work": in_progress,
        "failed": failures(dataset),
        "complete": left == 0,
    }


def failures(dataset: Dataset) -> dict[str, str]:
    """Failed shards that are not done yet: path of the shard's file in the dataset -> its last error."""
    errors = {}
    for path in sorted((dataset.folder / layout.FAILURES).glob("*.json")):
        with suppress(ValueError, IndexError, DatasetError, KeyError, TypeError):
            shard = dataset.plan.shard(dataset.plan.number(*layout.parse_shard_id(path.stem)))
            if not dataset.is_done(shard):
                errors[dataset.relative(dataset.shard_path(shard))] = printable(str(read_json(path)["error"]))
    return errors


def _recent_rate(dataset: Dataset, listed: set[int]) -> float:
    """Images a second of one worker: the median over the shards published last."""
    shards = map(dataset.plan.shard, listed)
    by_time = sorted(
        (dataset.manifest_path(shard).stat().st_mtime_ns, shard.round, shard.index, shard) for shard in shards
    )
    rates = []
    for *_, shard in by_time[-_RECENT:]:
        try:
            manifest = dataset.manifest(shard)
            seconds = manifest.generator.get("seconds") if manifest else None
        except (DatasetError, AttributeError):
            continue
        if manifest and isinstance(seconds, (int, float)) and seconds > 0:
            rates.append(manifest.num_rows / seconds)
    return statistics.median(rates) if rates else 0.0


def _workers(dataset: Dataset, now: float, ttl: float) -> tuple[int, int]:
    """(live, stale) workers: those that have not written `stop`, by the age of their heartbeat.

    A worker that was killed never writes it; after an hour of silence it is forgotten.
    """
    live = stale = 0
    for path in (dataset.folder / layout.EVENTS).glob("*.jsonl"):
        if _last_event(path) != "stop":
            age = now - path.stat().st_mtime
            live, stale = live + (age <= ttl), stale + (ttl < age <= max(_FORGOTTEN, ttl))
    return live, stale


def _last_event(path: Path) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        lines = file.read().splitlines()
    try:
        return str(json.loads(lines[-1])["event"])
    except (IndexError, ValueError, KeyError, TypeError, RecursionError):
        return ""
