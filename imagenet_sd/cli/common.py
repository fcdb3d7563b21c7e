"""What the commands share: the application, arguments, output, and the one place where errors become text."""

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from imagenet_sd import __version__
from imagenet_sd.core.errors import ImagenetSDError, Interrupted, one_line, os_hint, visible

FORMAT = click.option(
    "--format", type=click.Choice(["table", "json", "jsonl"]), default="table",
    help="Output for people, or for programs.",
)  # fmt: skip
DATASET = click.argument(
    "dataset", metavar="OUT", type=click.Path(path_type=Path), help="Folder of a dataset made by `generate`."
)
SETTINGS = click.option("--set", "settings", multiple=True, metavar="A.B=C", help="Change one value; repeatable.")


@click.group(context_settings={"show_default": True, "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def app() -> None:
    """Turn a list of classes into a synthetic image dataset, train an encoder on it, and look at what came out."""


def folder(flag: str, help: str, metavar: str = "DIR", **attributes: Any) -> Callable[..., Any]:
    """An option that takes a path."""
    return click.option(flag, type=click.Path(path_type=Path), metavar=metavar, help=help, **attributes)


def show(result: Any, format: str, as_text: str | Callable[[Any], None]) -> None:
    """Print a result: for people, as one JSON document, or a list of rows as JSON lines.

    Args:
        result: a mapping, or a list of them.
        format: "table", "json" or "jsonl".
        as_text: prints it for people; or a format string, filled in from each mapping.
    """
    if format == "table" and isinstance(as_text, str):
        for row in result if isinstance(result, list) else [result]:
            echo(as_text.format(**row))
    elif format == "table":
        as_text(result)  # pyright: ignore[reportCallIssue]
    elif format == "jsonl" and isinstance(result, list):
        for row in result:
            echo(json.dumps(row, ensure_ascii=False))
    else:
        print_json(result)


def echo(text: str, err: bool = False) -> None:
    """Print a line. Control characters, whichever file they came from, are spelt out: none steers the terminal."""
    click.echo(visible(text), err=err)


def print_json(value: object) -> None:
    """Print a value as one JSON document."""
    echo(json.dumps(value, indent=2, ensure_ascii=False))


def main() -> None:
    """Run the command line: exit code 0 when done, 1 for a known error, 2 for bad usage, 128 + signal when stopped.

    An error is a line and a hint on standard error; with `--format json`, one line of JSON there: `error`, `hint` and
    `exit_code`.
    """
    try:
        sys.exit(app(prog_name="imagenet-sd", standalone_mode=False))
    except click.ClickException as error:
        if not _wants_json(sys.argv):
            error.show()
            sys.exit(error.exit_code)
        _fail(error.format_message(), "`--help` lists the options", error.exit_code)
    except ImagenetSDError as error:
        _fail(str(error), error.hint, 1)
    except OSError as error:
        _fail(one_line(error, 1000), os_hint(error), 1)
    except Interrupted as stopped:
        _fail(
            "stopped, unfinished shards were given back; run the same command again to go on", "", 128 + stopped.signum
        )
    except click.Abort:  # Ctrl-C
        _fail("interrupted; run the same command again to go on", "", 130)


def _fail(message: str, hint: str, code: int) -> None:
    """Print an error and end with its exit code; being stopped is none, so its line has no such word."""
    if _wants_json(sys.argv):
        print(json.dumps({"error": message, "hint": hint, "exit_code": code}), file=sys.stderr)
    else:
        print(visible(f"error: {message}" if code < 128 else message), file=sys.stderr)
        if hint:
            print(visible(f"hint: {hint}"), file=sys.stderr)
    sys.exit(code)


def _wants_json(arguments: list[str]) -> bool:
    """Whether the output is for programs; told from the arguments alone, since they may be the error."""
    pairs = {*pairwise(arguments)}
    formats = ("json", "jsonl")
    return "--json" in arguments or any(
        ("--format", name) in pairs or f"--format={name}" in arguments for name in formats
    )


def parse_size(text: str) -> dict[str, Any]:
    """`width` and `height` in pixels from "512x384"; zeros from "".

    Raises:
        ImagenetSDError: it is neither.
    """
    if not text:
        return {"width": 0, "height": 0}
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise ImagenetSDError(f"--size is {text!r}", "write WIDTHxHEIGHT, such as 512x384")
    return {"width": int(width), "height": int(height)}
