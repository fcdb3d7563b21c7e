"""The command that writes a dataset in the formats of others."""

from pathlib import Path

import click

from imagenet_sd import pipeline
from imagenet_sd.cli.common import DATASET, app, folder, print_json


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
    if json:
        return print_json(summary)
    click.echo(
        f"{summary['target']}: {summary['images']:,} images, {summary['shards_written']} shards written, "
        f"{summary['shards_skipped']} there before, {missing} missing"
    )
