"""Commands around a dataset: classes, prompts, generate, verify, preview."""

from pathlib import Path
from typing import Annotated, Any

import typer

from imagenet_sd import pipeline
from imagenet_sd.cli.common import Dataset, Format, OutputFormat, app, parse_size, print_json, print_rows
from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.generation.config import DEFAULT_MODEL, GenerationConfig

Classes = Annotated[
    str, typer.Option("--classes", metavar="LIST", help="imagenet-1k, imagenet-100, digits-10, a .txt or a .tsv file.")
]
Templates = Annotated[str, typer.Option("--templates", metavar="YAML", help="A file with templates of your own.")]
AllLemmas = Annotated[bool, typer.Option("--hypernym-all-lemmas", help="Name all lemmas of each hypernym.")]
Seed = Annotated[int, typer.Option("--seed", help="Dataset seed: the noise of every image, and its background.")]
PromptKey = Annotated[str, typer.Option("--prompt", help="Template: c, c_hc, c_dc, c_hc_b, photo, or one of your own.")]


@app.command()
def classes(
    classes: Classes = "imagenet-100", all_lemmas: AllLemmas = False, format: OutputFormat = Format.table
) -> None:
    """List the classes: id, index, lemmas, hypernyms, definition, with lint warnings."""
    from dataclasses import asdict

    from imagenet_sd.prompts.classes import load_classes
    from imagenet_sd.prompts.lint import lint_classes

    specs = load_classes(classes, hypernym_lemmas="all" if all_lemmas else "first")
    warnings = lint_classes(specs)
    if format is Format.table:
        for spec in specs:
            hypernyms = f" ({', '.join(spec.hypernyms)})" if spec.hypernyms else ""
            typer.echo(f"{spec.class_index:4d}  {spec.wnid}  {', '.join(spec.lemmas)}{hypernyms}: {spec.definition}")
        _print_warnings(warnings)
    else:
        by_wnid: dict[str, list[dict]] = {}
        for warning in warnings:
            by_wnid.setdefault(warning.wnid, []).append({"code": warning.code, "message": warning.message})
        print_rows([asdict(spec) | {"warnings": by_wnid.get(spec.wnid, [])} for spec in specs], format)


@app.command()
def prompts(
    prompt: PromptKey = "c",
    classes: Classes = "imagenet-100",
    images_per_class: Annotated[int, typer.Option(min=1, help="Prompts per class.")] = 1,
    limit: Annotated[int, typer.Option(min=0, help="Print at most this many; 0 prints all.")] = 0,
    templates: Templates = "",
    all_lemmas: AllLemmas = False,
    seed: Seed = 0,
    format: OutputFormat = Format.table,
) -> None:
    """Print the prompts of a class list under a template, with their CLIP token counts and lint warnings."""
    from itertools import islice

    from imagenet_sd.prompts.build import build_prompts
    from imagenet_sd.prompts.classes import load_classes
    from imagenet_sd.prompts.lint import lint
    from imagenet_sd.prompts.templates import get_template, load_templates
    from imagenet_sd.prompts.tokens import num_tokens

    template = get_template(prompt, load_templates(Path(templates) if templates else None))
    specs = load_classes(classes, hypernym_lemmas="all" if all_lemmas else "first")
    built = build_prompts(specs, template, images_per_class=images_per_class, dataset_seed=seed)
    rows = [
        {
            "wnid": item.wnid,
            "class_index": item.class_index,
            "template": item.template,
            "background": item.background,
            "text": item.text,
            "num_tokens": num_tokens(item.text),
        }
        for item in islice(built, limit or None)
    ]
    if format is Format.table:
        for row in rows:
            typer.echo(f"{row['wnid']}  {row['num_tokens']:3d} tokens  {row['text']}")
    else:
        print_rows(rows, format)
    _print_warnings(lint(specs, template))


