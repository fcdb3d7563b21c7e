"""Matplotlib figures as SVG text that is the same for the same data, and readable on light and on dark pages."""

import html
import io
import re
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from imagenet_sd.core.documents import clean

Panel = tuple[str, str, str]
"""Key, alternative text, SVG."""
Captioned = tuple[str, list[Panel]]
"""Caption and panels of a figure; no panels where there is no data for it."""
INK = "#010203"
"""Stands for the colour of the text around the figure; `to_svg` replaces it by `currentColor`."""
COLOURS = ("#3d85c6", "#e0792f", "#3f9d5a", "#d0567a", "#8b72d6", "#a8822c", "#2aa0a4", "#84888f")
MARKERS = "osD^vPX*"
MOST_LINES = len(COLOURS)
"""Lines, bars of a group, or polygons that a panel shows at most."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be selected, and follows the colour of the page
    "text.parse_math": False,  # a dollar sign in a class name is a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 9,
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "grid.color"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "text.color"), INK),
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
}
"""The settings that a figure must be made under: `with matplotlib.rc_context(STYLE): ...`."""
_HEAD = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_OWN_STYLE = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>", re.DOTALL)
_FILE_STYLE = "<style>svg{color:#222}@media(prefers-color-scheme:dark){svg{color:#ddd}}</style>"


def new_axes(width: float = 4.6, height: float = 3.4, **subplot: object) -> tuple[Figure, Axes]:
    """A figure of one panel; sizes in inches."""
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot(**subplot)


def log_scale(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with plain numbers at the powers of ten: matplotlib would write them as TeX."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def name(text: str, length: int = 44) -> str:
    """A label for a figure: one line, cut to `length`, never empty; matplotlib would hide one that begins with `_`."""
    text = clean(text)
    text = text if len(text) <= length else text[: length - 1] + "…"
    return f" {text}" if text.startswith("_") or not text else text


def legend_below(figure: Figure, axes: Axes) -> None:
    """The legend under the panel, where it covers no data; the figure grows by its height."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        longest = max(map(len, labels))
        columns = 1 if longest > 30 else 2 if longest > 16 else 3
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        figure.set_figheight(figure.get_figheight() + 0.19 * -(-len(labels) // columns))


def left_out(count: int, what: str, most: int = MOST_LINES) -> str:
    """A remark that the first `most` of `count` are shown; "" where all are."""
    return f" The first {most} of {count} {what} are shown." if count > most else ""


def to_panel(figure: Figure, key: str, alt: str) -> Panel:
    """The figure as an `<svg>` element without a date, with ids of its own and a text alternative.

    Args:
        figure: made under `STYLE`.
        key: letters, digits and `-`; no two figures of a page share one.
        alt: what the figure shows, for those who do not see it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = _OWN_STYLE.sub("", _HEAD.sub("", buffer.getvalue(), count=1)).replace(INK, "currentColor")
    text = re.sub(r'((?:\sid="|xlink:href="#|url\(#))', rf"\1{key}-", text)
    text = text.replace("<svg", f'<svg role="img" aria-label="{html.escape(clean(alt))}"', 1).strip() + "\n"
    return key, alt, text


def standalone(svg: str) -> str:
    """The same figure as a file of its own: it brings its text colour for light and dark along."""
    start = svg.index(">") + 1
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg[:start]}{_FILE_STYLE}{svg[start:]}'
