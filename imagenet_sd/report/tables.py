"""The tables of what was measured: all results, one per study, and what they say about label noise.

A table is plain data; the templates turn it into text. Those of the papers are in `paper_tables`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from imagenet_sd.core.results import StudyResults
from imagenet_sd.report import paper
from imagenet_sd.report.encoders import Score
from imagenet_sd.report.measurements import (
    Measurements,
    Summary,
    factor_names,
    factor_title,
    label_of,
    show_factor,
)
from imagenet_sd.report.text import DASH, percent, slug


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


def summary_cell(
    summary: Summary | None, digits: int = 2, published: float | None = None, scale: float = 100
) -> TableCell:
    """Mean with the deviation where there are several encoders, and the paper's number beside it.

    Args:
        summary: what was measured; None for nothing.
        digits: after the decimal point.
        published: the paper's number, in the unit that is shown.
        scale: what the mean is multiplied by: 100 shows a fraction in percent.
    """
    theirs = "" if published is None else f"{published:.{min(digits, 1) if scale == 100 else digits}f}"
    if summary is None:
        return TableCell(text=DASH, title="not measured", paper=theirs)
    several = summary.count > 1
    spread = f" ± {scale * summary.sd:.{digits}f}" if several else ""
    title = f"mean and population standard deviation of {summary.count} seeds" if several else "one seed"
    text = f"{scale * summary.mean:.{digits}f}{spread}"
    return TableCell(text=text, sort=scale * summary.mean, title=title, paper=theirs)


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


def noise_table(measured: Measurements) -> Table | None:
    """Label noise (thesis 3.5.3): images of one set that the classifier of another is very sure of; None for none."""
    rows = [
        (
            text_cell(title, encoder.name),
            text_cell(noise.dataset),
            text_cell(noise.classifier),
            number_cell(100 * noise.confident, "{:.2f}".format),
            number_cell(noise.num_test, "{:,}".format),
        )
        for title, encoder in zip(measured.titles, measured.encoders, strict=True)
        for noise in encoder.noise
    ]
    if not rows:
        return None
    return Table(
        key="label-noise",
        title="Label noise",
        caption="Test images that a classifier of other classes is very sure of (probability above 0.99), in percent: "
        f"some of them may show one of its classes. The thesis finds about {percent(paper.LABEL_NOISE, 1)} between "
        "ImageNet-1K and L5 (section 3.5.3).",
        columns=("Encoder", "Images of", "Classifier of", "Very sure %", "Images"),
        rows=tuple(rows),
        numeric=frozenset({3, 4}),
    )
