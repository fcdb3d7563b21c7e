"""The command that writes a report."""

from pathlib import Path
from typing import Any

import click

from imagenet_sd import pipeline
from imagenet_sd.cli.common import FORMAT, app, folder, show
from imagenet_sd.cli.options import AT_LEAST_0, AT_LEAST_1, options


@app.command()
@click.argument(
    "results", nargs=-1, required=True, metavar="RESULTS...", type=click.Path(path_type=Path),
    help="results.json, study.json, folders of runs and of datasets.",
)  # fmt: skip
@folder("--out", "The page; a .md and a folder of figures come beside it.", metavar="HTML", default=Path("report.html"))
@options(pipeline.report, "settings", classes={"type": AT_LEAST_0}, images_per_class={"type": AT_LEAST_1})
@FORMAT
def report(results: tuple[Path, ...], out: Path, settings: dict[str, Any], format: str) -> None:
    """Write a page with all that was measured, the papers' numbers beside it, figures and sample images."""
    show(pipeline.report(list(results), out, **settings), format, _print_summary)


def _print_summary(result: dict[str, Any]) -> None:
    click.echo(f"report: {result['page']}")
    click.echo(f"as Markdown: {result['markdown']}, with {len(result['figures'])} figures")
    for line in result["missing"]:
        click.echo(f"without data: {line}")
