"""The tables: all results, one per study, and those of the papers with our numbers beside theirs.

A table is plain data; `page` and `markdown` turn it into text.
"""

from collections.abc import Callable
from dataclasses import dataclass

from imagenet_sd.report import paper
from imagenet_sd.report.checks import DASH, TIMES, slug
from imagenet_sd.report.paper import PaperRow
from imagenet_sd.report.results import Model, Score, Study
from imagenet_sd.report.settings import (
    Setting,
    Summary,
    factor_names,
    factor_title,
    find_score,
    label_of,
    mean_over,
    on_training,
    on_transfer,
    over,
    settings_of,
    show_factor,
)

MISSING = DASH
Measure = Callable[[Model], float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell. `sort`: what it is sorted by; `title`: for hovering; `paper`: the published number, "" for none."""

    text: str
    sort: float | str | None = None
    title: str = ""
    paper: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table. `groups`: a first header line of (title, columns spanned), empty for none; `numeric`: column numbers."""

    key: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()
    numeric: frozenset[int] = frozenset()


def text_cell(text: str, title: str = "") -> Cell:
    """A cell of text."""
    return Cell(text=text or MISSING, sort=text, title=title)


def percent(share: float | None, digits: int = 2) -> str:
    """A fraction in percent, without the sign; a dash for None."""
    return MISSING if share is None else f"{100 * share:.{digits}f}"


def number_cell(value: float | None, text: str) -> Cell:
    """A cell of a number, or one that says that it was not measured."""
    return Cell(text=MISSING, title="not measured") if value is None else Cell(text=text, sort=value)


def summary_cell(found: Summary | None, digits: int = 2, published: float | None = None) -> Cell:
    """Mean in percent, with the deviation where there are several models, and the paper's number beside it."""
    theirs = "" if published is None else f"{published:.1f}"
    if found is None:
        return Cell(text=MISSING, title="not measured", paper=theirs)
    spread = f" ± {percent(found.sd, digits)}" if found.count > 1 else ""
    title = f"mean and population standard deviation of {found.count} seeds" if found.count > 1 else "one seed"
    return Cell(text=percent(found.mean, digits) + spread, sort=100 * found.mean, title=title, paper=theirs)


def results_table(models: list[Model]) -> Table:
    """Every score of every model, as it was measured."""
    rows = [_result_row(model, score) for model in models for score in model.scores]
    columns = "Encoder|Data set|Probe|Top-1 %|95% interval|Top-5 %|Mean per class %|Log odds|Images|Seeds".split("|")
    return Table(
        key="results",
        title="All results",
        caption="Top-1 is the mean over the probe's seeds; its interval comes from a bootstrap over the test images "
        "(for a training run: a Wilson interval). ‡: scored on a part of the classes only. The probe “training "
        "run” is the last validation of `train`; “study” is a number that the study file repeats.",
        columns=tuple(columns),
        rows=tuple(rows),
        numeric=frozenset(range(3, 10)),
    )


def _result_row(model: Model, score: Score) -> tuple[Cell, ...]:
    low_high = score.interval and f"{percent(score.interval[0])} {DASH} {percent(score.interval[1])}"
    note = f"scored on {score.num_classes} classes" if score.masked else ""
    top1 = Cell(text=percent(score.top1) + ("‡" if score.masked else ""), sort=100 * score.top1, title=note)
    return (
        text_cell(model.name, model.study and f"study {model.study}"),
        text_cell(f"{score.dataset}/{score.split}"),
        text_cell(score.probe),
        top1,
        number_cell(score.interval and score.interval[0], low_high or ""),
        number_cell(score.top5, percent(score.top5)),
        number_cell(score.mean_per_class, percent(score.mean_per_class)),
        number_cell(score.log_odds, f"{score.log_odds or 0:.3f}"),
        number_cell(score.num_test, f"{score.num_test or 0:,}"),
        number_cell(score.seeds or None, str(score.seeds)),
    )


def study_table(study: Study, models: list[Model]) -> Table:
    """Rows: settings; columns: factors, number of seeds, then top-1 and top-5 on each data set (layout of Tab. 5.2)."""
    settings = settings_of(models)
    used = factor_names(setting.factors for setting in settings)
    named = any("encoder" in model.factors for model in models)
    keys = list(dict.fromkeys(score.key for model in models for score in model.scores))
    rows = []
    for setting in settings:
        cells = [text_cell(setting.models[0].factors.get("encoder", "trained here"))] if named else []
        cells += [_factor_cell(setting, name) for name in used]
        cells.append(Cell(text=str(len(setting.models)), sort=len(setting.models)))
        for key in keys:
            for measure in ("top1", "top5"):
                cells.append(summary_cell(over(setting, _measure(key, measure))))
        rows.append(tuple(cells))
    lead = len(used) + 1 + named
    return Table(
        key=f"study-{slug(study.name)}",
        title=f"Study {study.name}: settings",
        caption="In percent: mean ± population standard deviation over the seeds of a setting.",
        columns=(*["Encoder"] * named, *map(factor_title, used), "Seeds", *["Top-1", "Top-5"] * len(keys)),
        groups=(("", lead), *((f"{dataset}/{split} ({probe})", 2) for dataset, split, probe in keys)),
        rows=tuple(rows),
        numeric=frozenset(range(lead - 1, lead + 2 * len(keys))),
    )


def _measure(key: tuple[str, str, str], name: str) -> Callable[[Model], float | None]:
    def measure(model: Model) -> float | None:
        score = find_score(model, lambda s: s.key == key)
        return getattr(score, name) if score else None

    return measure


def _factor_cell(setting: Setting, name: str) -> Cell:
    if name not in setting.factors:
        return Cell(text=MISSING, title="does not apply")
    value = setting.factors[name]
    return Cell(text=show_factor(name, value), sort=value)


def augmentation_tables(study: Study, models: list[Model]) -> list[Table]:
    """The layout of Tab. 5.1 (data by augmentation) for every data set of a study that has both augmentations."""
    if not {"plain", "strong"} <= {str(model.factors.get("augmentation")) for model in models}:
        return []
    tables = []
    for dataset in dict.fromkeys(
        score.dataset for model in models for score in model.scores if score.kind == "training"
    ):
        pairs: dict[str, dict[str, Setting]] = {}
        for setting in settings_of(models):
            others = [name for name in factor_names([setting.factors]) if name != "augmentation"]
            label = label_of(setting.factors, others)
            pairs.setdefault(label, {})[str(setting.factors.get("augmentation"))] = setting
        rows = [_augmentation_row(label, pair, dataset) for label, pair in pairs.items() if len(pair) == 2]
        if not rows:
            continue
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


def _augmentation_row(label: str, pair: dict[str, Setting], dataset: str) -> tuple[Cell, ...]:
    plain, strong = (
        over(pair[name], lambda m: on_training(m, dataset)) if name in pair else None for name in ("plain", "strong")
    )
    gain = None if plain is None or strong is None else 100 * (strong.mean - plain.mean)
    return (
        text_cell(label),
        summary_cell(plain),
        summary_cell(strong),
        number_cell(gain, f"{gain or 0:+.2f}"),
    )


_BESIDE = "Numbers in brackets are the paper's; ours stand before them, and a dash says that we have not measured it."


def augmentation_paper_table(settings: list[Setting]) -> Table:
    """Tab. 5.1: ImageNet-100 val, training data by augmentation; prompt "c", guidance scale 7.5."""
    rows = []
    for data, title in (("real", "ImageNet-100 (real)"), ("synthetic", "ImageNet-100-SD (synthetic)")):
        cells = [text_cell(title)]
        for augmentation in ("plain", "strong"):
            row = PaperRow(
                training="", label="", class_list="imagenet-100", data=data, guidance_scale=7.5, prompt="c", values=()
            )
            _, found = _answer(settings, row, [lambda m: on_training(m, "val")], augmentation)
            cells.append(summary_cell(found[0], 1, paper.AUGMENTATION[data, augmentation]))
        rows.append(tuple(cells))
    return Table(
        key="tab-5-1",
        title="Tab. 5.1: impact of data augmentation",
        caption=f"Top-1 on ImageNet-100 val, in percent. {_BESIDE}",
        columns=("Training data", "PyTorch (plain)", "DINO + multi-crop (strong)"),
        rows=tuple(rows),
        numeric=frozenset({1, 2}),
    )


def imagenet_paper_table(settings: list[Setting]) -> Table:
    """Tab. 5.2: top-1 and top-5 on the ImageNet test sets, with the classifier of training."""
    measures = [
        (lambda m, d=name, k=key: on_training(m, d, k)) for name in paper.IMAGENET_SETS for key in ("top1", "top5")
    ]
    return _paper_table(
        key="tab-5-2",
        title="Tab. 5.2: ImageNet test sets",
        caption=f"In percent. *: on the classes in common only. {_BESIDE}",
        columns=("Top-1", "Top-5") * len(paper.IMAGENET_SETS),
        groups=(("", 4), *((title, 2) for title in paper.IMAGENET_SETS.values())),
        published=paper.IMAGENET,
        measures=measures,
        settings=settings,
    )


def transfer_paper_table(settings: list[Setting]) -> Table:
    """Tab. 5.3: top-1 of linear classifiers on ten transfer sets."""
    names = list(paper.TRANSFER_TITLES)
    measures: list[Measure] = [(lambda m, d=name: on_transfer(m, d)) for name in names]
    return _paper_table(
        key="tab-5-3",
        title="Tab. 5.3: ten transfer sets",
        caption=f"Top-1 in percent; the average needs all ten. {_BESIDE}",
        columns=(*paper.TRANSFER_TITLES.values(), "Avg."),
        groups=(),
        published=paper.TRANSFER_ROWS,
        measures=[*measures, lambda m: mean_over(m, names)],
        settings=settings,
    )


def cog_paper_table(settings: list[Setting]) -> Table:
    """Tab. 5.4: top-1 of linear classifiers on ImageNet-1K and the levels of ImageNet-CoG."""
    return _paper_table(
        key="tab-5-4",
        title="Tab. 5.4: ImageNet-CoG",
        caption=f"Top-1 in percent of classifiers trained on real images. {_BESIDE}",
        columns=tuple(paper.COG_SETS.values()),
        groups=(),
        published=paper.COG_ROWS,
        measures=[(lambda m, d=name: cog_score(m, d)) for name in paper.COG_SETS],
        settings=settings,
    )


def cog_score(model: Model, name: str) -> float | None:
    """Top-1 of a probe on a CoG level (whatever stands before "-L1") or on ImageNet-1K ("in1k", "imagenet-1k")."""
    names = ("in1k", "imagenet-1k") if name == "in1k" else (name,)
    score = find_score(
        model,
        lambda s: s.kind == "transfer" and (s.dataset if name == "in1k" else s.dataset.rpartition("-")[2]) in names,
    )
    return score.top1 if score else None


def _paper_table(
    *,
    key: str,
    title: str,
    caption: str,
    columns: tuple[str, ...],
    groups: tuple[tuple[str, int], ...],
    published: tuple[PaperRow, ...],
    measures: list[Measure],
    settings: list[Setting],
) -> Table:
    rows, answers = [], []
    for row in published:
        size, scale = (f"{row.multiple:g}{TIMES}", row.guidance_scale) if row.data == "synthetic" else (MISSING, None)
        lead = (
            text_cell(row.training),
            Cell(text=size, sort=row.multiple if row.data == "synthetic" else None),
            Cell(text=MISSING if scale is None else f"{scale:.1f}", sort=scale),
            text_cell(row.label, "" if row.data != "synthetic" else f"template {row.prompt}"),
        )
        answer, ours = _answer(settings, row, measures)
        answers.append(answer)
        rows.append((*lead, *(summary_cell(s, 1, value) for s, value in zip(ours, row.values, strict=True))))
    for setting in settings:
        found = [over(setting, measure) for measure in measures]
        if any(found) and not any(answer is setting for answer in answers):
            rows.append((*_own_lead(setting), *(summary_cell(value, 1) for value in found)))
    return Table(
        key=key,
        title=title,
        caption=caption,
        columns=("Training data", "Size", "Scale", "Prompt / model", *columns),
        groups=groups,
        rows=tuple(rows),
        numeric=frozenset({1, 2, *range(4, 4 + len(columns))}),
    )


def _own_lead(setting: Setting) -> tuple[Cell, ...]:
    size, scale = setting.factors.get("multiple"), setting.factors.get("guidance_scale")
    return (
        text_cell(setting.class_list or "ours", "not in the paper"),
        Cell(text=MISSING if size is None else f"{size:g}{TIMES}", sort=size),
        Cell(text=MISSING if scale is None else f"{scale:.1f}", sort=scale),
        text_cell(setting.label, "not in the paper"),
    )


def _answer(
    settings: list[Setting], row: PaperRow, measures: list[Measure], augmentation: str = "strong"
) -> tuple[Setting | None, list[Summary | None]]:
    """The first setting that a row stands for and that has any of the measures, with them; several are never mixed."""
    for setting in settings:
        if _matches(setting, row, augmentation) and any(found := [over(setting, measure) for measure in measures]):
            return setting, found
    return None, [None] * len(measures)


def _matches(setting: Setting, row: PaperRow, augmentation: str = "strong") -> bool:
    """Whether a setting is what a row of the paper stands for: same classes, data, prompt, scale, size and steps."""
    factors = setting.factors
    if row.encoder:
        return any(model.name.startswith(row.encoder) for model in setting.models)
    if row.data == "none" or setting.class_list != row.class_list or factors.get("augmentation") != augmentation:
        return False
    if row.data == "real":
        return factors.get("data") == "real" and (row.label or "Baseline") == "Baseline"
    asked = {"data": "synthetic", "prompt": row.prompt, "guidance_scale": row.guidance_scale}
    asked |= {"multiple": row.multiple, "num_inference_steps": 50}
    return all(factors.get(name) == value for name, value in asked.items())
