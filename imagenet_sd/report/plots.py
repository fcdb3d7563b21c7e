"""The figures of the papers, from our numbers.

Radar (Fig. 5.2), scaling (5.4), guidance and steps (5.5), feature analysis (5.6), training against transfer (4.7), and
accuracy per class. A figure without data says what is missing.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator

from imagenet_sd.report import invariance_plots, paper
from imagenet_sd.report.encoders import TRANSFER
from imagenet_sd.report.measurements import (
    FEATURE_TITLES,
    Measurements,
    Setting,
    Summaries,
    label_of,
    varying_factors,
)
from imagenet_sd.report.svg import COLOURS, INK, MARKERS, STYLE, Panel, legend_below, name, new_axes, to_panel
from imagenet_sd.report.text import TIMES, slug

Captioned = tuple[str, list[Panel]]
"""Caption and panels of a figure; no panels where there is no data for it."""
_MOST_LINES = 8
_MOST_PANELS = 6


class Drawing(NamedTuple):
    """One figure: what it needs, and its panels; none where that is missing."""

    title: str
    needs: str
    caption: str
    panels: list[Panel]


@matplotlib.rc_context(STYLE)
def draw_all(measured: Measurements) -> list[Drawing]:
    """All figures but those per class, in the order of the page."""
    return [Drawing(title, needs, *make(measured)) for title, needs, make in _FIGURES]


def radar(measured: Measurements) -> Captioned:
    """Top-1 on every transfer set that all shown settings were measured on, one spoke each."""
    means = {d: measured.summary("transfer", d) for d in measured.datasets("transfer")}
    shown = [s for s in measured.settings if sum(s.number in mean for mean in means.values()) >= 3]
    spokes = [d for d, mean in means.items() if all(s.number in mean for s in shown)][:16]
    if not shown or len(spokes) < 3:
        return "", []
    lines = [(s.short, [100 * means[d][s.number].mean for d in spokes]) for s in shown]
    lines = sorted(lines, key=lambda line: -math.fsum(line[1]))[:_MOST_LINES]
    published = all(d in TRANSFER for d in spokes)
    floor = 0 if published else max(0, 20 * int((min(min(values) for _, values in lines) - 5) // 20))
    figure, axes = new_axes(4.8, 4.6, projection="polar")
    angles = [2 * math.pi * number / len(spokes) for number in range(len(spokes) + 1)]
    for number, (label, shares) in enumerate(lines):
        colour, closed = COLOURS[number], [*shares, shares[0]]
        axes.plot(angles, closed, color=colour, marker=MARKERS[number], ms=4, lw=1.6, label=name(label))
        if len(lines) <= 3:
            axes.fill(angles, closed, color=colour, alpha=0.08)
    for row, dashes in ((paper.TRANSFER_ROWS[3], ":"), (paper.TRANSFER_ROWS[-1], "--")) if published else ():
        shares = [row.values[TRANSFER.index(n)] for n in spokes]
        label = f"paper: {row.training}, {row.label}"
        axes.plot(angles, [*shares, shares[0]], color=INK, ls=dashes, lw=1, alpha=0.7, label=label)
    axes.set_xticks(angles[:-1], [name(n, 16) for n in spokes])
    axes.set_theta_zero_location("N")  # pyright: ignore[reportAttributeAccessIssue]
    axes.set_ylim(floor, 100)
    ticks = [floor + (100 - floor) * part / 4 for part in range(1, 5)]
    axes.set_yticks(ticks, [f"{tick:g}%" for tick in ticks], fontsize=7)
    axes.spines["polar"].set_alpha(0.3)
    legend_below(figure, axes)
    note = f"Top-1 of linear probes; mean over seeds; the centre is {floor}%.{measured.names_note}"
    alt = f"Radar plot of top-1 accuracy on {len(spokes)} transfer sets"
    return note + _left_out(len(shown), "encoders"), [to_panel(figure, "radar", alt)]


def sweep(measured: Measurements, factor: str, axis: str) -> Captioned:
    """Top-1 against one factor: a line for all settings that agree in the others; real images as a dashed line."""
    targets = {d: measured.summary("training", d) for d in measured.datasets("training")}
    swept = measured.numbers_of(s for s in measured.settings if factor in s.factors)
    probed = measured.scores[(measured.scores["kind"] == "transfer") & measured.scores["encoder"].isin(swept)]
    on_all = probed.pivot_table(index="encoder", columns="dataset", values="top1").dropna(axis=1)
    shared = [d for d in measured.datasets("transfer", swept) if d in on_all]
    if shared:
        label = f"mean over {len(shared)} transfer sets" if len(shared) > 1 else f"{shared[0]} (probe)"
        mean = {label: measured.summarise(measured.mean_over(shared))}
        targets = dict(list(targets.items())[:1]) | mean | dict(list(targets.items())[1:])
    candidates = [
        _sweep_panel(measured.settings, factor, axis, target, means, f"{slug(factor)}-{number}")
        for number, (target, means) in enumerate(targets.items())
    ]
    panels = [panel for panel in candidates if panel]
    note = "Mean over seeds; bars show the population standard deviation."
    return note + _left_out(len(panels), "data sets", _MOST_PANELS), panels[:_MOST_PANELS]


def _sweep_panel(
    settings: list[Setting], factor: str, axis: str, target: str, means: Summaries, key: str
) -> Panel | None:
    curves = _curves(settings, factor, means)
    if all(curve[0].is_real for curve in curves):
        return None
    figure, axes = new_axes()
    # "source" names the real images: it changes with their number, as the size does.
    hidden = (factor, "source", "data")
    varying = [n for n in varying_factors([curve[0].factors for curve in curves]) if n not in hidden]
    for number, curve in enumerate(curves):
        real, label = curve[0].is_real, label_of(curve[0].factors, varying)
        axes.errorbar(
            [setting.factors[factor] for setting in curve],
            [100 * means[setting.number].mean for setting in curve],
            yerr=[100 * means[setting.number].sd for setting in curve],
            color=INK if real else COLOURS[number],
            ls="--" if real else "-",
            marker=MARKERS[number],
            ms=4.5,
            lw=1.6,
            capsize=2.5,
            label=name(", ".join(filter(None, ("real images" if real else "synthetic", label)))),
        )
    if not any(curve[0].is_real for curve in curves):
        _real_lines(axes, settings, curves, means)
    _factor_axis(axes, factor, [setting for curve in curves for setting in curve])
    axes.set(xlabel=axis, ylabel="top-1 on real images (%)", title=name(target))
    legend_below(figure, axes)
    return to_panel(figure, key, f"Top-1 on {target} against {axis}, {len(curves)} line{'s' * (len(curves) > 1)}")


def _curves(settings: list[Setting], factor: str, means: Summaries) -> list[list[Setting]]:
    """The measured settings that agree in all else, in the order of the factor; two values of it at least."""
    lines: dict[tuple, list[Setting]] = {}
    for setting in settings:
        if setting.number in means and factor in setting.factors:
            others = [(n, v) for n, v in setting.factors.items() if n not in (factor, "source")]
            lines.setdefault((setting.study, setting.class_list, *others), []).append(setting)
    curves = [sorted(line, key=lambda setting: setting.factors[factor]) for line in lines.values()]
    curves = [curve for curve in curves if curve[0].factors[factor] < curve[-1].factors[factor]]
    return sorted(curves, key=lambda curve: curve[0].is_real)[:_MOST_LINES]


def _real_lines(axes: Axes, settings: list[Setting], curves: list[list[Setting]], means: Summaries) -> None:
    """Real images as level lines: where there are several, those of the size and augmentation of the curves."""
    real = [setting for setting in settings if setting.is_real and setting.number in means]
    for n in ("multiple", "augmentation"):
        shown = {curve[0].factors.get(n) for curve in curves}
        real = [setting for setting in real if setting.factors.get(n) in shown] or real
    varying = [n for n in ("multiple", "augmentation") if len({s.factors.get(n) for s in real}) > 1]
    for number, setting in enumerate(real[:4]):
        label = ", ".join(filter(None, ("real images", label_of(setting.factors, varying))))
        dashes = ("--", ":", "-.", (0, (1, 3)))[number]
        axes.axhline(100 * means[setting.number].mean, color=INK, ls=dashes, lw=1.1, alpha=0.75, label=name(label))


def _factor_axis(axes: Axes, factor: str, settings: list[Setting]) -> None:
    values = sorted({setting.factors[factor] for setting in settings})
    labels = [f"{value:g}" for value in values]
    if factor == "multiple":
        counts = {setting.factors[factor]: setting.num_images for setting in settings if setting.num_images}
        labels = [f"{v:g}{TIMES}\n{_short(counts[v])}" if v in counts else f"{v:g}{TIMES}" for v in values]
    if min(values) > 0 and max(values) / min(values) > 4:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    if len(values) <= 9:
        axes.set_xticks(values, labels)


def _short(count: int) -> str:
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def plane(measured: Measurements) -> Captioned:
    """Top-1 on the training task against the mean log odds over the transfer sets that all encoders share."""
    tasks, transfer = measured.datasets("training"), measured.datasets("transfer")
    task = measured.summary("training", tasks[0]) if tasks else {}
    odds = {d: measured.summary("transfer", d, "log_odds") for d in transfer}
    both = [n for n in task if any(n in measured.summary("transfer", d) for d in transfer)]
    shared = [d for d in transfer if all(number in odds[d] for number in both)]
    mean_odds = measured.summarise(measured.mean_over(shared, "log_odds"))
    points = [(task[n], mean_odds[n], measured.settings[n]) for n in both if n in mean_odds]
    if len(points) < 2:
        return "", []
    figure, axes = new_axes(5.0, 3.8)
    for number, (x, y, setting) in enumerate(points):
        best = not any(a.mean >= x.mean and b.mean >= y.mean and (a, b) != (x, y) for a, b, _ in points)
        axes.errorbar(
            100 * x.mean,
            y.mean,
            xerr=100 * x.sd,
            yerr=y.sd,
            color=COLOURS[number % len(COLOURS)],
            marker="*" if best else "o",
            ms=11 if best else 6,
            lw=0,
            elinewidth=1,
            label=name(setting.short) if number < 2 * _MOST_LINES else None,
        )
    axes.margins(0.12)
    axes.set(xlabel=name(f"top-1 on {tasks[0]} (%)"), ylabel="mean log odds of the probes")
    legend_below(figure, axes)
    alt = f"Top-1 on {tasks[0]} against mean log odds over {len(shared)} transfer sets, {len(points)} encoders"
    note = f"Transfer: mean over {', '.join(shared)}. Stars: no other encoder is at least as good on both axes."
    return note + measured.names_note, [to_panel(figure, "plane", alt)]


_GROUPS = {
    **dict.fromkeys(("val", "v2"), "val / v2"),
    **dict.fromkeys(("sketch", "r", "a"), "sketch / r / a"),
    **dict.fromkeys(TRANSFER, "transfer"),
}
"""The three groups of Fig. 5.6; a data set of none of them stands for itself."""


def features(measured: Measurements) -> Captioned:
    """Bars of the four feature measures, per group of data sets and setting."""
    shown = [s for s in measured.settings if any(encoder.analyses for encoder in s.encoders)]
    group_of = measured.features["dataset"].replace("^v2-.*", "v2", regex=True).replace(_GROUPS)
    groups = group_of.unique().tolist()[:8]
    panels = []
    for measure, title in FEATURE_TITLES.items() if shown else ():
        figure, axes = new_axes()
        rows = [measured.features[group_of == group] for group in groups]
        means = [measured.summarise(each.groupby("encoder")[measure].mean()) for each in rows]
        settings = shown[:_MOST_LINES]
        width = min(0.4, 0.8 / len(settings))
        for number, setting in enumerate(settings):
            summaries = [each.get(setting.number) for each in means]
            axes.bar(
                [group + width * (number + 0.5 - len(settings) / 2) for group in range(len(groups))],
                [each.mean if each else math.nan for each in summaries],
                0.92 * width,
                yerr=[each.sd if each and each.count > 1 else math.nan for each in summaries],
                color=COLOURS[number],
                ecolor=INK,
                label=name(setting.short),
            )
        axes.set_xticks(range(len(groups)), [name(group, 18) for group in groups])
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.grid(visible=False, axis="x")
        axes.set_title(title)
        legend_below(figure, axes)
        panels.append(to_panel(figure, f"features-{slug(measure)}", f"Bars of {title} on {', '.join(groups)}"))
    note = "Of l2-normalised features; mean over seeds, lines show the population standard deviation."
    return note + measured.names_note + _left_out(len(shown), "encoders"), panels


@matplotlib.rc_context(STYLE)
def class_curve(label: str, dataset: str, accuracies: list[tuple[str, float]], key: str) -> Panel:
    """Accuracy of the given classes (title, fraction), the worst first, as bars; up to 15 are shown."""
    worst = accuracies[:15]
    figure, axes = new_axes(4.6, 0.9 + 0.24 * len(worst))
    titles, shares = zip(*worst, strict=True)
    bars = axes.barh(range(len(worst)), [100 * share for share in shares], 0.7, color=COLOURS[0])
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axes.set_yticks(range(len(worst)), [name(title, 26) for title in titles])
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"accuracy on {name(dataset, 30).strip()} (%)")
    return to_panel(figure, key, f"Accuracy of the {len(worst)} worst classes of {label} on {dataset}")


def _left_out(count: int, what: str, most: int = _MOST_LINES) -> str:
    return f" The first {most} of {count} {what} are shown." if count > most else ""


_SWEEPS = (
    ("multiple", "Size of the synthetic dataset (as in Fig. 5.4)", "size, multiple of the base count", "--multiple"),
    ("guidance_scale", "Guidance scale (as in Fig. 5.5, left)", "guidance scale", "--scale"),
    ("num_inference_steps", "Diffusion steps (as in Fig. 5.5, right)", "diffusion steps", "--steps"),
)
_FIGURES: list[tuple[str, str, Callable[[Measurements], Captioned]]] = [
    *(
        (
            title,
            f"encoders trained on datasets that differ in `{option}` only, two values at least",
            partial(sweep, factor=factor, axis=axis),
        )
        for factor, title, axis, option in _SWEEPS
    ),
    (
        "Transfer at a glance (as in Fig. 5.2)",
        "three transfer data sets measured on every encoder: `imagenet-sd evaluate ENCODER --suite transfer --data "
        "NAME=SPEC ...`",
        radar,
    ),
    (
        "Training task against transfer (as in Fig. 4.7)",
        "two encoders with both: a score of their own classifier (a validation during `train`, or `--suite imagenet`) "
        "and of probes (`--suite transfer`) on data sets that all share",
        plane,
    ),
    (
        "What the features are like (as in Fig. 5.6)",
        "`imagenet-sd evaluate ENCODER --suite analysis --data NAME=SPEC`",
        features,
    ),
    *invariance_plots.FIGURES,
]
"""Figures in the order of the page: title, what it needs, and the function that makes it."""
