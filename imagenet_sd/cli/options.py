"""Options of a command, from their one declaration: the fields of a configuration, or the arguments of a function."""

import ast
import functools
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import click

AT_LEAST_0 = click.IntRange(min=0)
AT_LEAST_1 = click.IntRange(min=1)
SIZE = click.option(
    "--size", default="", metavar="WxH", show_default=False,
    help="Image size in pixels; empty: that of the model (Stable Diffusion 1 and 2: 512x384, embedded: 32x32).",
)  # fmt: skip


class _Choice(click.Choice):
    """Lists the choices on the help page and completes them; the configuration refuses others and says why."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value


def options(
    source: Callable[..., Any],
    into: str,
    *,
    only: Sequence[str] = (),
    without: Sequence[str] = (),
    **attributes: dict[str, Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command one option for each field of a dataclass, or each keyword-only argument of a function.

    Name, type, default and help come from the declaration: the help is the docstring under the field, or the line of
    the argument in the function's docstring.

    Args:
        source: the dataclass or the function.
        into: the argument of the command that receives the values, a dictionary with the names of the source.
        only: the names that become options; empty: all.
        without: names that do not.
        attributes: name -> attributes of `click.option` that differ; `flags` holds the spellings, `parameter` the name
            inside the command, where two sources have a field of one name.
    """
    help_texts = _documented(source)
    names = {name: attributes.get(name, {}).get("parameter", name) for name in help_texts}
    parameters = [
        parameter
        for name, parameter in inspect.signature(source).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in without and (not only or name in only)
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def grouped(**values: Any) -> Any:
            chosen = {parameter.name: values.pop(names[parameter.name]) for parameter in parameters}
            return command(**values, **{into: chosen})

        for parameter in reversed(parameters):
            own = _attributes(parameter, help_texts[parameter.name]) | attributes.get(parameter.name, {})
            own.pop("parameter", None)
            flags = own.pop("flags", [f"--{parameter.name.replace('_', '-')}"])
            click.option(*flags, names[parameter.name], **own)(grouped)
        return grouped

    return decorate


def _attributes(parameter: inspect.Parameter, help: str) -> dict[str, Any]:
    """Help, type and default of an option, after the annotation; a help that names a default goes without 0 or ""."""
    hint, default = parameter.annotation, parameter.default
    if NoneType in get_args(hint):
        hint = next(kind for kind in get_args(hint) if kind is not NoneType)
    if hint is bool:
        return {"help": help, "is_flag": True, "default": default}
    if get_origin(hint) is Literal:
        hint = _Choice(get_args(hint))
    elif hint is Path:
        hint = click.Path(path_type=Path)
    elif isinstance(default, tuple):
        hint, default = str, ":".join(f"{value:g}" for value in default)
    shown = default not in ("", None) and (bool(default) or "default" not in help)
    return {"help": help, "type": hint, "default": default, "show_default": shown}


def _documented(source: Callable[..., Any]) -> dict[str, str]:
    """Name -> help: docstrings under the fields of a class, or the section `Args` of a function."""
    if inspect.isclass(source):
        tree = ast.parse(inspect.getsource(sys.modules[source.__module__]))
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == source.__name__)
        return {
            field.target.id: " ".join(str(doc.value.value).split())
            for field, doc in pairwise(body)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
        }
    section = (inspect.getdoc(source) or "").partition("Args:\n")[2].partition("\n\n")[0]
    texts = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", section, flags=re.MULTILINE)
    return {
        name: " ".join((text[0].upper() + text[1:]).replace("None: ", "by default ").split()) for name, text in texts
    }
