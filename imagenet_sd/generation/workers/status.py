"""Watching a dataset grow: the progress bar of a run, `status`, and metrics for Prometheus.

What it knows it reads from files; to ask the file server's clock it writes one in `.work` and deletes it.
"""

import json
import os
import statistics
import time
import uuid
from pathlib import Path
from typing import Any

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.progress import Progress
from imagenet_sd.core.types import GenerationPlan, Shard
from imagenet_sd.generation.workers.journal import events_folder
from imagenet_sd.generation.workers.leases import TTL, LeaseBoard, work_folder
from imagenet_sd.generation.workers.loop import failures, shard_name
from imagenet_sd.storage.writer import is_done, manifest_names, read_manifest

_RECENT = 64
_FORGOTTEN = 3600.0


class Watch:
    """Shows how far a dataset is, over all workers of all machines, while this process works on it.

    Args:
        out: dataset folder.
        plan: its plan.
        progress: the bar.
        metrics_file: Prometheus text file to keep up to date; None for none.
        interval: seconds between two looks at the folder.
    """

    def __init__(
        self, out: Path, plan: GenerationPlan, progress: Progress, metrics_file: Path | None, interval: float = 1.0
    ):
        self.out, self.plan, self.progress = out, plan, progress
        self.metrics_file, self.interval = metrics_file, interval
        self._partial: dict[int, tuple[str, int]] = {}
        self._looked = self._measured = 0.0
        self._done = manifest_names(out, plan)

    def unfinished(self) -> bool:
        """Whether a shard is not done, each looked at closely."""
        return bool(unfinished(self.out, self.plan))

    def on_batch(self, shard: Shard, drawn: int) -> None:
        """Note that a worker of this process has drawn so many images of a shard, and show it."""
        self.note(os.getpid(), shard_name(shard), drawn)
        self.show()

    def _is_done(self, shard: str) -> bool:
        round_, _, index = shard.partition("-")
        return f"train-{index}.json" in self._done.get(int(round_), ())

    def note(self, worker: int, shard: str, drawn: int) -> None:
        """Note that a worker has drawn so many images of a shard."""
        self._partial[worker] = (shard, drawn)

    def show(self, last: bool = False) -> None:
        """Bring bar and metrics up to date, at most once per interval."""
        now = time.monotonic()
        if not last and now - self._looked < self.interval:
            return
        self._looked, self._done = now, manifest_names(self.out, self.plan)
        partial = {shard: drawn for shard, drawn in self._partial.values() if not self._is_done(shard)}
        self.progress.update(min(self.plan.num_images, count_images(self.plan, self._done) + sum(partial.values())))
        if self.metrics_file and (last or now - self._measured > 10):
            self._measured = now
            write_metrics(status(self.out, self.plan), self.metrics_file)


def count_images(plan: GenerationPlan, done: dict[int, set[str]]) -> int:
    """Images in the shards of `manifest_names`; the last shard of a round may be smaller."""
    short = plan.shards_per_round * plan.shard_size - plan.images_per_round
    last = f"train-{plan.shards_per_round - 1:05d}.json"
    return sum(len(names) * plan.shard_size - short * (last in names) for names in done.values())


def status(out: Path, plan: GenerationPlan, ttl: float = TTL) -> dict[str, Any]:
    """How far a dataset is and who works on it.

    Returns:
        `num_images`, `images_done`, `num_shards`, `shards_done`, `images_per_second` (live workers times the median
        rate of the last 64 shards), `eta_seconds` (None when nobody works), `workers_live`, `workers_stale`,
        `shards_at_work`, `failed` (shard path -> last error), `complete`.
    """
    done = manifest_names(out, plan)
    images = count_images(plan, done)
    board = LeaseBoard(work_folder(out) / "leases", f"status-{uuid.uuid4().hex[:6]}", ttl)
    try:
        live, stale = _workers(out, board.now(), ttl) if images < plan.num_images else (0, 0)
        at_work = sum(board.held().values())
    finally:
        board.close()
    rate = live * _recent_rate(out, plan)
    left = plan.num_images - images
    return {
        "out": str(out),
        "fingerprint": plan.fingerprint,
        "num_images": plan.num_images,
        "images_done": images,
        "num_shards": plan.num_shards,
        "shards_done": sum(map(len, done.values())),
        "images_per_second": round(rate, 3),
        "eta_seconds": 0.0 if not left else round(left / rate, 1) if rate else None,
        "workers_live": live,
        "workers_stale": stale,
        "shards_at_work": at_work,
        "failed": failures(out, plan),
        "complete": left == 0,
    }


def _recent_rate(out: Path, plan: GenerationPlan) -> float:
    """Images a second of one worker: the median over the shards published last."""
    stamps = []
    for round_ in range(plan.rounds):
        folder = out / "data" / f"round-{round_:03d}" / ".manifests"
        if folder.is_dir():
            with os.scandir(folder) as entries:
                for entry in entries:
                    index = entry.name.removeprefix("train-").removesuffix(".json")
                    if index.isdigit() and int(index) < plan.shards_per_round:
                        stamps.append((entry.stat().st_mtime_ns, round_, int(index)))
    rates = []
    for _, round_, index in sorted(stamps)[-_RECENT:]:
        try:
            manifest = read_manifest(out, plan.shard(round_ * plan.shards_per_round + index))
            seconds = manifest.generator.get("seconds") if manifest else None
        except (DatasetError, AttributeError):
            continue
        if manifest and isinstance(seconds, (int, float)) and seconds > 0:
            rates.append(manifest.num_rows / seconds)
    return statistics.median(rates) if rates else 0.0


def _workers(out: Path, now: float, ttl: float) -> tuple[int, int]:
    """(live, stale) workers: those that have not said `stop`, by the age of their heartbeat.

    A worker that was killed never says it; after an hour of silence it is forgotten.
    """
    folder = events_folder(out)
    if not folder.is_dir():
        return 0, 0
    live = stale = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.endswith(".jsonl") or _last_event(Path(entry.path)) == "stop":
                continue
            age = now - entry.stat().st_mtime
            live, stale = live + (age <= ttl), stale + (ttl < age <= max(_FORGOTTEN, ttl))
    return live, stale


def _last_event(path: Path) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        lines = file.read().splitlines()
    try:
        return str(json.loads(lines[-1])["event"])
    except (IndexError, ValueError, KeyError, TypeError):
        return ""


def write_metrics(state: dict[str, Any], path: Path) -> None:
    """Publish a `status` in Prometheus text format, atomically, for node_exporter's textfile collector."""
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    gauges = {
        "images": ("num_images", "Images of the whole dataset."),
        "images_done": ("images_done", "Images in finished shards."),
        "shards": ("num_shards", "Shards of the whole dataset."),
        "shards_done": ("shards_done", "Finished shards."),
        "images_per_second": ("images_per_second", "Present rate over all live workers."),
        "workers_live": ("workers_live", "Workers with a fresh heartbeat."),
        "workers_stale": ("workers_stale", "Workers that fell silent without a word."),
    }
    label = {"dataset": Path(state["out"]).resolve().name}
    for name, (key, text) in gauges.items():
        Gauge(f"imagenet_sd_{name}", text, list(label), registry=registry).labels(**label).set(state[key])
    failed = Gauge("imagenet_sd_shards_failed", "Shards that failed each attempt.", list(label), registry=registry)
    failed.labels(**label).set(len(state["failed"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry)


def unfinished(out: Path, plan: GenerationPlan) -> list[int]:
    """Numbers of the shards that are not done, each looked at closely."""
    return [i for i in range(plan.num_shards) if not is_done(out, plan.shard(i), plan.fingerprint)]
