"""The command that walks the whole path from a recipe."""

from pathlib import Path
from typing import Annotated, Any

import typer

from imagenet_sd.cli.common import Format, OutputFormat, app, print_json


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, such as pipelines/mini.yaml.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one value of the recipe; repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the study [the recipe's].")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the stages and do nothing else.")] = False,
    format: OutputFormat = Format.table,
) -> None:
    """Run a recipe: generate, train, evaluate and report, for every cell of its grid.

    What is up to date is skipped. Run it again to go on where it stopped.
    """
    from imagenet_sd.study import load_recipe, runner
    from imagenet_sd.study.document import command_line

    loaded = load_recipe(recipe, settings or [])
    if dry_run:
        plan = runner.dry_run_study(loaded, out=out, path=str(recipe))
        return print_json(plan) if format is not Format.table else _print_plan(plan)
    summary = runner.run(loaded, out=out, path=str(recipe), command=command_line())
    if format is not Format.table:
        return print_json(summary)
    if not summary["done"]:
        typer.echo(f"nothing to do: {summary['stages']} stages are up to date")
    else:
        typer.echo(f"{summary['stages']} stages are done, {summary['done']} of them in this run")
    typer.echo(f"report: {summary['page']}")


def _print_plan(plan: dict[str, Any]) -> None:
    for number, stage in enumerate(plan["stages"], 1):
        state = "done" if stage["done"] else "to do"
        typer.echo(f"[{number}/{len(plan['stages']) + 1}] {stage['stage']:8s} {state:5s}  {stage['folder']}")
    typer.echo(
        f"{plan['name']}: {plan['cells']} cells, {plan['images']:,} images in {plan['image_steps']:,} diffusion steps, "
        f"into {plan['out']}"
    )
    for key, place in plan["missing"].items():
        typer.echo(f"missing: {key}: there is no {place}")
