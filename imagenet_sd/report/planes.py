"""Encoders at a glance: the radar of Fig. 5.2, and the training task against transfer of Fig. 4.7."""

import math
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from imagenet_sd.report import paper
from imagenet_sd.report.encoders import TRANSFER
from imagenet_sd.report.measurements import Measurements, Summaries
from imagenet_sd.report.paper_tables import LEVELS, mean_log_odds, probe_values
from imagenet_sd.report.svg import (
    COLOURS,
    INK,
    MARKERS,
    MOST_LINES,
    Captioned,
    left_out,
    legend_below,
    name,
    new_axes,
    to_panel,
)

_GROUPS = {"small sets": paper.SMALL, "long-tailed sets": tuple(paper.LONG_TAIL_SETS), "CoG levels": LEVELS}
"""The transfer sets of 5.5.3; the radar shows the mean of each group."""


def radar(measured: Measurements) -> Captioned:
    """Fig. 5.2: top-5 on the ImageNet test sets, and mean top-1 over the groups of transfer sets, one spoke each.

    A transfer set of no group has a spoke of its own.
    """
    spokes = _spokes(measured)
    shown = [s for s in measured.settings if sum(s.number in means for means in spokes.values()) >= 3]
    common = {title: means for title, means in spokes.items() if all(s.number in means for s in shown)}
    common = dict(list(common.items())[:16])
    if not shown or len(common) < 3:
        return "", []
    lines = [(s.short, [100 * means[s.number].mean for means in common.values()]) for s in shown]
    lines = sorted(lines, key=lambda line: -math.fsum(line[1]))[:MOST_LINES]
    published = _published_spokes()
    beside = all(title in published[0] for title in common)
    lowest = min(min(values) for _, values in lines)
    floor = 0 if beside else max(0, 20 * int((lowest - 5) // 20))
    figure, axes = new_axes(4.8, 4.6, projection="polar")
    angles = [2 * math.pi * number / len(common) for number in range(len(common) + 1)]
    for number, (label, shares) in enumerate(lines):
        colour, closed = COLOURS[number], [*shares, shares[0]]
        axes.plot(angles, closed, color=colour, marker=MARKERS[number], ms=4, lw=1.6, label=name(label))
        if len(lines) <= 3:
            axes.fill(angles, closed, color=colour, alpha=0.08)
    labels = ("paper: ImageNet-1K", "paper: ImageNet-1K-SD, c, dc")
    for values, label, dashes in zip(published, labels, ("--", ":"), strict=True) if beside else ():
        shares = [values[title] for title in common]
        axes.plot(angles, [*shares, shares[0]], color=INK, ls=dashes, lw=1, alpha=0.7, label=label)
    axes.set_xticks(angles[:-1], [name(title, 24) for title in common])
    axes.set_theta_zero_location("N")  # pyright: ignore[reportAttributeAccessIssue]
    axes.set_ylim(floor, 100)
    ticks = [floor + (100 - floor) * part / 4 for part in range(1, 5)]
    axes.set_yticks(ticks, [f"{tick:g}%" for tick in ticks], fontsize=7)
    axes.spines["polar"].set_alpha(0.3)
    legend_below(figure, axes)
    note = (
        "Top-5 of the classifier of training on ImageNet test sets, top-1 of linear probes elsewhere, a group of sets "
    )
    note += f"by its mean; mean over seeds; the centre is {floor}%.{measured.names_note}"
    alt = f"Radar plot of accuracies: {', '.join(common)}"
    return note + left_out(len(shown), "encoders"), [to_panel(figure, "radar", alt)]


def _spokes(measured: Measurements) -> dict[str, Summaries]:
    """Title -> the summaries of a spoke, of those that anything was measured for."""
    spokes = {}
    for dataset, title in paper.IMAGENET_SETS.items():
        spokes[_top5(title)] = measured.summary("training", dataset, "top5")
    for title, members in _GROUPS.items():
        table = pd.DataFrame({member: probe_values(measured, member) for member in members}).dropna(how="all")
        sets = Counter(tuple(row.dropna().index) for _, row in table.iterrows())
        if sets:  # what most encoders were measured on, so that their means are of the same sets
            shared = list(max(sets, key=lambda each: (sets[each], len(each))))
            mean = table[shared].mean(axis=1, skipna=False)
            spokes[_group(title, len(shared))] = measured.summarise(mean)
    for dataset in measured.datasets("transfer"):
        if dataset not in TRANSFER and not dataset.endswith(LEVELS):
            spokes[dataset] = measured.summary("transfer", dataset)
    return {title: means for title, means in spokes.items() if means}


def _top5(title: str) -> str:
    return f"{title.rstrip('*')} (top-5)"


def _group(title: str, count: int) -> str:
    return f"{title} ({count})"


def _published_spokes() -> tuple[dict[str, float], dict[str, float]]:
    """The spokes of ImageNet-1K (PyTorch) and of ImageNet-1K-SD (c, dc at scale 2), worked out from Tab. 5.2 to 5.4."""
    rows = ((paper.IMAGENET[12], paper.TRANSFER_ROWS[3], paper.COG_ROWS[0]),
            (paper.IMAGENET[16], paper.TRANSFER_ROWS[-1], paper.COG_ROWS[-1]))  # fmt: skip
    found = []
    for imagenet, transfer, cog in rows:
        spokes = dict(zip(map(_top5, paper.IMAGENET_SETS.values()), imagenet.values[1::2], strict=True))
        groups = (transfer.values[:8], transfer.values[8:10], cog.values[1:])
        spokes |= {
            _group(title, len(group)): math.fsum(group) / len(group)
            for title, group in zip(_GROUPS, groups, strict=True)
        }
        found.append(spokes)
    return found[0], found[1]


def plane(measured: Measurements) -> Captioned:
    """Fig. 4.7: logistic regression on frozen features, on the training task and over the transfer sets."""
    tasks = measured.datasets("probe")
    task = measured.summarise(probe_values(measured, "in1k")) if tasks else {}
    label = "ImageNet-1K"
    if tasks and not task:
        task, label = measured.summary("probe", tasks[0]), tasks[0]
    odds, note = _odds(measured, list(task))
    points = [(task[n], odds[n], measured.settings[n]) for n in task if n in odds]
    if len(points) < 2:
        return "", []
    figure, axes = new_axes(5.0, 3.8)
    stars = convex_hull([(x.mean, y.mean) for x, y, _ in points])
    for number, (x, y, setting) in enumerate(points):
        axes.errorbar(
            100 * x.mean,
            y.mean,
            xerr=100 * x.sd,
            yerr=y.sd,
            color=COLOURS[number % len(COLOURS)],
            marker="*" if number in stars else "o",
            ms=11 if number in stars else 6,
            lw=0,
            elinewidth=1,
            label=name(setting.short) if number < 2 * MOST_LINES else None,
        )
    if label == "ImageNet-1K" and note == _THIRTEEN:
        theirs = [(row.values[0], row.values[-1]) for row in paper.PLANE_ROWS]
        axes.plot(*zip(*theirs, strict=True), color=INK, marker="o", mfc="none", ms=4, lw=0, alpha=0.6, label="paper")
    axes.margins(0.12)
    axes.set(xlabel=name(f"top-1 of a probe on {label} (%)"), ylabel="mean log odds of the probes")
    legend_below(figure, axes)
    alt = f"Top-1 of a probe on {label} against mean log odds, {len(points)} encoders"
    note = f"Both axes: logistic regression on frozen features. Transfer: mean over {note}. Stars: on the convex hull."
    return note + measured.names_note, [to_panel(figure, "plane", alt)]


_THIRTEEN = "the 13 sets of the thesis (five levels of ImageNet-CoG and eight small sets)"


def _odds(measured: Measurements, numbers: list[int]) -> tuple[Summaries, str]:
    """Mean log odds by setting, and what it is a mean over: the 13 sets of the thesis, else what `numbers` share."""
    thirteen = measured.summarise(mean_log_odds(measured))
    if sum(number in thirteen for number in numbers) >= 2:
        return thirteen, _THIRTEEN
    sets = [dataset for dataset in measured.datasets("transfer") if dataset not in paper.LONG_TAIL_SETS]
    each = {dataset: measured.summary("transfer", dataset, "log_odds") for dataset in sets}
    both = [number for number in numbers if any(number in means for means in each.values())]
    shared = [dataset for dataset in sets if all(number in each[dataset] for number in both)]
    return measured.summarise(measured.mean_over(shared, "log_odds")), ", ".join(shared)


def convex_hull(points: Sequence[tuple[float, float]]) -> set[int]:
    """The points on the upper right part of the convex hull: from the highest one to the one farthest right.

    Returns:
        Their numbers. No other point is above and right of the line between two neighbours.
    """
    order = sorted(range(len(points)), key=lambda number: points[number])
    chain: list[int] = []
    for number in order:
        while len(chain) >= 2 and _turn(points[chain[-2]], points[chain[-1]], points[number]) >= 0:
            chain.pop()
        chain.append(number)
    top = max(range(len(chain)), key=lambda place: (points[chain[place]][1], points[chain[place]][0]))
    return set(chain[top:])


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Above 0 where the way from a over b to c turns left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
