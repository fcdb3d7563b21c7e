"""How far features move under transformations: a heat map, curves over strengths, spatial against appearance."""

import math
from collections.abc import Callable

import numpy as np

from imagenet_sd.core.results import InvarianceResult
from imagenet_sd.report.measurements import Measurements, Setting, Summary
from imagenet_sd.report.svg import COLOURS, INK, MARKERS, Panel, left_out, legend_below, name, new_axes, to_panel

_MOST_SETTINGS = 8
_MOST_COLUMNS = 16
_FAMILIES = ("spatial", "appearance", "real")


def _results(setting: Setting) -> list[list[InvarianceResult]]:
    """Of each encoder of a setting."""
    return [list(encoder.invariances) for encoder in setting.encoders]


def _summaries(setting: Setting, value: Callable[[InvarianceResult], float]) -> dict[tuple[str, str], Summary]:
    """(family, transformation) -> mean and deviation over encoders; over data sets first."""
    found: dict[tuple[str, str], list[float]] = {}
    for results in _results(setting):
        values: dict[tuple[str, str], list[float]] = {}
        for each in results:
            values.setdefault((each.family, each.transformation), []).append(value(each))
        for key, of_sets in values.items():
            found.setdefault(key, []).append(sum(of_sets) / len(of_sets))
    return {
        key: Summary(mean=float(np.mean(each)), sd=float(np.std(each)), count=len(each)) for key, each in found.items()
    }


def _measured_settings(measured: Measurements) -> list[Setting]:
    return [setting for setting in measured.settings if any(encoder.invariances for encoder in setting.encoders)]


def heat_map(measured: Measurements) -> tuple[str, list[Panel]]:
    """Transformation x encoder: mean cosine, and mean Mahalanobis distance."""
    settings = _measured_settings(measured)
    shown = settings[:_MOST_COLUMNS]
    panels = []
    for key, title, value, colours, top in (
        ("cosine", "cosine of whitened features (1: invariant)", lambda r: r.cosine, "Blues", 1.0),
        ("distance", "Mahalanobis distance (0: invariant)", lambda r: r.distance, "Oranges", None),
    ):
        columns = [_summaries(setting, value) for setting in shown]
        rows = sorted({row for column in columns for row in column}, key=lambda row: (_FAMILIES.index(row[0]), row[1]))
        if not rows:
            continue
        values = [[column[row].mean if row in column else math.nan for column in columns] for row in rows]
        figure, axes = new_axes(2.6 + 0.75 * len(shown), 1.2 + 0.27 * len(rows))
        high = top or float(np.nanpercentile(values, 95)) or 1.0  # one wild distance must not pale all others
        image = axes.imshow(values, aspect="auto", cmap=colours, vmin=0, vmax=high)
        for y, line in enumerate(values):
            for x, each in enumerate(line):
                text = "" if math.isnan(each) else f"{each:.2f}" if top else f"{each:.1f}"
                dark = each > 0.55 * high  # the cells have colours of their own on light and dark pages
                axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
        axes.set_xticks(range(len(shown)), [name(s.short, 22) for s in shown], rotation=30, ha="right")
        axes.set_yticks(range(len(rows)), [f"{transformation} ({family})" for family, transformation in rows])
        axes.grid(visible=False)
        axes.set_title(title)
        figure.colorbar(image, ax=axes, fraction=0.04)
        panels.append(to_panel(figure, f"invariance-{key}", f"Heat map of {title}: {len(rows)} transformations"))
    note = "Mean over images, strengths and seeds." + left_out(len(settings), "encoders", _MOST_COLUMNS)
    return note + measured.names_note, panels


