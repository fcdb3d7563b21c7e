"""The figures of the papers, drawn from our numbers.

Radar (Fig. 5.2), scaling (5.4), guidance and steps (5.5), feature analysis (5.6), training against transfer (4.7), and
accuracy per class. A figure is drawn only where its data exist; otherwise it says what is missing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imagenet_sd.report import paper
from imagenet_sd.report.checks import TIMES, slug
from imagenet_sd.report.results import TRANSFER, Model
from imagenet_sd.report.settings import (
    Setting,
    Summary,
    base_of,
    factor_names,
    label_of,
    mean_over,
    on_training,
    on_transfer,
    over,
    summary,
    training_sets,
    transfer_sets,
)
from imagenet_sd.report.svg import COLOURS, INK, MARKERS, legend_below, name, new_axes, style, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, Summary, Setting]
_MOST_LINES = 8
_MOST_PANELS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """One figure: its panels as (key, alternative text, SVG), or, without any, what is missing."""

    key: str
    title: str
    caption: str = ""
    panels: tuple[tuple[str, str, str], ...] = ()
    missing: str = ""


def draw_all(models: list[Model], settings: list[Setting]) -> list[Drawing]:
    """All figures but those per class, in the order of the page."""
    import matplotlib

    with matplotlib.rc_context(style()):
        return [
            radar(settings),
            sweep(settings, "multiple"),
            sweep(settings, "guidance_scale"),
            sweep(settings, "num_inference_steps"),
            plane(settings),
            features(settings),
        ]


def radar(settings: list[Setting]) -> Drawing:
    """Top-1 on every transfer set that all shown settings were measured on, one spoke each."""
    title = "Transfer at a glance (as in Fig. 5.2)"
    names = transfer_sets([m for s in settings for m in s.models])
    found = [(s, {n: v for n in names if (v := over(s, lambda m, d=n: on_transfer(m, d)))}) for s in settings]
    found = [(setting, values) for setting, values in found if len(values) >= 3]
    spokes = [n for n in names if all(n in values for _, values in found)][:16]
    if not found or len(spokes) < 3:
        return Drawing(
            key="radar",
            title=title,
            missing="It needs three transfer data sets measured on every encoder: `imagenet-sd evaluate ENCODER "
            "--suite transfer --data NAME=SPEC ...`.",
        )
    lines = [(setting.short, [100 * values[n].mean for n in spokes]) for setting, values in found]
    lines = sorted(lines, key=lambda line: -math.fsum(line[1]))[:_MOST_LINES]
    published = all(n in TRANSFER for n in spokes)
    lowest = min(min(values) for _, values in lines)
    floor = 0 if published else max(0, 20 * int((lowest - 5) // 20))
    figure = _radar_panel(spokes, lines, published, floor)
    alt = f"Radar plot of top-1 accuracy on {len(spokes)} transfer sets"
    note = f"Top-1 of linear probes; mean over seeds; the centre is {floor}%.{_legend(settings)}"
    note += _left_out(len(found), "encoders")
    return Drawing(key="radar", title=title, caption=note, panels=(("radar", alt, to_svg(figure, "radar", alt)),))


def _radar_panel(spokes: list[str], lines: list[tuple[str, list[float]]], published: bool, floor: int) -> "Figure":
    figure, axes = new_axes(4.8, 4.6, projection="polar")
    angles = [2 * math.pi * number / len(spokes) for number in range(len(spokes) + 1)]
    for number, (label, shares) in enumerate(lines):
        colour, closed = COLOURS[number % len(COLOURS)], [*shares, shares[0]]
        axes.plot(angles, closed, color=colour, marker=MARKERS[number % 8], ms=4, lw=1.6, label=name(label))
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
    return figure


_SWEEPS = {
    "multiple": ("Size of the synthetic dataset (as in Fig. 5.4)", "size, multiple of the base count", "--multiple"),
    "guidance_scale": ("Guidance scale (as in Fig. 5.5, left)", "guidance scale", "--scale"),
    "num_inference_steps": ("Diffusion steps (as in Fig. 5.5, right)", "diffusion steps", "--steps"),
}


def sweep(settings: list[Setting], factor: str) -> Drawing:
    """Top-1 against one factor: a line for all settings that agree in the others; real images as a dashed line."""
    title, axis, option = _SWEEPS[factor]
    models = [m for s in settings for m in s.models]
    swept = [m for m in models if factor in m.factors and transfer_sets([m])]
    ten = [n for n in transfer_sets(swept) if all(on_transfer(m, n) is not None for m in swept)]
    targets: list[tuple[str, Callable[[Model], float | None]]] = [
        (name_, lambda m, d=name_: on_training(m, d)) for name_ in training_sets(models)
    ]
    if ten:
        label = f"mean over {len(ten)} transfer sets" if len(ten) > 1 else f"{ten[0]} (probe)"
        targets.insert(1, (label, lambda m: mean_over(m, ten)))
    panels = [
        panel
        for number, (target, measure) in enumerate(targets)
        if (panel := _sweep_panel(settings, factor, axis, target, measure, f"{slug(factor)}-{number}"))
    ]
    if not panels:
        return Drawing(
            key=slug(factor),
            title=title,
            missing=f"It needs encoders trained on datasets that differ in `{option}` only, two values at least.",
        )
    note = "Mean over seeds; bars show the population standard deviation." + _left_out(
        len(panels), "data sets", _MOST_PANELS
    )
    return Drawing(key=slug(factor), title=title, caption=note, panels=tuple(panels[:_MOST_PANELS]))


def _sweep_panel(
    settings: list[Setting], factor: str, axis: str, target: str, measure: Callable[[Model], float | None], key: str
) -> tuple[str, str, str] | None:
    curves = _curves(settings, factor, measure)
    if all(_is_real(points[0][2]) for points in curves):
        return None
    figure, axes = new_axes()
    # "source" names the real images: it changes with their number, as the size does.
    names = [n for n in factor_names(c[0][2].factors for c in curves) if n not in (factor, "source")]
    varying = [n for n in names if n != "data" and len({c[0][2].factors.get(n) for c in curves}) > 1]
    varying = [n for n in varying if len({c[0][2].factors[n] for c in curves if n in c[0][2].factors}) > 1]
    for number, points in enumerate(curves):
        first = points[0][2]
        label = ", ".join(
            filter(None, ("real images" if _is_real(first) else "synthetic", label_of(first.factors, varying)))
        )
        axes.errorbar(
            [p[0] for p in points],
            [100 * p[1].mean for p in points],
            yerr=[100 * p[1].sd for p in points],
            color=INK if _is_real(first) else COLOURS[number % len(COLOURS)],
            ls="--" if _is_real(first) else "-",
            marker=MARKERS[number % 8],
            ms=4.5,
            lw=1.6,
            capsize=2.5,
            label=name(label),
        )
    if not any(_is_real(points[0][2]) for points in curves):
        _real_lines(axes, settings, curves, measure)
    _factor_axis(axes, factor, sorted({p[0] for points in curves for p in points}), curves)
    axes.set(xlabel=axis, ylabel="top-1 on real images (%)", title=name(target))
    legend_below(figure, axes)
    alt = f"Top-1 on {target} against {axis}, {len(curves)} lines"
    return key, alt, to_svg(figure, key, alt)


def _curves(settings: list[Setting], factor: str, measure: Callable[[Model], float | None]) -> list[list[Point]]:
    """Points (value of the factor, top-1, setting) of the settings that agree in all else; two values at least."""
    lines: dict[tuple, list[Point]] = {}
    for setting in settings:
        found = over(setting, measure)
        if found and factor in setting.factors:
            others = [(n, v) for n, v in setting.factors.items() if n not in (factor, "source")]
            point = (setting.factors[factor], found, setting)
            lines.setdefault((setting.study, setting.class_list, *others), []).append(point)
    curves = [sorted(points, key=lambda p: p[0]) for points in lines.values() if len({p[0] for p in points}) > 1]
    return sorted(curves, key=lambda points: _is_real(points[0][2]))[:_MOST_LINES]


def _is_real(setting: Setting) -> bool:
    return setting.factors.get("data") == "real"


def _real_lines(
    axes: "Axes", settings: list[Setting], curves: list[list[Point]], measure: Callable[[Model], float | None]
) -> None:
    """Real images as level lines: where there are several, those of the size and augmentation of the curves."""
    real = [(s, found) for s in settings if _is_real(s) and (found := over(s, measure))]
    for n in ("multiple", "augmentation"):
        shown = {points[0][2].factors.get(n) for points in curves}
        real = [(s, found) for s, found in real if s.factors.get(n) in shown] or real
    varying = [n for n in ("multiple", "augmentation") if len({s.factors.get(n) for s, _ in real}) > 1]
    for number, (setting, found) in enumerate(real[:4]):
        label = ", ".join(filter(None, ("real images", label_of(setting.factors, varying))))
        dashes = ("--", ":", "-.", (0, (1, 3)))[number]
        axes.axhline(100 * found.mean, color=INK, ls=dashes, lw=1.1, alpha=0.75, label=name(label))


def _factor_axis(axes: "Axes", factor: str, values: list[float], curves: list[list[Point]]) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    labels = [f"{value:g}" for value in values]
    if factor == "multiple":
        counts = {p[0]: p[2].num_images for points in curves for p in points if p[2].num_images}
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


def plane(settings: list[Setting]) -> Drawing:
    """Top-1 on the training task against the mean log odds over the transfer sets that all encoders share."""
    title = "Training task against transfer (as in Fig. 4.7)"
    models = [m for s in settings for m in s.models]
    tasks = training_sets(models)
    both = [s for s in settings if tasks and over(s, lambda m: on_training(m, tasks[0])) and transfer_sets(s.models)]
    shared = [
        n for n in transfer_sets(models) if all(over(s, lambda m, d=n: on_transfer(m, d, "log_odds")) for s in both)
    ]
    points = []
    for setting in both:
        x = over(setting, lambda m: on_training(m, tasks[0]))
        y = over(setting, lambda m: mean_over(m, shared, "log_odds"))
        if x and y:
            points.append((100 * x.mean, y.mean, 100 * x.sd, y.sd, setting))
    if not points:
        return Drawing(
            key="plane",
            title=title,
            missing="It needs encoders with both: a score of their own classifier (a validation during `train`, or "
            "`--suite imagenet`) and of probes (`--suite transfer`) on data sets that all share.",
        )
    figure, axes = new_axes(5.0, 3.8)
    for number, (x, y, dx, dy, setting) in enumerate(points):
        best = not any(a >= x and b >= y and (a, b) != (x, y) for a, b, *_ in points)
        colour, marker = COLOURS[number % len(COLOURS)], "*" if best else "o"
        shown = name(setting.short) if number < 2 * _MOST_LINES else None
        axes.errorbar(
            x, y, xerr=dx, yerr=dy, color=colour, marker=marker, ms=11 if best else 6, lw=0, elinewidth=1, label=shown
        )
    axes.margins(0.12)
    axes.set(xlabel=name(f"top-1 on {tasks[0]} (%)"), ylabel="mean log odds of the probes")
    legend_below(figure, axes)
    alt = f"Top-1 on {tasks[0]} against mean log odds over {len(shared)} transfer sets, {len(points)} encoders"
    note = f"Transfer: mean over {', '.join(shared)}. Stars: no other encoder is at least as good on both axes."
    note += _legend(settings)
    return Drawing(key="plane", title=title, caption=note, panels=(("plane", alt, to_svg(figure, "plane", alt)),))


_MEASURES = {
    "sparsity": "sparsity (share of zero entries)",
    "intra_class_distance": "intra-class distance",
    "redundancy": "feature redundancy",
    "coding_length_per_sample": "coding length per image (nats)",
}
_GROUPS = {
    "val": "val / v2",
    "v2": "val / v2",
    "sketch": "sketch / r / a",
    "r": "sketch / r / a",
    "a": "sketch / r / a",
}


def _group_of(dataset: str) -> str:
    """The three groups of Fig. 5.6; a data set of none of them stands for itself."""
    if dataset.startswith("v2-"):
        return _GROUPS["v2"]
    return _GROUPS.get(dataset, "transfer" if dataset in TRANSFER else dataset)


def features(settings: list[Setting]) -> Drawing:
    """Bars of the four feature measures, per group of data sets and setting."""
    title = "What the features are like (as in Fig. 5.6)"
    shown = [s for s in settings if any(m.analyses for m in s.models)]
    if not shown:
        return Drawing(
            key="features",
            title=title,
            missing="It needs `imagenet-sd evaluate ENCODER --suite analysis --data NAME=SPEC`.",
        )
    groups = list(dict.fromkeys(_group_of(a.dataset) for s in shown for m in s.models for a in m.analyses))[:8]
    lines = shown[:_MOST_LINES]
    panels = []
    for measure, axis in _MEASURES.items():
        figure, axes = new_axes()
        width = min(0.4, 0.8 / len(lines))
        for number, setting in enumerate(lines):
            values = [_mean_measure(setting, group, measure) for group in groups]
            places = [i + width * (number + 0.5 - len(lines) / 2) for i in range(len(groups))]
            heights = [v.mean if v else math.nan for v in values]
            errors = [v.sd if v and v.count > 1 else math.nan for v in values]
            axes.bar(
                places,
                heights,
                0.92 * width,
                yerr=errors,
                color=COLOURS[number % len(COLOURS)],
                ecolor=INK,
                label=name(setting.short),
            )
        axes.set_xticks(range(len(groups)), [name(g, 18) for g in groups])
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.grid(visible=False, axis="x")
        axes.set_title(axis)
        legend_below(figure, axes)
        alt = f"Bars of {axis} on {', '.join(groups)}"
        panels.append((f"features-{slug(measure)}", alt, to_svg(figure, f"features-{slug(measure)}", alt)))
    note = "Of l2-normalised features; mean over seeds, lines show the population standard deviation."
    note += _legend(shown)
    return Drawing(key="features", title=title, caption=note + _left_out(len(shown), "encoders"), panels=tuple(panels))


def _mean_measure(setting: Setting, group: str, measure: str) -> Summary | None:
    def of(model: Model) -> float | None:
        found = summary(getattr(a, measure) for a in model.analyses if _group_of(a.dataset) == group)
        return found.mean if found else None

    return over(setting, of)


def class_curve(label: str, dataset: str, accuracies: list[tuple[str, float]], key: str) -> tuple[str, str, str]:
    """Accuracy of the given classes (title, fraction), the worst first, as bars; up to 15 are shown."""
    import matplotlib

    with matplotlib.rc_context(style()):
        worst = accuracies[:15]
        figure, axes = new_axes(4.6, 0.9 + 0.24 * len(worst))
        places: Any = range(len(worst))
        axes.barh(places, [100 * value for _, value in worst], 0.7, color=COLOURS[0])
        for place, (_, value) in zip(places, worst, strict=True):
            inner = value > 0.85
            axes.text(
                100 * value + (-1 if inner else 1),
                place,
                f"{100 * value:.1f}",
                va="center",
                ha="right" if inner else "left",
                fontsize=8,
            )
        axes.set_yticks(places, [name(title, 26) for title, _ in worst])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"accuracy on {name(dataset, 30).strip()} (%)")
        alt = f"Accuracy of the {len(worst)} worst classes of {label} on {dataset}"
        return key, alt, to_svg(figure, key, alt)


def _legend(settings: list[Setting]) -> str:
    """What the short names of a legend leave out."""
    named = [s.models[0] for s in settings if "data" in s.factors]
    text = label_of(base_of(named), factor_names(s.factors for s in settings))
    return f" “base” is {text}; other names say what differs from it." if len(named) > 1 else ""


def _left_out(count: int, what: str, most: int = _MOST_LINES) -> str:
    return f" The first {most} of {count} {what} are shown." if count > most else ""
