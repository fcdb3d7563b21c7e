"""Metrics of a dataset for Prometheus."""

from pathlib import Path
from typing import Any

_GAUGES = {
    "images": ("num_images", "Images of the whole dataset."),
    "images_done": ("images_done", "Images in finished shards."),
    "shards": ("num_shards", "Shards of the whole dataset."),
    "shards_done": ("shards_done", "Finished shards."),
    "images_per_second": ("images_per_second", "Present rate over all live workers."),
    "workers_live": ("workers_live", "Workers with a fresh heartbeat."),
    "workers_stale": ("workers_stale", "Workers that fell silent without a word."),
}


def write_metrics(state: dict[str, Any], path: Path) -> None:
    """Publish a `status` in Prometheus text format, atomically, for node_exporter's textfile collector."""
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    label = {"dataset": Path(state["out"]).resolve().name}
    values = {name: (state[key], text) for name, (key, text) in _GAUGES.items()}
    values["shards_failed"] = (len(state["failed"]), "Shards that failed each attempt.")
    for name, (value, text) in values.items():
        Gauge(f"imagenet_sd_{name}", text, list(label), registry=registry).labels(**label).set(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry)
