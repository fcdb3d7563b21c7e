"""Commands that hand a dataset on: export, push."""

from pathlib import Path
from typing import Any

import click

from imagenet_sd import pipeline
from imagenet_sd.cli.common import DATASET, FORMAT, app, folder, show
from imagenet_sd.cli.options import AT_LEAST_1, options
from imagenet_sd.core.process import stoppable


@app.command()
@DATASET
@click.option(
    "--format", required=True, type=click.Choice(["imagefolder", "webdataset"]),
    help="A folder per class, or one tar per shard.",
)  # fmt: skip
@folder("--out", "Folder to write; new, empty, or begun before.", required=True)
@click.option("--json", is_flag=True, help="Print the summary for programs.")
def export(dataset: Path, format: str, out: Path, json: bool) -> None:
    """Write a dataset as an ImageFolder or as WebDataset tars. Run it again to go on where it stopped."""
    summary = pipeline.export_dataset(dataset, format, out)  # pyright: ignore[reportArgumentType]
    if missing := summary["shards_missing"]:
        click.echo(
            f"warning: {missing} of {summary['num_shards']} shards are not generated yet; "
            "export again later to add them",
            err=True,
        )
    text = (
        "{target}: {images:,} images, {shards_written} shards written, "
        "{shards_skipped} there before, {shards_missing} missing"
    )
    show(summary, "json" if json else "table", text)


@app.command()
@DATASET
@click.argument("repo_id", metavar="REPO_ID", help="NAMESPACE/NAME of a dataset on the Hub.")
@options(
    pipeline.push, "settings", without=("token",),
    poll={"type": click.FloatRange(min=0.1)}, shards_per_commit={"type": AT_LEAST_1}, attempts={"type": AT_LEAST_1},
)  # fmt: skip
@FORMAT
def push(dataset: Path, repo_id: str, settings: dict[str, Any], format: str) -> None:
    """Upload the finished shards to the Hugging Face Hub. Run it again to go on; what is there is skipped."""
    with stoppable():
        result = pipeline.push(dataset, repo_id, **settings)
    show(result, format, _print_summary)
    if result["refused"]:
        click.echo("hint: `imagenet-sd verify --repair` generates damaged shards again", err=True)
        raise SystemExit(1)


def _print_summary(result: dict[str, Any]) -> None:
    refused = f", {len(result['refused'])} damaged and left out" if result["refused"] else ""
    missing = f", {result['shards_missing']:,} not generated yet" if result["shards_missing"] else ""
    click.echo(
        f"{result['repo_id']}: {result['shards_there']:,} of {result['num_shards']:,} shards are there, "
        f"{result['shards_uploaded']:,} uploaded in this run{refused}{missing}"
    )
