"""Commands around a dataset: classes, prompts, generate, status, verify, regenerate, preview."""

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from imagenet_sd import pipeline
from imagenet_sd.cli.common import DATASET, FORMAT, app, echo, folder, parse_size, show
from imagenet_sd.cli.options import AT_LEAST_0, AT_LEAST_1, SIZE, options
from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.progress import counted, duration, size
from imagenet_sd.generation.config import EMBEDDED_CLASSES, GenerationConfig

_ALL_LEMMAS = {
    "flags": ["--hypernym-all-lemmas"], "flag_value": "all", "show_default": False,
    "help": "Name all lemmas of each hypernym, not the first alone.",
}  # fmt: skip


class _BatchSize(click.ParamType[int]):
    """A number of images, or `auto`, which the configuration spells 0."""

    name = "integer|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return 0 if value == "auto" else AT_LEAST_1.convert(value, param, ctx)


def _class_options(*names: str) -> Callable[..., Any]:
    return options(
        GenerationConfig, "settings", only=(*names, "classes", "hypernym_lemmas"),
        classes={"metavar": "LIST"}, templates={"metavar": "YAML"}, hypernym_lemmas=_ALL_LEMMAS,
    )  # fmt: skip


@app.command()
@_class_options()
@FORMAT
def classes(settings: dict[str, Any], format: str) -> None:
    """List the classes: id, index, lemmas, hypernyms, definition, with lint warnings."""
    from dataclasses import asdict

    from imagenet_sd.prompts.classes import load_classes
    from imagenet_sd.prompts.lint import lint_classes

    config = GenerationConfig(**settings)
    specs = load_classes(config.class_list, hypernym_lemmas=config.hypernym_lemmas)
    warnings = lint_classes(specs)
    by_wnid = defaultdict(list)
    for warning in warnings:
        by_wnid[warning.wnid].append({"code": warning.code, "message": warning.message})
    show([asdict(spec) | {"warnings": by_wnid[spec.wnid]} for spec in specs], format, _print_classes)
    if format == "table":
        _print_warnings(warnings)


@app.command()
@_class_options("prompt", "templates", "model", "seed")
@click.option("--images-per-class", type=AT_LEAST_1, default=1, help="Prompts per class.")
@click.option("--limit", type=AT_LEAST_0, default=0, help="Print at most this many; 0 prints all.")
@FORMAT
def prompts(settings: dict[str, Any], images_per_class: int, limit: int, format: str) -> None:
    """Print the prompts of a class list under a template, with lint warnings and the token counts of a model.

    Of several text encoders, the one that reads most counts.
    """
    from itertools import islice

    from imagenet_sd.generation.tokenizers import model_tokenizers
    from imagenet_sd.prompts.build import build_prompts
    from imagenet_sd.prompts.classes import load_classes
    from imagenet_sd.prompts.lint import lint
    from imagenet_sd.prompts.templates import get_template, load_templates
    from imagenet_sd.prompts.tokens import largest

    config = GenerationConfig(**settings)
    template = get_template(config.prompt, load_templates(Path(config.templates) if config.templates else None))
    specs = load_classes(config.class_list, hypernym_lemmas=config.hypernym_lemmas)
    tokenizers = model_tokenizers(config)
    tokenizer = largest(tokenizers)
    built = build_prompts(specs, template, images_per_class=images_per_class, dataset_seed=config.seed)
    keys = ("wnid", "class_index", "template", "background", "text")
    rows = [
        {key: getattr(prompt, key) for key in keys} | {"num_tokens": tokenizer.count(prompt.text)}
        for prompt in islice(built, limit or None)
    ]
    about = "about " if tokenizer.approximate else ""
    show(rows, format, "{wnid}  " + about + "{num_tokens:3d} tokens  {text}")
    if about:
        echo(f"warning: the tokenizer of {config.model} is not here; the counts are CLIP's", err=True)
    _print_warnings(lint(specs, template, tokenizers))


