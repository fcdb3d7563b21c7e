"""What features are like: the four measures of Fig. 5.6, and the singular values of Fig. 4.6b."""

import math

import numpy as np
import pandas as pd

from imagenet_sd.report.encoders import TRANSFER
from imagenet_sd.report.measurements import FEATURE_TITLES, Measurements
from imagenet_sd.report.svg import (
    COLOURS,
    INK,
    MOST_LINES,
    Captioned,
    left_out,
    legend_below,
    log_scale,
    name,
    new_axes,
    to_panel,
)
from imagenet_sd.report.text import slug

_GROUPS = {
    **dict.fromkeys(("val", "v2"), "val / v2"),
    **dict.fromkeys(("sketch", "r", "a"), "sketch / r / a"),
    **dict.fromkeys(TRANSFER, "transfer"),
}
"""The three groups of Fig. 5.6; a data set of none of them stands for itself."""
_MOST_DIMENSIONS = 1000


def group_means(measured: Measurements, measure: str) -> dict[str, pd.Series]:
    """Group of data sets -> the mean of a measure over its data sets, by encoder.

    The three test sets of ImageNet-v2 are one data set, so that val and v2 weigh alike (thesis 5.5.5).
    """
    table = measured.features.assign(dataset=measured.features["dataset"].replace("^v2-.*", "v2", regex=True))
    each = table.groupby(["encoder", "dataset"], sort=False, as_index=False).agg({measure: "mean"})
    groups = each["dataset"].replace(_GROUPS)
    return {
        group: each[groups == group].groupby("encoder")[measure].mean() for group in list(dict.fromkeys(groups))[:8]
    }


def features(measured: Measurements) -> Captioned:
    """Bars of the four feature measures, per group of data sets and setting."""
    shown = [s for s in measured.settings if any(encoder.analyses for encoder in s.encoders)]
    panels = []
    for measure, title in FEATURE_TITLES.items() if shown else ():
        figure, axes = new_axes()
        means = {group: measured.summarise(rows) for group, rows in group_means(measured, measure).items()}
        settings = shown[:MOST_LINES]
        width = min(0.4, 0.8 / len(settings))
        for number, setting in enumerate(settings):
            summaries = [each.get(setting.number) for each in means.values()]
            axes.bar(
                [group + width * (number + 0.5 - len(settings) / 2) for group in range(len(means))],
                [each.mean if each else math.nan for each in summaries],
                0.92 * width,
                yerr=[each.sd if each and each.count > 1 else math.nan for each in summaries],
                color=COLOURS[number],
                ecolor=INK,
                label=name(setting.short),
            )
        axes.set_xticks(range(len(means)), [name(group, 18) for group in means])
        axes.set_xlim(-0.6, len(means) - 0.4)
        axes.grid(visible=False, axis="x")
        axes.set_title(title)
        legend_below(figure, axes)
        panels.append(to_panel(figure, f"features-{slug(measure)}", f"Bars of {title} on {', '.join(means)}"))
    note = "Of l2-normalised features; mean over seeds, lines show the population standard deviation."
    return note + measured.names_note + left_out(len(shown), "encoders"), panels


def spectra(measured: Measurements) -> dict[int, np.ndarray]:
    """Singular values by setting: shares of their sum, largest first, the mean over transfer sets and seeds.

    The sets are those of Tab. 5.3 where there are any, else all; the shortest spectrum sets the length.
    """
    found: dict[int, list[np.ndarray]] = {}
    published = any(a.dataset in TRANSFER for s in measured.settings for e in s.encoders for a in e.analyses)
    for setting in measured.settings:
        for encoder in setting.encoders:
            for analysis in encoder.analyses:
                values = np.sort(np.array(analysis.singular_values))[::-1]
                if len(values) and values.sum() > 0 and (analysis.dataset in TRANSFER or not published):
                    found.setdefault(setting.number, []).append(values / values.sum())
    length = min((len(values) for rows in found.values() for values in rows), default=0)
    return {number: np.mean([values[:length] for values in rows], axis=0) for number, rows in found.items()}


def singular_values(measured: Measurements) -> Captioned:
    """Fig. 4.6b: how evenly the variance of features spreads over dimensions."""
    lines = spectra(measured)
    if not lines:
        return "", []
    figure, axes = new_axes()
    for colour, (number, values) in zip(COLOURS, lines.items(), strict=False):
        shown = np.maximum(values[:_MOST_DIMENSIONS], 1e-12)
        axes.plot(range(1, len(shown) + 1), shown, color=colour, lw=1.6, label=name(measured.settings[number].short))
    log_scale(axes, "y")
    axes.set(xlabel="dimension", ylabel="singular value, share of the sum")
    legend_below(figure, axes)
    note = f"Of centred, l2-normalised features; mean over data sets and seeds; the first {_MOST_DIMENSIONS:,} at most."
    alt = f"Normalised singular values by dimension, {len(lines)} encoders"
    return note + measured.names_note + left_out(len(lines), "encoders"), [to_panel(figure, "singular-values", alt)]
