"""The command that trains an encoder."""

from pathlib import Path
from typing import Any

import click

from imagenet_sd import pipeline
from imagenet_sd.cli.common import FORMAT, SETTINGS, app, echo, folder, print_json, show
from imagenet_sd.cli.options import options
from imagenet_sd.core.progress import counted
from imagenet_sd.core.specs import DATA_SPECS
from imagenet_sd.core.typed import to_mapping


@app.command()
@click.argument("data", metavar="DATA", help=f"What to train on: {DATA_SPECS}.")
@folder("--out", "Folder of the run.", metavar="RUN", required=True)
@click.option(
    "--recipe", default="imagenet-sd", metavar="NAME",
    help="imagenet-sd, t-rex, t-rex-star, pytorch, small, small-photos, a YAML file, or simclr, mocov2, byol, simsiam, "
    "swav, stablerep or supervised, with -small for small images, -spatial or -appearance, and +augself.",
)  # fmt: skip
@SETTINGS
@click.option(
    "--positives", type=click.Choice(["image", "class", "prompt"]),
    help="What stablerep pulls together; the same as --set objective.positives=...",
)  # fmt: skip
@options(
    pipeline.train, "work",
    validation={"flags": ["--val"], "metavar": "SPEC"}, workers={"type": click.IntRange(min=-1)},
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the resolved training recipe and do nothing else.")
@FORMAT
def train(
    data: str, out: Path, recipe: str, settings: tuple[str, ...], positives: str | None, work: dict[str, Any],
    dry_run: bool, format: str,
) -> None:  # fmt: skip
    """Train an encoder from scratch on a dataset. Run it again to go on where it stopped."""
    from imagenet_sd.training.recipes import load_train_config

    chosen = (f"objective.positives={positives}",) if positives else ()
    config = load_train_config(recipe, (*settings, *chosen))
    if dry_run:
        return print_json(to_mapping(config))
    result = pipeline.train(config, data, out, **work)
    show(result, format, _print_summary)
    if not result["finished"]:
        raise SystemExit(143)


def _print_summary(result: dict[str, Any]) -> None:
    if result["finished"]:
        names = {"val_top1": "top-1", "knn_top1": "k-NN top-1"}
        score = "".join(
            f", {name} {result[key]:.1%} on {result['validation']}" for key, name in names.items() if key in result
        )
        bad = result.get("bad_images", 0)
        skipped = f"; {counted(bad, 'image')} skipped, unreadable" if bad else ""
        if held_out := result.get("val_unreadable", 0):
            skipped += f"; {counted(held_out, 'validation image')} skipped, unreadable"
        echo(f"{result['run']}: {counted(result['epochs'], 'epoch')} done{score}{skipped}")
    else:
        echo(f"{result['run']}: interrupted and saved; run the same command again to go on")