@app.command()
@options(
    GenerationConfig, "settings", without=("width", "height"),
    guidance_scale={"flags": ["--scale", "--guidance-scale"]},
    num_inference_steps={"flags": ["--steps"], "type": AT_LEAST_1},
    classes={"metavar": "LIST"}, templates={"metavar": "YAML"}, match={"metavar": "DIR"},
    negative_prompt={"metavar": "TEXT"}, lora={"metavar": "PATH_OR_REPO[:WEIGHT]"}, hypernym_lemmas=_ALL_LEMMAS,
    images_per_class={"type": AT_LEAST_0}, shard_size={"type": AT_LEAST_1}, batch_size={"type": _BatchSize()},
    cache_interval={"type": AT_LEAST_1}, guidance_interval={"metavar": "A:B"},
)  # fmt: skip
@SIZE
@folder("--out", "Dataset folder; by default named after its settings.")
@options(
    pipeline.generate, "work",
    workers={"type": AT_LEAST_0}, gpus_per_worker={"type": click.FloatRange(min=0)}, metrics_file={"metavar": "FILE"},
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the plan and do nothing else.")
@click.option(
    "--usd-per-gpu-hour", type=click.FloatRange(min=0), metavar="USD", help="With --dry-run: also print what it costs."
)
@click.option("--calibrate", is_flag=True, help="With --dry-run: generate for up to 30 s; print rate, hours and disk.")
@FORMAT
def generate(
    settings: dict[str, Any], size: str, out: Path | None, work: dict[str, Any], dry_run: bool,
    usd_per_gpu_hour: float | None, calibrate: bool, format: str,
) -> None:  # fmt: skip
    """Generate a dataset: prompts to images to shards. Run it again to go on where it stopped."""
    settings["guidance_interval"] = _parse_interval(settings["guidance_interval"])
    config = GenerationConfig(**settings, **parse_size(size))
    if (calibrate or usd_per_gpu_hour is not None) and not dry_run:
        raise ImagenetSDError("--calibrate and --usd-per-gpu-hour are about a plan", "give --dry-run with them")
    if dry_run:
        plan = pipeline.dry_run(config, out)
        if calibrate:
            plan["calibration"] = pipeline.calibrate(config, offload=work["offload"])
        if usd_per_gpu_hour is not None:
            _add_cost(plan, usd_per_gpu_hour)
        return show(plan, format, _print_plan)
    if config.embedded and config.class_list not in EMBEDDED_CLASSES:
        kinds = " and ".join(EMBEDDED_CLASSES)
        echo(f"warning: the embedded model knows the classes of {kinds} only; others come out as these", err=True)
    show(pipeline.generate(config, out, **work), format, _print_summary)


@app.command()
@DATASET
@click.option("--watch", is_flag=True, help="Look again every few seconds until all is done.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=5.0, help="Seconds between two looks.")
@folder("--metrics-file", "Also write Prometheus text format.", metavar="FILE")
@FORMAT
def status(dataset: Path, watch: bool, interval: float, metrics_file: Path | None, format: str) -> None:
    """Say how far a dataset is: shards, images per second, time left, workers, failed shards and their last errors."""
    while True:
        state = pipeline.status(dataset, metrics_file)
        show(state, format, _print_state)
        if not watch or state["complete"]:
            return
        time.sleep(interval)


@app.command()
@DATASET
@click.option("--id", required=True, metavar="IMAGE_ID", help="Such as n02086910_000017.")
@options(pipeline.regenerate, "work")
@FORMAT
def regenerate(dataset: Path, id: str, work: dict[str, Any], format: str) -> None:
    """Generate one image again, alone, and say whether its pixels match the stored ones (exit code 1 if not)."""
    result = pipeline.regenerate(dataset, id, **work)
    show(result, format, _print_comparison)
    if not result["identical"]:
        raise SystemExit(1)


@app.command()
@DATASET
@click.option("--repair", is_flag=True, help="Generate the bad shards again.")
@options(pipeline.verify, "work", only=("offload",))
@FORMAT
def verify(dataset: Path, repair: bool, work: dict[str, Any], format: str) -> None:
    """Read every byte of a dataset, name each fault, and repair them on request."""
    result = pipeline.verify(dataset, repair=repair, **work)
    show(result, format, _print_verdict)
    if not result["sound"]:
        raise SystemExit(1)


@app.command()
@DATASET
@folder("--out", "The page; by default gallery.html in the dataset.", metavar="HTML")
@options(pipeline.preview, "settings", images_per_class={"type": AT_LEAST_1})
@FORMAT
def preview(dataset: Path, out: Path | None, settings: dict[str, Any], format: str) -> None:
    """Write a static gallery page and a contact sheet of a dataset."""
    text = "gallery: {page}, images: {images}\ncontact sheet: {contact_sheet}"
    show(pipeline.preview(dataset, out, **settings), format, text)


def _parse_interval(text: str) -> tuple[float, float]:
    start, colon, end = (text or "0:1").partition(":")
    try:
        if not colon:
            raise ValueError
        return float(start), float(end)
    except ValueError:
        raise ImagenetSDError(
            f"--guidance-interval is {text!r}", "write START:END as fractions of the schedule, such as 0.2:0.8"
        ) from None


def _print_classes(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        hypernyms = f" ({', '.join(row['hypernyms'])})" if row["hypernyms"] else ""
        echo(f"{row['class_index']:4d}  {row['wnid']}  {', '.join(row['lemmas'])}{hypernyms}: {row['definition']}")


def _print_warnings(warnings: list) -> None:
    for warning in warnings:
        echo(f"warning: {warning.wnid} {warning.code}: {warning.message}", err=True)


def _add_cost(plan: dict[str, Any], usd_per_hour: float) -> None:
    for known in plan["estimated_time"].values():
        known["usd"] = known["gpu_hours"] * usd_per_hour
    if measured := plan.get("calibration"):
        measured["usd"] = measured["device_hours"] * usd_per_hour


def _print_plan(plan: dict[str, Any]) -> None:
    echo(f"folder    {plan['out']}")
    echo(f"images    {plan['num_images']:,}, classes {plan['num_classes']:,}, {counted(plan['rounds'], 'round')}")
    echo(f"shards    {plan['num_shards']:,} of {counted(plan['settings']['shard_size'], 'image')}")
    needed = "not known" if plan["estimated_bytes"] is None else f"about {size(plan['estimated_bytes'])}"
    echo(f"disk      {needed}; {size(plan['free_bytes'])} are free there")
    for gpu, known in plan["estimated_time"].items():
        price = f", ${known['usd']:,.2f}" if "usd" in known else ""
        echo(
            f"time      about {known['gpu_hours']:,.1f} GPU-hours on an {gpu}{price} (estimated; --calibrate measures)"
        )
    for key, value in plan["settings"].items():
        echo(f"  {key:20s} {'not known' if value is None else value}")
    if measured := plan.get("calibration"):
        rate, hours = measured["images_per_second"], measured["device_hours"]
        echo(f"measured  {rate:.2f} images/s on one {measured['device']}, {hours:.2f} device-hours in all")
        echo(f"          {measured['hours']:.2f} h with the {measured['devices']} of this machine")
        price = f", ${measured['usd']:,.2f}" if "usd" in measured else ""
        echo(f"          {size(measured['estimated_bytes'])}{price}")
    for text in plan["prompts"]:
        echo(f"prompt    {text}")
    for warning in plan["warnings"]:
        echo(f"warning   {warning}")


def _print_summary(summary: dict[str, Any]) -> None:
    contents = f"{counted(summary['num_images'], 'image')} in {counted(summary['num_shards'], 'shard')}"
    echo(f"{summary['out']}: {contents} done, {counted(summary['shards_generated'], 'shard')} generated in this run")


def _print_verdict(result: dict[str, Any]) -> None:
    for fault in result["faults"]:
        echo(f"{fault['shard']}: {fault['message']}")
    for shard in result["repaired"]:
        words = {True: "the same bytes as before", False: "other bytes than before", None: "generated"}
        echo(f"{shard['shard']}: repaired, {words[shard['identical']]}")
    verdict = "sound" if result["sound"] else "FAULTY (`imagenet-sd verify --repair` generates bad shards again)"
    contents = f"{counted(result['num_images'], 'image')} in {counted(result['num_shards'], 'shard')}"
    echo(f"{result['out']}: {contents}, {verdict}")


def _print_comparison(result: dict[str, Any]) -> None:
    place = f"in {result['shard']}, row {result['row']}"
    if result["identical"]:
        echo(f"{result['image_id']}: the same pixels as {place}")
    else:
        difference = f"the largest difference is {result['largest_difference']} of 255"
        echo(f"{result['image_id']}: other pixels than {place}; {difference}")


def _print_state(state: dict[str, Any]) -> None:
    share = state["images_done"] / state["num_images"]
    echo(
        f"{state['out']}: {state['shards_done']:,} of {counted(state['num_shards'], 'shard')}, "
        f"{state['images_done']:,} of {counted(state['num_images'], 'image')} ({share:.1%})"
    )
    left = "no worker is running"
    if state["complete"]:
        left = "complete"
    elif state["eta_seconds"]:
        left = f"{duration(state['eta_seconds'])} left at {state['images_per_second']:.1f} images/s"
    elif state["workers_live"]:
        left = "at work, time left unknown until a shard is done"
    echo(
        f"{left}; {counted(state['workers_live'], 'live worker')}, {state['workers_stale']} stale, "
        f"{counted(state['shards_at_work'], 'shard')} in progress, {len(state['failed'])} failed"
    )
    for path, error in state["failed"].items():
        echo(f"failed {path}: {error}")
