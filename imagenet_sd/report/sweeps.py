"""Top-1 against one factor of the generator: size (Fig. 5.4), guidance scale and diffusion steps (Fig. 5.5)."""

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from imagenet_sd.report import paper
from imagenet_sd.report.encoders import TRANSFER
from imagenet_sd.report.measurements import Measurements, Setting, Summaries, label_of, varying_factors
from imagenet_sd.report.svg import (
    COLOURS,
    INK,
    MARKERS,
    MOST_LINES,
    Captioned,
    Panel,
    left_out,
    legend_below,
    log_scale,
    name,
    new_axes,
    to_panel,
)
from imagenet_sd.report.text import TIMES, slug

_MOST_PANELS = 6
_MEAN_OF_TEN = f"mean over {len(TRANSFER)} transfer sets"


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
    return note + left_out(len(panels), "data sets", _MOST_PANELS), panels[:_MOST_PANELS]


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
    _published(axes, factor, target, {curve[0].class_list for curve in curves})
    if not any(curve[0].is_real for curve in curves):
        _real_lines(axes, settings, curves, means)
    _factor_axis(axes, factor, [setting for curve in curves for setting in curve])
    axes.set(xlabel=axis, ylabel="top-1 on real images (%)", title=name(target))
    legend_below(figure, axes)
    return to_panel(figure, key, f"Top-1 on {target} against {axis}, {len(curves)} line{'s' * (len(curves) > 1)}")


def _published(axes: Axes, factor: str, target: str, class_lists: set[str]) -> None:
    """The points of Fig. 5.4 and 5.5 whose numbers the thesis prints, for ImageNet-100 and the prompt "c, dc"."""
    points = published_points(factor, target) if class_lists == {"imagenet-100"} else {}
    if points:
        axes.plot(*zip(*points.items(), strict=True), color=INK, marker="o", mfc="none", lw=0, alpha=0.6, label="paper")


def published_points(factor: str, target: str) -> dict[float, float]:
    """Value of a factor -> the published top-1 in percent on ImageNet-100.

    Args:
        factor: "multiple" (at guidance scale 2), "guidance_scale" (at size 1) or "num_inference_steps" (at scale 7.5).
        target: "val", or the mean over the ten transfer sets.
    """
    rows, column = {"val": (paper.IMAGENET, 0), _MEAN_OF_TEN: (paper.TRANSFER_ROWS, -1)}.get(target, ((), 0))
    points: dict[float, float] = {}
    for row in rows:
        if row.class_list == "imagenet-100" and row.prompt == "c_dc":
            value = float(row.values[column])
            if factor == "multiple" and row.guidance_scale == 2:
                points[row.multiple] = value
            if factor == "guidance_scale" and row.multiple == 1:
                points[row.guidance_scale] = value
            if factor == "num_inference_steps" and row.multiple == 1 and row.guidance_scale == 7.5:
                points[paper.NUM_STEPS] = value
    return points


def _curves(settings: list[Setting], factor: str, means: Summaries) -> list[list[Setting]]:
    """The measured settings that agree in all else, in the order of the factor; two values of it at least."""
    lines: dict[tuple, list[Setting]] = {}
    for setting in settings:
        if setting.number in means and factor in setting.factors:
            others = [(n, v) for n, v in setting.factors.items() if n not in (factor, "source")]
            lines.setdefault((setting.study, setting.class_list, *others), []).append(setting)
    curves = [sorted(line, key=lambda setting: setting.factors[factor]) for line in lines.values()]
    curves = [curve for curve in curves if curve[0].factors[factor] < curve[-1].factors[factor]]
    return sorted(curves, key=lambda curve: curve[0].is_real)[:MOST_LINES]


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
        log_scale(axes, "x")
        axes.xaxis.set_minor_locator(NullLocator())
    if len(values) <= 9:
        axes.set_xticks(values, labels)


def _short(count: int) -> str:
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
