"""Commands that hand a dataset on: export, push."""

from pathlib import Path
from typing import Any

import click

from imagenet_sd import pipeline
from imagenet_sd.cli.common import DATASET, FORMAT, app, echo, folder, show
from imagenet_sd.cli.options import AT_LEAST_1, options
from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.process import stoppable
from imagenet_sd.core.progress import counted


@app.command()
@DATASET
@click.option(
    "--format", required=True, type=click.Choice(["imagefolder", "webdataset"]),
    help="A folder per class, or one tar per shard.",
)  # fmt: skip
@folder("--out", "Folder to write; new, empty, or begun before.", required=True)
@click.option("--verify", is_flag=True, help="Compare what is there with the shards byte by byte, not by size alone.")
@click.option("--json", is_flag=True, help="Print the summary for programs.")
def export(dataset: Path, format: str, out: Path, verify: bool, json: bool) -> None:
    """Write a dataset as an ImageFolder or as WebDataset tars. Run it again to go on where it stopped."""
    summary = pipeline.export_dataset(dataset, format, out, verify=verify)  # pyright: ignore[reportArgumentType]
    if missing := summary["shards_missing"]:
        echo(
            f"warning: {missing:,} of {counted(summary['num_shards'], 'shard')} are not generated yet; "
            "export again later to add them",
            err=True,
        )
    show(summary, "json" if json else "table", _print_export)


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
    show(result, format, _print_push)
    if damaged := len(result["refused"]):
        raise ImagenetSDError(
            f"{counted(damaged, 'shard')} of {out} {'is' if damaged == 1 else 'are'} damaged and not uploaded",
            "`imagenet-sd verify --repair` generates damaged shards again",
        )


_RUN_SUMMARY = (
    "{repo_id}: {architecture}, classes: {num_classes}, files uploaded: {files_uploaded}; load it with "
    'timm.create_model("hf-hub:{repo_id}", pretrained=True)'
)


def _print_export(summary: dict[str, Any]) -> None:
    again = f" ({summary['shards_restored']:,} of them again: files were gone or changed)"
    echo(
        f"{summary['target']}: {counted(summary['images'], 'image')}, {counted(summary['shards_written'], 'shard')} "
        f"written{again if summary['shards_restored'] else ''}, {summary['shards_skipped']:,} there before, "
        f"{summary['shards_missing']:,} missing"
    )


def _print_push(result: dict[str, Any]) -> None:
    refused = f", {len(result['refused'])} damaged and left out" if result["refused"] else ""
    missing = f", {result['shards_missing']:,} not generated yet" if result["shards_missing"] else ""
    echo(
        f"{result['repo_id']}: {result['shards_there']:,} of {counted(result['num_shards'], 'shard')} are there, "
        f"{result['shards_uploaded']:,} uploaded in this run{refused}{missing}"
    )