@app.command()
def generate(
    prompt: PromptKey = "c",
    scale: Annotated[float, typer.Option("--scale", "--guidance-scale", help="Guidance scale; 1 is none.")] = 7.5,
    classes: Annotated[
        str,
        typer.Option("--classes", metavar="LIST", help="Class list [imagenet-100; digits-10 for the embedded model]."),
    ] = "",
    images_per_class: Annotated[
        int, typer.Option(min=0, help="Images per class and round [1300; 400 for the embedded model].")
    ] = 0,
    match: Annotated[str, typer.Option(metavar="DIR", help="Copy the count per class of a real ImageFolder.")] = "",
    multiple: Annotated[float, typer.Option(help="Size: 10 is ten rounds, 0.1 a tenth of one.")] = 1.0,
    model: Annotated[str, typer.Option(help="Hub id, local diffusers folder, or `embedded`.")] = DEFAULT_MODEL,
    revision: Annotated[str, typer.Option(help="Commit of the hub repository [the newest, then pinned].")] = "",
    steps: Annotated[int, typer.Option(min=1, help="Diffusion steps.")] = 50,
    size: Annotated[str, typer.Option(metavar="WxH", help="Pixels [512x384; 32x32 for the embedded model].")] = "",
    seed: Seed = 0,
    negative_prompt: Annotated[str, typer.Option(metavar="TEXT", help="What guidance moves away from.")] = "",
    templates: Templates = "",
    all_lemmas: AllLemmas = False,
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch; part of the plan.")] = 16,
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    scheduler: Annotated[str, typer.Option(help="pndm, ddim, dpm++, euler, euler-a or unipc [the model's own].")] = "",
    guidance_interval: Annotated[
        str, typer.Option(metavar="A:B", help="Guide this part of the steps only, such as 0.2:0.8 [all of them].")
    ] = "",
    cache_interval: Annotated[
        int, typer.Option(min=1, help="Compute deep features on every N-th step only (DeepCache); 1 is off.")
    ] = 1,
    attention: Annotated[str, typer.Option(help="sdpa, or xformers (an extra; needs a GPU).")] = "sdpa",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the model with torch.compile.")] = False,
    flag_nsfw: Annotated[
        bool, typer.Option("--flag-nsfw", help="Add a column `nsfw`: the verdict of the model's own safety checker.")
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Dataset folder [named after the recipe].")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: one task per shard on a Ray cluster.")] = "local",
    workers: Annotated[
        int, typer.Option(min=0, help="Worker processes on this machine [every visible GPU, or every CPU core].")
    ] = 0,
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="GPUs per Ray task [1 where the cluster has any].")
    ] = None,
    metrics_file: Annotated[
        Path | None, typer.Option("--metrics-file", metavar="FILE", help="Keep a Prometheus text file up to date.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing else.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="With --dry-run: draw for up to 30 s; print rate, hours and disk.")
    ] = False,
    format: OutputFormat = Format.table,
) -> None:
    """Draw a dataset: prompts to images to shards. Run it again to go on where it stopped."""
    width, height = parse_size(size)
    config = GenerationConfig(
        classes=classes,
        prompt=prompt,
        templates=templates,
        hypernym_lemmas="all" if all_lemmas else "first",
        model=model,
        revision=revision,
        guidance_scale=scale,
        num_inference_steps=steps,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        seed=seed,
        images_per_class=images_per_class,
        match=match,
        multiple=multiple,
        shard_size=shard_size,
        batch_size=batch_size,
        dtype=dtype,  # pyright: ignore[reportArgumentType]  # GenerationConfig checks it
        scheduler=scheduler,
        guidance_interval=_parse_interval(guidance_interval),
        cache_interval=cache_interval,
        attention=attention,  # pyright: ignore[reportArgumentType]  # likewise
        compile=compile,
        flag_nsfw=flag_nsfw,
    )
    if calibrate and not dry_run:
        raise ImagenetSDError("--calibrate measures for a plan and draws no dataset", "give --dry-run with it")
    if dry_run:
        plan = pipeline.dry_run(config, out)
        if calibrate:
            plan["calibration"] = pipeline.calibrate(config)
        return print_json(plan) if format is not Format.table else _print_plan(plan)
    if config.embedded and config.class_list != "digits-10":
        typer.echo("warning: the embedded model can draw digits only (--classes digits-10)", err=True)
    summary = pipeline.generate(
        config,
        out,
        engine=engine,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        metrics_file=metrics_file,
    )
    if format is not Format.table:
        return print_json(summary)
    typer.echo(
        f"{summary['out']}: {summary['num_images']:,} images in {summary['num_shards']} shards are done, "
        f"{summary['shards_generated']} shards generated in this run"
    )


@app.command()
def verify(
    out: Dataset,
    repair: Annotated[bool, typer.Option("--repair", help="Draw the bad shards again.")] = False,
    format: OutputFormat = Format.table,
) -> None:
    """Read every byte of a dataset, name each fault, and mend them on request."""
    result = pipeline.verify(out, repair=repair)
    if format is Format.table:
        for fault in result["faults"]:
            typer.echo(f"{fault['shard']}: {fault['message']}")
        for shard in result["repaired"]:
            words = {True: "the very same bytes as before", False: "other bytes than before", None: "drawn"}
            typer.echo(f"{shard['shard']}: repaired, {words[shard['identical']]}")
        verdict = "sound" if result["sound"] else "FAULTY (`imagenet-sd verify --repair` draws bad shards again)"
        typer.echo(f"{result['out']}: {result['num_images']:,} images in {result['num_shards']} shards, {verdict}")
    else:
        print_json(result)
    if not result["sound"]:
        raise typer.Exit(1)


@app.command()
def preview(
    dataset: Dataset,
    out: Annotated[Path | None, typer.Option(metavar="HTML", help="The page [gallery.html in the dataset].")] = None,
    images_per_class: Annotated[int, typer.Option(min=1, help="Images shown of each class.")] = 12,
    format: OutputFormat = Format.table,
) -> None:
    """Write a static gallery page and a contact sheet of a dataset."""
    result = pipeline.preview(dataset, out, images_per_class=images_per_class)
    if format is not Format.table:
        return print_json(result)
    typer.echo(f"gallery of {result['images']} images: {result['page']}")
    typer.echo(f"contact sheet: {result['contact_sheet']}")


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


def _print_plan(plan: dict[str, Any]) -> None:
    typer.echo(f"folder    {plan['out']}")
    typer.echo(f"images    {plan['num_images']:,} of {plan['num_classes']} classes, {plan['rounds']} round(s)")
    typer.echo(f"shards    {plan['num_shards']:,} of {plan['settings']['shard_size']:,} images")
    typer.echo(f"disk      about {plan['estimated_bytes'] / 1e9:.2f} GB")
    for key, value in plan["settings"].items():
        typer.echo(f"  {key:20s} {value}")
    if measured := plan.get("calibration"):
        rate, hours = measured["images_per_second"], measured["device_hours"]
        typer.echo(f"measured  {rate:.2f} images/s on one {measured['device']}, {hours:.2f} device-hours in all")
        typer.echo(f"          {measured['hours']:.2f} h with the {measured['devices']} of this machine")
        typer.echo(f"          {measured['estimated_bytes'] / 1e9:.3f} GB")
    for text in plan["prompts"]:
        typer.echo(f"prompt    {text}")
    for warning in plan["warnings"]:
        typer.echo(f"warning   {warning}")


def _print_warnings(warnings: list) -> None:
    for warning in warnings:
        typer.echo(f"warning: {warning.wnid} {warning.code}: {warning.message}", err=True)
