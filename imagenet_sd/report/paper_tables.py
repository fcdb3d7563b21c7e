"""The published tables, with the settings that answer their rows beside them, and those that answer none apart."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from imagenet_sd.report import paper
from imagenet_sd.report.encoders import IN1K
from imagenet_sd.report.matching import answer, nearest_row
from imagenet_sd.report.measurements import Measurements, Setting, Summaries, Summary
from imagenet_sd.report.paper import PaperRow
from imagenet_sd.report.tables import Table, TableCell, summary_cell, text_cell
from imagenet_sd.report.text import DASH, TIMES, slug

_BESIDE = "Numbers in brackets are the paper's; ours stand before them, and a dash says that we have not measured it."
LEVELS = tuple(f"L{level}" for level in range(1, 6))


def paper_tables(measured: Measurements) -> list[Table]:
    """Tab. 5.1 to 5.4, 4.1 to 4.3 and D.1."""
    return [
        _augmentation_table(measured),
        _imagenet_table(measured),
        _transfer_table(measured),
        _cog_table(measured),
        *_trex_tables(measured),
    ]


def probe_values(measured: Measurements, name: str, measure: str = "top1") -> pd.Series:
    """A measure of a probe, by encoder.

    Args:
        measured: the scores.
        name: "in1k" for ImageNet-1K under any of its names, "L1" ... "L5" for a level whatever stands before it, else
            the name of a transfer set.
        measure: a column of the scores.
    """
    pattern = "|".join(IN1K) if name == "in1k" else f"(?:.*-)?{name}" if name in LEVELS else name
    asked = measured.scores["dataset"].str.fullmatch(pattern).astype(bool)
    rows = measured.scores[measured.scores["kind"].isin(("transfer", "probe")) & asked]
    return rows.drop_duplicates("encoder").set_index("encoder")[measure]


def mean_log_odds(measured: Measurements) -> pd.Series:
    """Mean log odds (eq. 4.3) over the 13 transfer sets of 4.4, by encoder; missing where one of them is."""
    columns = [probe_values(measured, name, "log_odds") for name in (*LEVELS, *paper.SMALL)]
    return pd.concat(columns, axis=1).mean(axis=1, skipna=False)


def _augmentation_table(measured: Measurements) -> Table:
    """Tab. 5.1: ImageNet-100 val, training data by augmentation; prompt "c", guidance scale 7.5."""
    means = [measured.summary("training", "val")]
    rows, answered, apart = [], False, []
    for row in paper.AUGMENTATION:
        cells = [text_cell(f"{row.training} ({row.data})")]
        for augmentation, published in zip(("plain", "strong"), row.values, strict=True):
            setting, ours = answer(measured.settings, row, means, augmentation)
            answered |= setting is not None
            cells.append(summary_cell(ours[0], 1, published))
        rows.append(tuple(cells))
    for setting in measured.settings:
        augmentation = str(setting.factors.get("augmentation"))
        reason = nearest_row(setting, paper.AUGMENTATION, augmentation)
        if reason and setting.number in means[0] and augmentation in ("plain", "strong"):
            cell, empty = summary_cell(means[0][setting.number], 1), TableCell(text=DASH, title="another setting")
            pair = (cell, empty) if augmentation == "plain" else (empty, cell)
            apart.append((text_cell(f"{setting.label}: {reason}"), *pair))
    return Table(
        key="tab-5-1",
        title="Tab. 5.1: impact of data augmentation",
        caption=f"Top-1 on ImageNet-100 val, in percent. {_BESIDE}",
        columns=("Training data", "PyTorch (plain)", "DINO + multi-crop (strong)"),
        rows=(*rows, *apart),
        numeric=frozenset({1, 2}),
        has_ours=answered or bool(apart),
    )


def _imagenet_table(measured: Measurements) -> Table:
    sets = paper.IMAGENET_SETS
    return _table(
        measured.settings,
        paper.IMAGENET,
        [measured.summary("training", d, measure) for d in sets for measure in ("top1", "top5")],
        title="Tab. 5.2: ImageNet test sets",
        caption=f"In percent, by the classifier of training. *: on the classes in common only. {_BESIDE}",
        columns=("Top-1", "Top-5") * len(sets),
        groups=(("", 4), *((title, 2) for title in sets.values())),
    )


def _transfer_table(measured: Measurements) -> Table:
    names = list(paper.TRANSFER_TITLES)
    return _table(
        measured.settings,
        paper.TRANSFER_ROWS,
        [measured.summary("transfer", name) for name in names] + [measured.summarise(measured.mean_over(names))],
        title="Tab. 5.3: ten transfer sets",
        caption=f"Top-1 of linear classifiers in percent; the average needs all ten. {_BESIDE}",
        columns=(*paper.TRANSFER_TITLES.values(), "Avg."),
    )


def _cog_table(measured: Measurements) -> Table:
    return _table(
        measured.settings,
        paper.COG_ROWS,
        [measured.summarise(probe_values(measured, name)) for name in paper.COG_SETS],
        title="Tab. 5.4: ImageNet-CoG",
        caption=f"Top-1 in percent of linear classifiers trained on real images. {_BESIDE}",
        columns=tuple(paper.COG_SETS.values()),
    )


def _trex_tables(measured: Measurements) -> list[Table]:
    """Tab. 4.1 to 4.3 and D.1; apart stand only models of chapter 4's objectives, as the others have tables above."""
    own = [s for s in measured.settings if s.encoders[0].training.get("objective.loss") in ("cosine_softmax", "ocm")]
    given = [s for s in measured.settings if not s.encoders[0].run and "data" not in s.factors]
    table = partial(_table, own + given, apart={setting.number for setting in own}, lead=2)
    in1k, odds = measured.summarise(probe_values(measured, "in1k")), measured.summarise(mean_log_odds(measured))
    sets = (*LEVELS, *paper.SMALL)
    titles = (*LEVELS, *(paper.TRANSFER_TITLES[name] for name in paper.SMALL))
    on13 = "natural logarithm, over the five levels of ImageNet-CoG and eight small sets"
    return [
        table(
            paper.PROJECTOR_ROWS,
            [in1k, odds],
            title="Tab. 4.1: size of the projector",
            caption=f"Top-1 on ImageNet-1K of a linear classifier, in percent; mean log odds ({on13}). {_BESIDE}",
            columns=("IN-1K", "Transfer"),
            plain={1: 2},
        ),
        table(
            paper.SHIFT_ROWS,
            [in1k, *(measured.summary("probe", name) for name in list(paper.SHIFT_SETS)[1:])],
            title="Tab. 4.2: ImageNet test sets under a linear classifier",
            caption="Top-1 in percent of one linear classifier, trained on frozen features of ImageNet-1K; v2 is the "
            f"mean of its three test sets. {_BESIDE}",
            columns=tuple(paper.SHIFT_SETS.values()),
        ),
        table(
            paper.LONG_TAIL_ROWS,
            [measured.summary("transfer", name) for name in paper.LONG_TAIL_SETS],
            title="Tab. 4.3: long-tailed transfer sets",
            caption=f"Top-1 in percent of linear classifiers. {_BESIDE}",
            columns=tuple(paper.LONG_TAIL_SETS.values()),
        ),
        table(
            paper.PLANE_ROWS,
            [in1k, *(measured.summarise(probe_values(measured, name)) for name in sets), odds],
            title="Tab. D.1: training and transfer, by data set",
            caption=f"Top-1 in percent of linear classifiers, and the mean log odds ({on13}). {_BESIDE}",
            columns=("IN-1K", *titles, "Mean LO"),
            plain={1 + len(sets): 3},
        ),
    ]


