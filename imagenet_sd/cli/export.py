"""The command that writes a dataset in the formats of others."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from imagenet_sd import pipeline
from imagenet_sd.cli.common import Dataset, app, print_json


class ExportFormat(str, Enum):
    """What to write."""

    imagefolder = "imagefolder"
    webdataset = "webdataset"


@app.command()
def export(
    dataset: Dataset,
    format: Annotated[ExportFormat, typer.Option("--format", help="A folder per class, or one tar per shard.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; new, empty, or begun before.")],
    json: Annotated[bool, typer.Option("--json", help="Print the summary for programs.")] = False,
) -> None:
    """Write a dataset as an ImageFolder or as WebDataset tars. Run it again to go on where it stopped."""
    summary = pipeline.export_dataset(dataset, format.value, out)
    if missing := summary["shards_missing"]:
        typer.echo(
            f"warning: {missing} of {summary['num_shards']} shards are not generated yet; "
            "export again later to add them",
            err=True,
        )
    if json:
        return print_json(summary)
    typer.echo(
        f"{summary['target']}: {summary['images']:,} images, {summary['shards_written']} shards written, "
        f"{summary['shards_skipped']} there before, {missing} missing"
    )
