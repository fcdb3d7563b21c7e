"""Commands around running work: status, regenerate."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from imagenet_sd import pipeline
from imagenet_sd.cli.common import Dataset, Format, OutputFormat, app, print_json


@app.command()
def status(
    out: Dataset,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every few seconds until all is done.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 5.0,
    metrics_file: Annotated[
        Path | None, typer.Option("--metrics-file", metavar="FILE", help="Also write Prometheus text format.")
    ] = None,
    format: OutputFormat = Format.table,
) -> None:
    """Say how far a dataset is: shards, images per second, time left, workers, failed shards and their last errors."""
    while True:
        state = pipeline.status(out, metrics_file)
        print_json(state) if format is not Format.table else _print_state(state)
        if not watch or state["complete"]:
            return
        time.sleep(interval)


@app.command()
def regenerate(
    out: Dataset,
    id: Annotated[str, typer.Option("--id", metavar="IMAGE_ID", help="Such as n02086910_000017.")],
    format: OutputFormat = Format.table,
) -> None:
    """Draw one image again, alone, and say whether its pixels match the stored ones (exit code 1 if not)."""
    result = pipeline.regenerate(out, id)
    if format is not Format.table:
        print_json(result)
    elif result["identical"]:
        typer.echo(f"{id}: the very same pixels as in {result['shard']}, row {result['row']}")
    else:
        typer.echo(
            f"{id}: other pixels than in {result['shard']}, row {result['row']}; "
            f"the largest difference is {result['largest_difference']} of 255"
        )
    if not result["identical"]:
        raise typer.Exit(1)


def _print_state(state: dict[str, Any]) -> None:
    from imagenet_sd.core.progress import duration

    share = state["images_done"] / state["num_images"]
    typer.echo(
        f"{state['out']}: {state['shards_done']:,} of {state['num_shards']:,} shards, "
        f"{state['images_done']:,} of {state['num_images']:,} images ({share:.1%})"
    )
    left = "complete" if state["complete"] else "no worker is running"
    if state["eta_seconds"]:
        left = f"{duration(state['eta_seconds'])} left at {state['images_per_second']:.1f} images/s"
    typer.echo(
        f"{left}; {state['workers_live']} live workers, {state['workers_stale']} stale, "
        f"{state['shards_at_work']} shards in progress, {len(state['failed'])} failed"
    )
    for path, error in state["failed"].items():
        typer.echo(f"failed {path}: {error}")