def _table(
    settings: list[Setting],
    published: tuple[PaperRow, ...],
    means: Sequence[Summaries],
    *,
    title: str,
    caption: str,
    columns: tuple[str, ...],
    groups: tuple[tuple[str, int], ...] = (),
    apart: Collection[int] | None = None,
    lead: int = 4,
    plain: Mapping[int, int] | None = None,
) -> Table:
    """The rows of the paper with the settings that answer them, then measured settings that answer none, and why.

    Args:
        settings: all settings.
        published: the rows.
        means: one per column.
        title: of the table; before its colon is the key.
        caption: what the numbers are.
        columns: titles of the columns of numbers.
        groups: see `Table`.
        apart: numbers of the settings that may stand apart; None: all.
        lead: columns before the numbers: 4 with size and guidance scale, 2 without.
        plain: columns that are no percentages, with their digits.
    """
    left = {s.number: s for s in settings if any(s.number in mean for mean in means)}
    units = [(plain[c], 1.0) if plain and c in plain else (1, 100.0) for c in range(len(means))]
    rows, answered = [], False
    for row in published:
        synthetic = row.data == "synthetic"
        factors = {"multiple": row.multiple, "guidance_scale": row.guidance_scale} if synthetic else {}
        label = text_cell(row.label, f"template {row.prompt}" if synthetic else "")
        setting, ours = answer(settings, row, means)
        if setting:
            answered = True
            left.pop(setting.number, None)
        rows.append((*_lead(row.training, factors, label, lead), *_numbers(ours, row.values, units)))
    others = [setting for number, setting in left.items() if apart is None or number in apart]
    for setting in others:
        reason = nearest_row(setting, published)
        label = text_cell(f"{setting.label}: {reason}" if reason else setting.label, reason or "not in the paper")
        ours = [mean.get(setting.number) for mean in means]
        cells = _numbers(ours, [None] * len(means), units)
        rows.append((*_lead(setting.class_list or "ours", setting.factors, label, lead), *cells))
    return Table(
        key=slug(title.partition(":")[0]),
        title=title,
        caption=caption + (" Rows below the paper's differ from all of them, and say in what." if others else ""),
        columns=("Training data", *(("Size", "Scale") if lead == 4 else ()), "Prompt / model", *columns),
        groups=groups,
        rows=tuple(rows),
        numeric=frozenset({*range(1, lead - 1), *range(lead, lead + len(columns))}),
        has_ours=answered or bool(others),
    )


def _numbers(
    ours: Sequence[Summary | None], theirs: Sequence[float | None], units: Sequence[tuple[int, float]]
) -> list[TableCell]:
    """The cells of a row; `units`: digits and scale of each column."""
    return [
        summary_cell(summary, digits, value, scale)
        for summary, value, (digits, scale) in zip(ours, theirs, units, strict=True)
    ]


def _lead(training: str, factors: Mapping[str, Any], label: TableCell, columns: int) -> tuple[TableCell, ...]:
    if columns == 2:
        return text_cell(training), label
    size, scale = factors.get("multiple"), factors.get("guidance_scale")
    return (
        text_cell(training),
        TableCell(text=DASH if size is None else f"{size:g}{TIMES}", sort=size),
        TableCell(text=DASH if scale is None else f"{scale:.1f}", sort=scale),
        label,
    )
