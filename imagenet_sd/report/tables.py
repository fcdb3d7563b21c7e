"""The tables: all results, one per study, and those of the papers with our numbers beside theirs.

A table is plain data; the templates turn it into text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from imagenet_sd.core.results import StudyResults
from imagenet_sd.report import paper
from imagenet_sd.report.encoders import Score
from imagenet_sd.report.measurements import (
    Measurements,
    Setting,
    Summaries,
    Summary,
    factor_names,
    factor_title,
    label_of,
    show_factor,
)
from imagenet_sd.report.paper import PaperRow
from imagenet_sd.report.text import DASH, TIMES, percent, slug


@dataclass(frozen=True, kw_only=True, slots=True)
class TableCell:
    """One cell. `sort`: what it is sorted by; `title`: for hovering; `paper`: the published number, "" for none."""

    text: str
    sort: float | str | None = None
    title: str = ""
    paper: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table. `groups`: a first header line of (title, columns spanned), empty for none; `numeric`: column numbers.

    `has_ours`: whether any number in it is ours and not the paper's.
    """

    key: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()
    numeric: frozenset[int] = frozenset()
    has_ours: bool = True

    @property
    def full_columns(self) -> list[str]:
        """The titles with those of their groups before them."""
        groups = [group for group, span in self.groups for _ in range(span)] or [""] * len(self.columns)
        return [f"{group} {title}".strip() for group, title in zip(groups, self.columns, strict=True)]


def text_cell(text: str, title: str = "") -> TableCell:
    """A cell of text."""
    return TableCell(text=text or DASH, sort=text, title=title)


def number_cell(value: float | None, show: Callable[[float], str] = str) -> TableCell:
    """A cell of a number, or one that says that it was not measured."""
    return TableCell(text=DASH, title="not measured") if value is None else TableCell(text=show(value), sort=value)


def summary_cell(summary: Summary | None, digits: int = 2, published: float | None = None) -> TableCell:
    """Mean in percent, with the deviation where there are several encoders, and the paper's number beside it."""
    theirs = "" if published is None else f"{published:.1f}"
    if summary is None:
        return TableCell(text=DASH, title="not measured", paper=theirs)
    several = summary.count > 1
    spread = f" ± {percent(summary.sd, digits)}" if several else ""
    title = f"mean and population standard deviation of {summary.count} seeds" if several else "one seed"
    return TableCell(text=percent(summary.mean, digits) + spread, sort=100 * summary.mean, title=title, paper=theirs)


def results_table(measured: Measurements) -> Table:
    """Every score of every encoder, as it was measured."""
    named = zip(measured.titles, measured.encoders, strict=True)
    rows = [_result_row(title, encoder.name, score) for title, encoder in named for score in encoder.scores]
    columns = "Encoder|Data set|Probe|Top-1 %|95% interval|Top-5 %|Mean per class %|Log odds|Images|Seeds".split("|")
    return Table(
        key="results",
        title="All results",
        caption="Top-1 is the mean over the probe's seeds; its interval comes from a bootstrap over the test images "
        "(for a training run: a Wilson interval). ‡: scored on a part of the classes only. The probe “training "
        "run” is the last validation of `train`; “study” is a number that the study file repeats."
        + measured.names_note,
        columns=tuple(columns),
        rows=tuple(rows),
        numeric=frozenset(range(3, 10)),
    )


def _result_row(title: str, name: str, score: Score) -> tuple[TableCell, ...]:
    result = score.result
    masked = result.masked is not None and result.masked.scored != "all"
    note = f"scored on {result.num_classes} classes" if masked else ""
    low, high = result.top1_interval or (None, 0)
    return (
        text_cell(title, name),
        text_cell(f"{result.dataset}/{result.split}"),
        text_cell(result.probe),
        TableCell(text=percent(result.top1) + ("‡" if masked else ""), sort=100 * result.top1, title=note),
        number_cell(low, lambda low: f"{percent(low)} {DASH} {percent(high)}"),
        number_cell(result.top5, percent),
        number_cell(result.mean_per_class_accuracy, percent),
        number_cell(result.log_odds, "{:.3f}".format),
        number_cell(result.num_test, "{:,}".format),
        number_cell(len(result.seeds) or None),
    )


def regression_table(measured: Measurements) -> Table | None:
    """Every ridge regression of every encoder; None where there is none."""
    named = zip(measured.titles, measured.encoders, strict=True)
    rows = [
        (
            text_cell(title, encoder.name),
            text_cell(f"{result.dataset}/{result.split}"),
            text_cell(", ".join(result.targets[:4]) + (", ..." if len(result.targets) > 4 else "")),
            number_cell(result.r2, "{:.3f}".format),
            number_cell(result.r2_folds, "{:.3f}".format),
            number_cell(result.r2_folds_sd, "{:.3f}".format),
            number_cell(result.num_test, "{:,}".format),
        )
        for title, encoder in named
        for result in encoder.regressions
    ]
    if not rows:
        return None
    return Table(
        key="regressions",
        title="Continuous targets",
        caption="Ridge regression on frozen features: R squared on the test images, mean over targets; on the "
        "validation folds that the penalty was chosen on, mean and population standard deviation."
        + measured.names_note,
        columns=("Encoder", "Data set", "Targets", "R²", "R² on folds", "sd", "Images"),
        rows=tuple(rows),
        numeric=frozenset(range(3, 7)),
    )


