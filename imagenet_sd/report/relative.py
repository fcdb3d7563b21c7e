"""Accuracy relative to a baseline over the levels of ImageNet-CoG: all images (Fig. 3.4b-e) and few (Fig. 3.5d-f)."""

import pandas as pd
from matplotlib.axes import Axes

from imagenet_sd.report.measurements import Measurements, Setting
from imagenet_sd.report.paper_tables import LEVELS, probe_values
from imagenet_sd.report.svg import (
    COLOURS,
    INK,
    MARKERS,
    MOST_LINES,
    Captioned,
    Panel,
    left_out,
    legend_below,
    name,
    new_axes,
    to_panel,
)


def relative(measured: Measurements) -> Captioned:
    """Top-1 minus that of the baseline, in points."""
    baseline = next((s for s in measured.settings if s.encoders[0].name.startswith(measured.baseline)), None)
    if baseline is None:
        return "", []
    panels = [_over_levels(measured, baseline), *(_over_shots(measured, baseline, level) for level in LEVELS)]
    note = f"Top-1 of linear classifiers minus that of {baseline.short}, in points; mean over seeds."
    return note + left_out(len(measured.settings) - 1, "encoders"), [panel for panel in panels if panel]


def differences(measured: Measurements, baseline: Setting, values: pd.Series) -> dict[int, float]:
    """Values by encoder, as the mean of each setting minus that of the baseline, in points; {} without a baseline."""
    means = measured.summarise(values)
    if baseline.number not in means:
        return {}
    zero = means[baseline.number].mean
    return {number: 100 * (summary.mean - zero) for number, summary in means.items() if number != baseline.number}


def _over_levels(measured: Measurements, baseline: Setting) -> Panel | None:
    columns = {
        "IN-1K" if column == "in1k" else column: differences(measured, baseline, probe_values(measured, column))
        for column in ("in1k", *LEVELS)
    }
    columns = {title: found for title, found in columns.items() if found}
    return _panel(measured, columns, "relative-levels", "seen and unseen concepts") if len(columns) > 1 else None


def _over_shots(measured: Measurements, baseline: Setting, level: str) -> Panel | None:
    rows = measured.scores[measured.scores["dataset"].str.fullmatch(f"(?:.*-)?{level}").astype(bool)]
    shots = rows["probe"].str.extract(r"^fewshot-(\d+)$")[0].dropna().astype(int)
    columns = {}
    for count in sorted(shots.unique()):
        asked = rows.loc[shots[shots == count].index].drop_duplicates("encoder").set_index("encoder")["top1"]
        columns[str(count)] = differences(measured, baseline, asked)
    if every := differences(measured, baseline, probe_values(measured, level)):
        columns["all"] = every
    columns = {title: found for title, found in columns.items() if found}
    enough = sum(title != "all" for title in columns) > 1
    return _panel(measured, columns, f"relative-{level.lower()}", f"images per concept, {level}") if enough else None


def _panel(measured: Measurements, columns: dict[str, dict[int, float]], key: str, xlabel: str) -> Panel | None:
    numbers = [s.number for s in measured.settings if sum(s.number in found for found in columns.values()) > 1]
    if not numbers:
        return None
    figure, axes = new_axes()
    _zero(axes)
    for place, number in enumerate(numbers[:MOST_LINES]):
        known = [(x, found[number]) for x, found in enumerate(columns.values()) if number in found]
        label = name(measured.settings[number].short)
        axes.plot(*zip(*known, strict=True), color=COLOURS[place], marker=MARKERS[place], ms=4.5, lw=1.6, label=label)
    axes.set_xticks(range(len(columns)), list(columns))
    axes.set(xlabel=xlabel, ylabel="top-1 minus the baseline (points)")
    legend_below(figure, axes)
    return to_panel(figure, key, f"Top-1 relative to the baseline against {xlabel}, {len(numbers)} encoders")


def _zero(axes: Axes) -> None:
    axes.axhline(0, color=INK, lw=1, alpha=0.75)
