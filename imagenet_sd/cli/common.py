"""What the commands share: the application, options, output, and the one place where errors become text."""

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from imagenet_sd import __version__
from imagenet_sd.core.errors import ImagenetSDError, Interrupted

app = typer.Typer(
    name="imagenet-sd",
    help="Turn a list of classes into a synthetic image dataset, train an encoder on it, and look at what came out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Format(str, Enum):
    """Output of a command: for people, or for programs."""

    table = "table"
    json = "json"
    jsonl = "jsonl"


OutputFormat = Annotated[Format, typer.Option("--format", help="Output for people, or for programs.")]
Dataset = Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a dataset made by `generate`.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"imagenet-sd {__version__}")
        raise typer.Exit


def print_rows(rows: list[dict], format: Format) -> None:
    """Print rows as one JSON document, or as JSON lines."""
    if format is Format.json:
        return print_json(rows)
    for row in rows:
        typer.echo(json.dumps(row, ensure_ascii=False))


def print_json(value: object) -> None:
    """Print a result as one JSON document."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def main() -> None:
    """Run the command line: exit code 0 when done, 1 for a known error, 2 for bad usage, 128 + signal when stopped."""
    try:
        app()
    except ImagenetSDError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as stopped:
        print("stopped, shards at hand were handed back; run the same command again to go on", file=sys.stderr)
        sys.exit(128 + stopped.signum)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


def parse_size(text: str) -> tuple[int, int]:
    """Width and height in pixels from "512x384"; zeros from "".

    Raises:
        ImagenetSDError: it is neither.
    """
    if not text:
        return 0, 0
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise ImagenetSDError(f"--size is {text!r}", "write WIDTHxHEIGHT, such as 512x384")
    return int(width), int(height)