def study_table(study: StudyResults, measured: Measurements) -> Table:
    """Rows: settings; columns: factors, number of seeds, then top-1 and top-5 on each data set (layout of Tab. 5.2)."""
    settings = [setting for setting in measured.settings if setting.study == study.name]
    used = factor_names(setting.factors for setting in settings)
    named = any("encoder" in setting.encoders[0].factors for setting in settings)
    scores = measured.scores[measured.scores["encoder"].isin(measured.numbers_of(settings))]
    groups = list(scores.groupby(["dataset", "split", "probe"], sort=False))
    means = [
        measured.summarise(rows.drop_duplicates("encoder").set_index("encoder")[measure])
        for _, rows in groups
        for measure in ("top1", "top5")
    ]
    rows = []
    for setting in settings:
        cells = [text_cell(setting.encoders[0].factors.get("encoder", "trained here"))] if named else []
        cells += [
            TableCell(text=show_factor(name, setting.factors[name]), sort=setting.factors[name])
            if name in setting.factors
            else TableCell(text=DASH, title="does not apply")
            for name in used
        ]
        cells.append(number_cell(len(setting.encoders)))
        rows.append((*cells, *(summary_cell(mean.get(setting.number)) for mean in means)))
    lead = len(used) + 1 + named
    return Table(
        key=f"study-{slug(study.name)}",
        title=f"Study {study.name}: settings",
        caption="In percent: mean ± population standard deviation over the seeds of a setting.",
        columns=(*["Encoder"] * named, *map(factor_title, used), "Seeds", *["Top-1", "Top-5"] * len(groups)),
        groups=(("", lead), *((f"{dataset}/{split} ({probe})", 2) for (dataset, split, probe), _ in groups)),
        rows=tuple(rows),
        numeric=frozenset(range(lead - 1, lead + len(means))),
    )


def augmentation_tables(study: StudyResults, measured: Measurements) -> list[Table]:
    """The layout of Tab. 5.1 (data by augmentation) for every data set of a study that has both augmentations."""
    pairs: dict[str, dict[str, int]] = {}
    settings = [setting for setting in measured.settings if setting.study == study.name]
    for setting in settings:
        if "augmentation" in setting.factors:
            others = [name for name in factor_names([setting.factors]) if name != "augmentation"]
            pair = pairs.setdefault(label_of(setting.factors, others), {})
            pair[str(setting.factors.get("augmentation"))] = setting.number
    pairs = {label: pair for label, pair in pairs.items() if {"plain", "strong"} == pair.keys()}
    tables = []
    for dataset in measured.datasets("training", measured.numbers_of(settings)) if pairs else ():
        means = measured.summary("training", dataset)
        rows = []
        for label, pair in pairs.items():
            plain, strong = means.get(pair["plain"]), means.get(pair["strong"])
            gain = number_cell(100 * (strong.mean - plain.mean) if plain and strong else None, "{:+.2f}".format)
            rows.append((text_cell(label), summary_cell(plain), summary_cell(strong), gain))
        tables.append(
            Table(
                key=f"study-{slug(study.name)}-augmentation-{slug(dataset)}",
                title=f"Study {study.name}: augmentation on {dataset} (layout of Tab. 5.1)",
                caption="Top-1 in percent. Other data than the paper's: to be compared within this table only.",
                columns=("Training data", "Plain", "Strong", "Strong minus plain"),
                rows=tuple(rows),
                numeric=frozenset({1, 2, 3}),
            )
        )
    return tables


_BESIDE = "Numbers in brackets are the paper's; ours stand before them, and a dash says that we have not measured it."


def _augmentation_paper_table(measured: Measurements) -> Table:
    """Tab. 5.1: ImageNet-100 val, training data by augmentation; prompt "c", guidance scale 7.5."""
    means = [measured.summary("training", "val")]
    rows, answered = [], False
    for row in paper.AUGMENTATION:
        cells = [text_cell(f"{row.training} ({row.data})")]
        for augmentation, published in zip(("plain", "strong"), row.values, strict=True):
            setting, ours = _answer(measured.settings, row, means, augmentation)
            answered |= setting is not None
            cells.append(summary_cell(ours[0], 1, published))
        rows.append(tuple(cells))
    return Table(
        key="tab-5-1",
        title="Tab. 5.1: impact of data augmentation",
        caption=f"Top-1 on ImageNet-100 val, in percent. {_BESIDE}",
        columns=("Training data", "PyTorch (plain)", "DINO + multi-crop (strong)"),
        rows=tuple(rows),
        numeric=frozenset({1, 2}),
        has_ours=answered,
    )


