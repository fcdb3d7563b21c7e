"""Commands that measure encoders on real images, and report what was measured: evaluate, cog, report."""

from pathlib import Path
from typing import Any

import click

from imagenet_sd import pipeline
from imagenet_sd.cli.common import FORMAT, app, echo, folder, show
from imagenet_sd.cli.options import AT_LEAST_0, AT_LEAST_1, options
from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.specs import DATA_SPECS, ENCODER_SPECS
from imagenet_sd.evaluation.config import EvalConfig, SeaSettings

NUMBERS = {"metavar": "N:N:..."}


@app.command()
@click.argument("encoder", metavar="ENCODER", help=f"What to evaluate: {ENCODER_SPECS}.")
@click.option(
    "--data", multiple=True, metavar="NAME=SPEC", help=f"Data to measure on, repeatable; SPEC is {DATA_SPECS}."
)
@folder("--out", "File for the results.", metavar="JSON")
@click.option("--seeds", type=AT_LEAST_1, default=5, help="Number of seeds.")
@options(
    EvalConfig, "settings",
    only=(
        "suite", "probe", "trials", "selection", "crop_size", "preprocessing", "batch_size", "amp", "shots",
        "ways", "episode_shots", "queries", "episodes", "episode_pool", "fusion", "transformations", "strengths",
        "measured_images", "targets", "blocks", "gradient_training", "gradient_steps", "ntk", "controls",
    ),
    suite={"metavar": "NAME"}, trials={"type": AT_LEAST_1}, crop_size={"flags": ["--crop-size", "--side"]},
    batch_size={"type": AT_LEAST_1}, shots=NUMBERS, episode_shots=NUMBERS,
)  # fmt: skip
@options(
    SeaSettings, "sea", augmentation={"flags": ["--sea-augmentation"]}, epochs={"flags": ["--sea-epochs"]},
    eta={"flags": ["--sea-eta"], **NUMBERS}, smoothing={"flags": ["--sea-lambda"], **NUMBERS},
    margin={"flags": ["--sea-delta"], **NUMBERS}, alpha={"flags": ["--sea-alpha"], **NUMBERS},
    learning_rate={"flags": ["--sea-learning-rate"], **NUMBERS},
    batch_size={"flags": ["--sea-batch-size"], "parameter": "sea_batch_size"},
    weight_decay={"flags": ["--sea-weight-decay"], **NUMBERS},
)  # fmt: skip
@folder("--cache", "Feature cache; by default in the user's cache.")
@FORMAT
def evaluate(
    encoder: str, data: tuple[str, ...], out: Path | None, seeds: int, settings: dict[str, Any], sea: dict[str, Any],
    cache: Path | None, format: str,
) -> None:  # fmt: skip
    """Measure how well an encoder works on real images."""
    for name in ("shots", "episode_shots"):
        settings[name] = _numbers(name, settings[name], int)
    for name in ("eta", "smoothing", "margin", "alpha", "learning_rate", "weight_decay"):
        sea[name] = _numbers(name, sea[name], float)
    config = EvalConfig(seeds=tuple(range(seeds)), sea=SeaSettings(**sea), **settings)
    show(pipeline.evaluate(encoder, _named(data), config, out=out, cache=cache), format, _print_results)


@app.command()
@options(pipeline.cog, "source", counts={"metavar": "TSV"}, images={"metavar": "DIR"})
@folder("--out", "Folder for the level lists.", default=Path("cog"))
@FORMAT
def cog(source: dict[str, str], out: Path, format: str) -> None:
    """Build the five levels of ImageNet-CoG from WordNet and image counts."""
    if bool(source["counts"]) == bool(source["images"]):
        raise ImagenetSDError("give either --counts or --images", "--counts TSV, or --images DIR of ImageNet-21k")
    show(pipeline.cog(out, **source), format, _print_levels)
    if format == "table":
        echo(f"written to {out}")


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
    show(pipeline.report(list(results), out, **settings), format, _print_report)


def _numbers(name: str, text: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(":") if text)
    except ValueError:
        raise ImagenetSDError(f"{name} is {text!r}", "write numbers with colons between them, such as 1:2:4") from None


def _named(data: tuple[str, ...]) -> dict[str, str]:
    named: dict[str, str] = {}
    for entry in data:
        name, equals, spec = entry.partition("=")
        if not (name and equals and spec):
            raise ImagenetSDError(f"--data is {entry!r}", "write NAME=SPEC, such as mnist=builtin:mnist")
        named[name] = spec
    return named


def _print_results(document: dict[str, Any]) -> None:
    for result in document["results"]:
        if "top1" in result:
            low, high = result["top1_interval"]
            note = f"  [{result['num_classes']} classes scored]" if "masked" in result else ""
            echo(
                f"{result['dataset']:20s} {result['probe']:24s} top-1 {result['top1']:.2%} +- {result['top1_sd']:.2%} "
                f"(95% {low:.2%} to {high:.2%}, {result['num_test']} images){note}"
            )
        else:
            facts = ", ".join(f"{key} {value:.4g}" for key, value in result.items() if isinstance(value, float))
            what = result.get("transformation", result["probe"])
            echo(f"{result['dataset']:20s} {what:24s} {facts}")
    for used in document.get("preprocessing", ()):
        echo(
            f"images resized to {used['resize_size']} ({used['interpolation']}, {used['crop_mode']}), "
            f"cropped to {used['crop_size']}, as the {used['chosen_by']} has it"
        )


def _print_levels(result: dict[str, Any]) -> None:
    echo(f"{result['num_eligible']} eligible concepts")
    for level in ("L1", "L2", "L3", "L4", "L5"):
        values = result["similarity"][level]
        echo(f"{level}: {len(result[level])} concepts, mean similarity {sum(values) / max(1, len(values)):.4f}")


def _print_report(result: dict[str, Any]) -> None:
    echo(f"report: {result['page']}")
    echo(f"as Markdown: {result['markdown']}, with {len(result['figures'])} figures")
    for line in result["missing"]:
        echo(f"without data: {line}")
