"""The command that runs a study."""

from pathlib import Path
from typing import Any

import click

from imagenet_sd.cli.common import FORMAT, SETTINGS, app, echo, folder, show
from imagenet_sd.core.progress import counted


@app.command("run")
@click.argument(
    "study", metavar="STUDY", type=click.Path(path_type=Path), help="A YAML file, such as pipelines/mini.yaml."
)
@SETTINGS
@folder("--out", "Folder of the study; by default the one that its file names.")
@click.option("--dry-run", is_flag=True, help="Print the stages and do nothing else.")
@FORMAT
def run_study(study: Path, settings: tuple[str, ...], out: Path | None, dry_run: bool, format: str) -> None:
    """Run a study: generate, train, evaluate and report, for every cell of its grid.

    What is up to date is skipped. Run it again to go on where it stopped.
    """
    from imagenet_sd.study import dry_run_study, load_study, run
    from imagenet_sd.study.document import command_line

    loaded = load_study(study, settings)
    if dry_run:
        show(dry_run_study(loaded, out=out, path=str(study)), format, _print_plan)
    else:
        show(run(loaded, out=out, path=str(study), command=command_line()), format, _print_summary)


def _print_summary(summary: dict[str, Any]) -> None:
    if not summary["done"]:
        echo(f"nothing to do: {summary['stages']} stages are up to date")
    else:
        echo(f"{counted(summary['stages'], 'stage')} done, {summary['done']:,} of them in this run")
    echo(f"report: {summary['page']}")


def _print_plan(plan: dict[str, Any]) -> None:
    for number, stage in enumerate(plan["stages"], 1):
        state = "done" if stage["done"] else "to do"
        echo(f"[{number}/{len(plan['stages']) + 1}] {stage['stage']:8s} {state:5s}  {stage['folder']}")
    echo(
        f"{plan['name']}: {plan['cells']} cells, {plan['images']:,} images in {plan['image_steps']:,} diffusion steps, "
        f"into {plan['out']}"
    )
    for key, place in plan["missing"].items():
        echo(f"missing: {key}: there is no {place}")
    for model in plan["unknown"]:
        echo(f"note: the defaults of {model} are not known yet: its steps are not counted, its folders get other names")
