"""Commands that measure an encoder on real images."""

from pathlib import Path
from typing import Annotated

import typer

from imagenet_sd import pipeline
from imagenet_sd.cli.common import Format, OutputFormat, app, print_json
from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.specs import DATA_SPECS, ENCODER_SPECS
from imagenet_sd.evaluation.config import EvalConfig


@app.command()
def evaluate(
    encoder: Annotated[str, typer.Argument(metavar="ENCODER", help=f"What to evaluate: {ENCODER_SPECS}.")],
    suite: Annotated[
        str, typer.Option(metavar="NAME", help="imagenet, transfer, fewshot, analysis or cog.")
    ] = "transfer",
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="NAME=SPEC", help=f"Data to measure on, repeatable; SPEC is {DATA_SPECS}."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="JSON", help="File for the results.")] = None,
    probe: Annotated[str, typer.Option(help="auto, lbfgs, path, sgd, sea or knn.")] = "auto",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 5,
    trials: Annotated[int, typer.Option(min=1, help="Trials of the hyper-parameter search per seed.")] = 25,
    crop_size: Annotated[
        int, typer.Option("--crop-size", "--side", help="Pixels of the centre crop [224; a run folder's own].")
    ] = 0,
    preprocessing: Annotated[str, typer.Option(help="protocol, or model for the model's own.")] = "protocol",
    amp: Annotated[bool, typer.Option("--amp", help="Extract features in mixed precision.")] = False,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Feature cache [in the user's cache].")] = None,
    format: OutputFormat = Format.table,
) -> None:
    """Measure how well an encoder works on real images."""
    named: dict[str, str] = {}
    for entry in data or []:
        name, equals, spec = entry.partition("=")
        if not (name and equals and spec):
            raise ImagenetSDError(f"--data is {entry!r}", "write NAME=SPEC, such as mnist=builtin:mnist")
        named[name] = spec
    config = EvalConfig(
        suite=suite,
        probe=probe,  # pyright: ignore[reportArgumentType]  # checked below
        seeds=tuple(range(seeds)),
        trials=trials,
        preprocessing=preprocessing,  # pyright: ignore[reportArgumentType]
        amp=amp,
        crop_size=crop_size or EvalConfig().crop_size,
    )
    document = pipeline.evaluate(encoder, named, config, out=out, cache=cache)
    if format is not Format.table:
        return print_json(document)
    for result in document["results"]:
        if "top1" in result:
            low, high = result["top1_interval"]
            note = f"  [{result['num_classes']} classes scored]" if "masked" in result else ""
            typer.echo(
                f"{result['dataset']:20s} {result['probe']:24s} top-1 {result['top1']:.2%} +- {result['top1_sd']:.2%} "
                f"(95% {low:.2%} to {high:.2%}, {result['num_test']} images){note}"
            )
        else:
            facts = ", ".join(f"{key} {value:.4g}" for key, value in result.items() if isinstance(value, float))
            typer.echo(f"{result['dataset']:20s} {facts}")


@app.command()
def cog(
    counts: Annotated[str, typer.Option(metavar="TSV", help="Image counts per wnid: columns wnid, num_images.")] = "",
    images: Annotated[
        str, typer.Option(metavar="DIR", help="ImageNet-21k folder to count in: one folder per wnid.")
    ] = "",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the level lists.")] = Path("cog"),
    format: OutputFormat = Format.table,
) -> None:
    """Build the five levels of ImageNet-CoG from WordNet and image counts."""
    if bool(counts) == bool(images):
        raise ImagenetSDError("give either --counts or --images", "--counts TSV, or --images DIR of ImageNet-21k")
    result = pipeline.cog(out, counts=counts, images=images)
    if format is not Format.table:
        return print_json(result)
    typer.echo(f"{result['num_eligible']} eligible concepts")
    for level in ("L1", "L2", "L3", "L4", "L5"):
        values = result["similarity"][level]
        typer.echo(f"{level}: {len(result[level])} concepts, mean similarity {sum(values) / max(1, len(values)):.4f}")
    typer.echo(f"written to {out}")
