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
@click.argument(
    "out", metavar="OUT", type=click.Path(path_type=Path), help="Folder of a dataset, or of a finished run of `train`."
)
@click.argument("repo_id", metavar="REPO_ID", help="NAMESPACE/NAME of a dataset or a model on the Hub.")
@options(
    pipeline.push, "settings", without=("token",),
    poll={"type": click.FloatRange(min=0.1)}, shards_per_commit={"type": AT_LEAST_1}, attempts={"type": AT_LEAST_1},
)  # fmt: skip
@FORMAT
def push(out: Path, repo_id: str, settings: dict[str, Any], format: str) -> None:
    """Upload finished shards, or the encoder of a run, to the Hugging Face Hub. What is there is skipped."""
    with stoppable():
        if (out / "recipe.yaml").is_file():
            taken = {key: settings[key] for key in ("private", "revision", "attempts")}
            return show(pipeline.push_run(out, repo_id, **taken), format, _RUN_SUMMARY)
        result = pipeline.push(out, repo_id, **settings)
    show(result, format, _print_summary)
    if result["refused"]:
        click.echo("hint: `imagenet-sd verify --repair` generates damaged shards again", err=True)
        raise SystemExit(1)


_RUN_SUMMARY = (
    "{repo_id}: {architecture}, {num_classes} classes, {files_uploaded} files uploaded; load it with "
    'timm.create_model("hf-hub:{repo_id}", pretrained=True)'
)


def _print_summary(result: dict[str, Any]) -> None:
    refused = f", {len(result['refused'])} damaged and left out" if result["refused"] else ""
    missing = f", {result['shards_missing']:,} not generated yet" if result["shards_missing"] else ""
    click.echo(
        f"{result['repo_id']}: {result['shards_there']:,} of {result['num_shards']:,} shards are there, "
        f"{result['shards_uploaded']:,} uploaded in this run{refused}{missing}"
    )
