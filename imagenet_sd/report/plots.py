"""The figures of the papers, from our numbers: which there are, what each needs, and accuracy per class.

Radar (Fig. 5.2), scaling (5.4), guidance and steps (5.5), feature analysis (5.6 and 4.6b), training against transfer
(4.7), and accuracy relative to a baseline (3.4 and 3.5). A figure without data says what is missing.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import matplotlib

from imagenet_sd.report import invariance_plots
from imagenet_sd.report.feature_plots import features, singular_values
from imagenet_sd.report.measurements import Measurements
from imagenet_sd.report.planes import plane, radar
from imagenet_sd.report.relative import relative
from imagenet_sd.report.svg import COLOURS, STYLE, Captioned, Panel, name, new_axes, to_panel
from imagenet_sd.report.sweeps import sweep


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
        "Accuracy at a glance (as in Fig. 5.2)",
        "three of these on every encoder: its classifier on ImageNet test sets (`imagenet-sd evaluate ENCODER --suite "
        "imagenet`), the groups of transfer sets (`--suite transfer`, `--suite cog`), other transfer sets",
        radar,
    ),
    (
        "Training task against transfer (as in Fig. 4.7)",
        "two encoders with probes on both: the training task (`imagenet-sd evaluate ENCODER --suite transfer` on the "
        "data of the task, `in1k` for ImageNet-1K, or `--suite imagenet-probe`) and transfer sets that all share",
        plane,
    ),
    (
        "What the features are like (as in Fig. 5.6)",
        "`imagenet-sd evaluate ENCODER --suite analysis --data NAME=SPEC`",
        features,
    ),
    (
        "Singular values of the features (as in Fig. 4.6b)",
        "`imagenet-sd evaluate ENCODER --suite analysis --data NAME=SPEC`",
        singular_values,
    ),
    (
        "Relative to a baseline (as in Fig. 3.4 and 3.5)",
        "probes on ImageNet-CoG (`imagenet-sd evaluate ENCODER --suite cog`, or `--suite fewshot` on a level) for an "
        "encoder and for the baseline, timm:resnet50.tv_in1k unless `--baseline` names another",
        relative,
    ),
    *invariance_plots.FIGURES,
]
"""Figures in the order of the page: title, what it needs, and the function that makes it."""
