"""Prompt templates: text with the fields {name} {hypernym} {definition} {background}, read from YAML.

An entry of such a file is a text, or a mapping with a `text` and the `backgrounds` that its {background} stands for.
"""

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagenet_sd.core.errors import TemplateError, control_character, one_line, printable
from imagenet_sd.core.files import data_path
from imagenet_sd.core.typed import parse_yaml
from imagenet_sd.core.types import PromptTemplate

FIELDS = ("name", "hypernym", "definition", "background")


def parse_template(text: str) -> list[tuple[str, str | None]]:
    """Split a template into (literal, field name or None) pairs.

    Raises:
        TemplateError: an unknown field, or a format that is more than a bare field.
    """
    try:
        pieces = list(string.Formatter().parse(text))
    except ValueError as error:
        raise TemplateError(f"template {text!r}: {error}", "write {{ and }} for literal braces") from None
    parsed = []
    for literal, field, format_spec, conversion in pieces:
        if field is not None and (field not in FIELDS or format_spec or conversion):
            raise TemplateError(
                f"template {text!r}: unknown field {{{printable(field)}}}", f"the fields are {', '.join(FIELDS)}"
            )
        parsed.append((literal, field))
    return parsed


def uses_background(template: PromptTemplate) -> bool:
    """Whether the template names a scene."""
    return any(field == "background" for _, field in parse_template(template.text))


def load_templates(path: Path | None = None) -> dict[str, PromptTemplate]:
    """The shipped templates, and those of a user's YAML file (`key: "text"`) over them.

    Raises:
        TemplateError: the file is not a mapping from key to text (or to `text` and `backgrounds`), or a text is empty,
            holds a control character, or has an unknown field.
    """
    templates = _read(data_path("prompts", "templates.yaml"))
    if path is not None:
        templates |= _read(path)
    return templates


def get_template(key: str, templates: Mapping[str, PromptTemplate]) -> PromptTemplate:
    """The template of that key.

    Raises:
        TemplateError: there is none.
    """
    if key not in templates:
        raise TemplateError(f"no prompt template {key!r}", f"the templates are {', '.join(sorted(templates))}")
    return templates[key]


def _read(path: Path) -> dict[str, PromptTemplate]:
    try:
        entries = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TemplateError(f"no templates file {path}", "give the path of a YAML file of `key: text` lines") from None
    except (OSError, ValueError) as error:
        raise TemplateError(f"{path} is not readable as YAML: {one_line(error)}", 'write `key: "text"` lines') from None
    if not isinstance(entries, dict) or not all(isinstance(key, str) for key in entries):
        raise TemplateError(f"{path} must map keys to texts", 'write lines such as  sketch: "a sketch of a {name}"')
    return {key: _template(path, key, entry) for key, entry in entries.items()}


def _template(path: Path, key: str, entry: Any) -> PromptTemplate:
    parts = entry if isinstance(entry, dict) else {"text": entry}
    text, own = parts.get("text"), parts.get("backgrounds", [])
    names_only = isinstance(own, list) and all(isinstance(name, str) and name.strip() for name in own)
    if not isinstance(text, str) or not names_only or not parts.keys() <= {"text", "backgrounds"}:
        raise TemplateError(
            f"{path}, key {key!r}: neither a text nor a mapping of `text` and a list of `backgrounds`",
            'write lines such as  sketch: "a sketch of a {name}"',
        )
    template = PromptTemplate(key=key, text=text, backgrounds=tuple(own))
    try:
        if own and not uses_background(template):
            raise TemplateError("it has backgrounds and no field {background}", "name {background} in its text")
        for part in (text, *own):
            _check_text(part)
        parse_template(text)
    except TemplateError as error:
        raise TemplateError(f"{path}, key {key!r}: {error}", error.hint) from None
    return template


def _check_text(text: str) -> None:
    """What a new template or background may not be; those that old datasets record are taken as they are."""
    if not text.strip():
        raise TemplateError("the template is empty", "write text with fields, such as  a photo of a {name}")
    if control := control_character(text, allowed="\t\n"):
        raise TemplateError(f"the template holds the control character {control}", "take it out")
