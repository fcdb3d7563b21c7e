"""Small pieces of text that the tables, figures and pages share."""

import re
from typing import Any

import jinja2

TIMES, DASH = "\u00d7", "\u2013"
"""The multiplication sign, and the dash that stands for what was not measured."""


def slug(text: str) -> str:
    """A name that is harmless as a file name and as an id."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "x"


def percent(share: float, digits: int = 2) -> str:
    """A fraction in percent, without the sign."""
    return f"{100 * share:.{digits}f}"


def template(name: str, **options: Any) -> jinja2.Template:
    """A template of this folder; it escapes what it is given."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("imagenet_sd.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    ).get_template(name)