def curves(measured: Measurements) -> tuple[str, list[Panel]]:
    """The cosine over the strengths, one panel per transformation whose grid is a line."""
    settings = _measured_settings(measured)
    shown = settings[:_MOST_SETTINGS]
    lines: dict[str, dict[int, list[InvarianceResult]]] = {}
    for number, setting in enumerate(shown):
        for results in _results(setting):
            for result in results:
                if len(result.cosines) > 2 and all(len(strength) == 1 for strength in result.strengths):
                    lines.setdefault(result.transformation, {}).setdefault(number, []).append(result)
    panels = []
    for transformation, by_setting in lines.items():
        figure, axes = new_axes(3.6, 2.8)
        for number, results in by_setting.items():
            grid = [strength for (strength,) in results[0].strengths]
            same = [result for result in results if result.strengths == results[0].strengths]
            means = [sum(values) / len(same) for values in zip(*(r.cosines for r in same), strict=True)]
            axes.plot(
                grid, means, color=COLOURS[number], marker=MARKERS[number] if len(grid) <= 16 else "", ms=3, lw=1.5,
                label=name(shown[number].short),
            )  # fmt: skip
        axes.set(xlabel=transformation, ylabel="cosine")
        axes.set_ylim(top=1.05)
        legend_below(figure, axes)
        alt = f"Cosine over the strength of {transformation}, {len(by_setting)} encoders"
        panels.append(to_panel(figure, f"invariance-curve-{transformation.replace('_', '-')}", alt))
    note = "Mean over images and seeds." + left_out(len(settings), "encoders", _MOST_SETTINGS)
    return note + measured.names_note, panels


def spatial_against_appearance(measured: Measurements) -> tuple[str, list[Panel]]:
    """Mean cosine over the spatial transformations against that over the appearance ones, one point per encoder.

    Over the transformations that all encoders with both families were measured on.
    """
    measured_on = [
        (setting, _summaries(setting, lambda result: result.cosine)) for setting in _measured_settings(measured)
    ]
    both = [each for each in measured_on if {"spatial", "appearance"} <= {family for family, _ in each[1]}]
    shared = set.intersection(*(set(summaries) for _, summaries in both)) if both else set()
    columns = [[key for key in sorted(shared) if key[0] == family] for family in ("spatial", "appearance")]
    if not all(columns):
        return "", []
    points = [
        (setting, *(sum(summaries[key].mean for key in keys) / len(keys) for keys in columns))
        for setting, summaries in both
    ]
    figure, axes = new_axes(4.6, 3.8)
    for number, (setting, x, y) in enumerate(points[:_MOST_COLUMNS]):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.plot([x], [y], color=colour, marker=marker, ms=7, lw=0, label=name(setting.short))
    axes.margins(0.15)
    axes.axline((0.5, 0.5), slope=1, color=INK, lw=0.8, ls=":", alpha=0.6)
    values = [value for _, x, y in points for value in (x, y)]
    low, high = min(values), max(values)
    edge = max(0.02, 0.12 * (high - low))
    axes.set_xlim(low - edge, high + edge)
    axes.set_ylim(low - edge, high + edge)
    axes.set(xlabel="invariance to spatial changes (cosine)", ylabel="invariance to appearance (cosine)")
    legend_below(figure, axes)
    alt = f"Invariance to spatial changes against invariance to appearance, {len(points)} encoders"
    spatial, appearance = map(len, columns)
    note = (
        f"Mean cosine over the {spatial} spatial and {appearance} appearance transformations that all of these were "
        f"measured on; the dotted line is where both are equal.{left_out(len(points), 'encoders', _MOST_COLUMNS)}"
    )
    return note + measured.names_note, [to_panel(figure, "invariance-plane", alt)]


_NEEDS = "`imagenet-sd evaluate ENCODER --suite invariance --data NAME=SPEC`"
FIGURES: list[tuple[str, str, Callable[[Measurements], tuple[str, list[Panel]]]]] = [
    ("Invariance to transformations", _NEEDS, heat_map),
    (
        "Spatial against appearance invariance",
        f"{_NEEDS}, with transformations of both families",
        spatial_against_appearance,
    ),
    ("Invariance over strengths", _NEEDS, curves),
]
"""Title, what it needs, and the function that makes it."""
