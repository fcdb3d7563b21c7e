"""Commands around running work: status, regenerate."""

import time
from pathlib import Path
from typing import Any

import click

from imagenet_sd import pipeline
from imagenet_sd.cli.common import DATASET, FORMAT, app, folder, show


@app.command()
@DATASET
@click.option("--watch", is_flag=True, help="Look again every few seconds until all is done.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=5.0, help="Seconds between two looks.")
@folder("--metrics-file", "Also write Prometheus text format.", metavar="FILE")
@FORMAT
def status(dataset: Path, watch: bool, interval: float, metrics_file: Path | None, format: str) -> None:
    """Say how far a dataset is: shards, images per second, time left, workers, failed shards and their last errors."""
    while True:
        state = pipeline.status(dataset, metrics_file)
        show(state, format, _print_state)
        if not watch or state["complete"]:
            return
        time.sleep(interval)


@app.command()
@DATASET
@click.option("--id", required=True, metavar="IMAGE_ID", help="Such as n02086910_000017.")
@FORMAT
def regenerate(dataset: Path, id: str, format: str) -> None:
    """Generate one image again, alone, and say whether its pixels match the stored ones (exit code 1 if not)."""
    result = pipeline.regenerate(dataset, id)
    show(result, format, _print_comparison)
    if not result["identical"]:
        raise SystemExit(1)


def _print_comparison(result: dict[str, Any]) -> None:
    place = f"in {result['shard']}, row {result['row']}"
    if result["identical"]:
        click.echo(f"{result['image_id']}: the same pixels as {place}")
    else:
        difference = f"the largest difference is {result['largest_difference']} of 255"
        click.echo(f"{result['image_id']}: other pixels than {place}; {difference}")


def _print_state(state: dict[str, Any]) -> None:
    from imagenet_sd.core.progress import duration

    share = state["images_done"] / state["num_images"]
    click.echo(
        f"{state['out']}: {state['shards_done']:,} of {state['num_shards']:,} shards, "
        f"{state['images_done']:,} of {state['num_images']:,} images ({share:.1%})"
    )
    left = "complete" if state["complete"] else "no worker is running"
    if state["eta_seconds"]:
        left = f"{duration(state['eta_seconds'])} left at {state['images_per_second']:.1f} images/s"
    click.echo(
        f"{left}; {state['workers_live']} live workers, {state['workers_stale']} stale, "
        f"{state['shards_at_work']} shards in progress, {len(state['failed'])} failed"
    )
    for path, error in state["failed"].items():
        click.echo(f"failed {path}: {error}")
