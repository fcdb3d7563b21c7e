"""The command that trains an encoder."""

from pathlib import Path
from typing import Annotated

import typer

from imagenet_sd.cli.common import Format, OutputFormat, app, print_json
from imagenet_sd.core.specs import DATA_SPECS


@app.command()
def train(
    data: Annotated[str, typer.Argument(metavar="OUT", help=f"What to train on: {DATA_SPECS}.")],
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Folder of the run.")],
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="imagenet-sd, t-rex, t-rex-star, pytorch, small, or a YAML file.")
    ] = "imagenet-sd",
    val: Annotated[str, typer.Option(metavar="SPEC", help="Real images to validate on (their test split).")] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one value of the recipe; repeatable.")
    ] = None,
    workers: Annotated[int, typer.Option(min=-1, help="Data workers per process; -1 chooses.")] = -1,
    stream: Annotated[
        bool, typer.Option("--stream", help="Train while the dataset is generated; each image is seen once.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and do nothing else.")] = False,
    format: OutputFormat = Format.table,
) -> None:
    """Train an encoder from scratch on a dataset. Run it again to go on where it stopped."""
    from imagenet_sd import pipeline
    from imagenet_sd.training.config import resolved
    from imagenet_sd.training.recipes import load_train_config

    config = load_train_config(recipe, settings or [])
    if dry_run:
        return print_json(resolved(config))
    result = pipeline.train(config, data, out, validation=val, workers=workers, stream=stream)
    if format is not Format.table:
        print_json(result)
    elif result["finished"]:
        score = f", top-1 {result['val_top1']:.1%} on {result['validation']}" if "val_top1" in result else ""
        typer.echo(f"{result['run']}: {result['epochs']} epochs done{score}")
    else:
        typer.echo(f"{result['run']}: interrupted and saved; run the same command again to go on")
    if not result["finished"]:
        raise typer.Exit(143)
