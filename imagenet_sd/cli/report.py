"""The command that writes a report."""

from pathlib import Path
from typing import Annotated

import typer

from imagenet_sd import pipeline
from imagenet_sd.cli.common import Format, OutputFormat, app, print_json


@app.command()
def report(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS...", help="results.json, study.json, folders of runs and of datasets."),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="HTML", help="The page; a .md and a folder of figures come beside it.")
    ] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "imagenet-sd report",
    classes: Annotated[int, typer.Option(min=0, help="Classes on a contact sheet at most.")] = 20,
    images_per_class: Annotated[int, typer.Option(min=1, help="Sample images of a class.")] = 6,
    format: OutputFormat = Format.table,
) -> None:
    """Write a page with all that was measured, the papers' numbers beside it, figures and sample images."""
    result = pipeline.report(results, out, title=title, classes=classes, images_per_class=images_per_class)
    if format is not Format.table:
        return print_json(result)
    typer.echo(f"report: {result['page']}")
    typer.echo(f"as Markdown: {result['markdown']}, with {len(result['figures'])} figures")
    for line in result["missing"]:
        typer.echo(f"without data: {line}")