def paper_tables(measured: Measurements) -> list[Table]:
    """Tab. 5.1 to 5.4, with the settings that answer their rows."""
    names = list(paper.TRANSFER_TITLES)
    return [
        _augmentation_paper_table(measured),
        _paper_table(
            measured.settings,
            paper.IMAGENET,
            [measured.summary("training", d, measure) for d in paper.IMAGENET_SETS for measure in ("top1", "top5")],
            title="Tab. 5.2: ImageNet test sets",
            caption=f"In percent, by the classifier of training. *: on the classes in common only. {_BESIDE}",
            columns=("Top-1", "Top-5") * len(paper.IMAGENET_SETS),
            groups=(("", 4), *((title, 2) for title in paper.IMAGENET_SETS.values())),
        ),
        _paper_table(
            measured.settings,
            paper.TRANSFER_ROWS,
            [measured.summary("transfer", name) for name in names] + [measured.summarise(measured.mean_over(names))],
            title="Tab. 5.3: ten transfer sets",
            caption=f"Top-1 of linear classifiers in percent; the average needs all ten. {_BESIDE}",
            columns=(*paper.TRANSFER_TITLES.values(), "Avg."),
        ),
        _paper_table(
            measured.settings,
            paper.COG_ROWS,
            [measured.summarise(_cog_values(measured, name)) for name in paper.COG_SETS],
            title="Tab. 5.4: ImageNet-CoG",
            caption=f"Top-1 in percent of linear classifiers trained on real images. {_BESIDE}",
            columns=tuple(paper.COG_SETS.values()),
        ),
    ]


def _cog_values(measured: Measurements, name: str) -> pd.Series:
    """Top-1 of a probe on a CoG level (whatever stands before "-L1") or on ImageNet-1K ("in1k", "imagenet-1k")."""
    pattern = "in1k|imagenet-1k" if name == "in1k" else f"(?:.*-)?{name}"
    asked = measured.scores["dataset"].str.fullmatch(pattern).astype(bool)
    rows = measured.scores[(measured.scores["kind"] == "transfer") & asked]
    return rows.drop_duplicates("encoder").set_index("encoder")["top1"]


def _paper_table(
    settings: list[Setting],
    published: tuple[PaperRow, ...],
    means: Sequence[Summaries],
    *,
    title: str,
    caption: str,
    columns: tuple[str, ...],
    groups: tuple[tuple[str, int], ...] = (),
) -> Table:
    """The rows of the paper with the settings that answer them, then the settings that answer none."""
    rows, left = [], {s.number: s for s in settings if any(s.number in mean for mean in means)}
    answered = bool(left)
    for row in published:
        synthetic = row.data == "synthetic"
        factors = {"multiple": row.multiple, "guidance_scale": row.guidance_scale} if synthetic else {}
        lead = _lead(row.training, factors, text_cell(row.label, f"template {row.prompt}" if synthetic else ""))
        setting, ours = _answer(settings, row, means)
        if setting:
            left.pop(setting.number, None)
        rows.append((*lead, *(summary_cell(s, 1, value) for s, value in zip(ours, row.values, strict=True))))
    for setting in left.values():
        label = text_cell(setting.label, "not in the paper")
        lead = _lead(setting.class_list or "ours", setting.factors, label)
        rows.append((*lead, *(summary_cell(mean.get(setting.number), 1) for mean in means)))
    return Table(
        key=slug(title.partition(":")[0]),
        title=title,
        caption=caption,
        columns=("Training data", "Size", "Scale", "Prompt / model", *columns),
        groups=groups,
        rows=tuple(rows),
        numeric=frozenset({1, 2, *range(4, 4 + len(columns))}),
        has_ours=answered,
    )


def _lead(training: str, factors: Mapping[str, Any], label: TableCell) -> tuple[TableCell, ...]:
    size, scale = factors.get("multiple"), factors.get("guidance_scale")
    return (
        text_cell(training),
        TableCell(text=DASH if size is None else f"{size:g}{TIMES}", sort=size),
        TableCell(text=DASH if scale is None else f"{scale:.1f}", sort=scale),
        label,
    )


def _answer(
    settings: list[Setting], row: PaperRow, means: Sequence[Summaries], augmentation: str = "strong"
) -> tuple[Setting | None, list[Summary | None]]:
    """The first setting that a row stands for and that was measured, with its means; several are never mixed."""
    for setting in settings:
        if _matches(setting, row, augmentation) and any(setting.number in mean for mean in means):
            return setting, [mean.get(setting.number) for mean in means]
    return None, [None] * len(means)


def _matches(setting: Setting, row: PaperRow, augmentation: str) -> bool:
    """Whether a setting is what a row of the paper stands for: same classes, data, prompt, scale, size and steps."""
    factors = setting.factors
    if row.encoder:
        return any(encoder.name.startswith(row.encoder) for encoder in setting.encoders)
    if row.data == "none" or setting.class_list != row.class_list or factors.get("augmentation") != augmentation:
        return False
    if row.data == "real":
        return factors.get("data") == "real" and row.label == "Baseline"
    asked = {"data": "synthetic", "prompt": row.prompt, "guidance_scale": row.guidance_scale}
    asked |= {"multiple": row.multiple, "num_inference_steps": 50}
    return all(factors.get(name) == value for name, value in asked.items())
