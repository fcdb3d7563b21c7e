"""Pictures for a report: contact sheets of datasets, and the classes that an encoder is worst at."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from imagenet_sd.core.documents import clean
from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.results import ProbeResult
from imagenet_sd.report.encoders import DatasetFolder
from imagenet_sd.report.gallery import choose_images, data_uri
from imagenet_sd.report.measurements import Setting, label_of
from imagenet_sd.report.plots import class_curve
from imagenet_sd.report.svg import Panel
from imagenet_sd.report.text import slug
from imagenet_sd.storage.dataset import Dataset

_MOST_GROUPS = 40
"""Row groups that are read of one dataset: some 4,000 images."""
_MOST_SECTIONS = 6
_WORST = 10
_SMALL = 96
"""Pixels: narrower images are shown pixel by pixel."""


class Picture(NamedTuple):
    """An image as a `data:` address, and what is shown on hovering."""

    source: str
    title: str


class ClassRow(NamedTuple):
    """A class with some of its synthetic images; `accuracy` in [0, 1], None on a contact sheet."""

    wnid: str
    name: str
    pictures: list[Picture]
    accuracy: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """The contact sheet of one dataset; `remark` says what is not on it."""

    title: str
    dataset: DatasetFolder
    rows: list[ClassRow]
    small: bool
    remark: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WorstClasses:
    """Accuracy per class of one setting on one data set: the worst classes, samples of them, and a figure.

    `mistakes` are the misclassified test images that the results name: (image, true class, predicted class).
    """

    label: str
    dataset: str
    count: int
    rows: list[ClassRow]
    mistakes: list[tuple[str, str, str]]
    small: bool
    source: str
    figure: Panel


def contact_sheets(datasets: list[DatasetFolder], classes: int, images: int, remarks: list[str]) -> list[Sheet]:
    """A row of pictures for each of the first classes of every dataset.

    Args:
        datasets: the dataset folders.
        classes: how many classes of a dataset are shown at most.
        images: pictures of a class.
        remarks: receives a line for every dataset that cannot be shown.
    """
    sheets = []
    for dataset in datasets:
        wnids = list(dataset.names)[:classes]
        pictures = _pictures(dataset, wnids, images, remarks)
        if not pictures:
            remarks.append(f"{dataset.name}: no finished shard, so there is nothing to show")
            continue
        rows = [ClassRow(wnid, dataset.names[wnid], pictures.get(wnid, [])) for wnid in wnids]
        rest = len(dataset.names) - len(wnids)
        remark = f"{rest:,} more classes: `imagenet-sd preview` shows all." if rest > 0 else ""
        title = label_of(dataset.factors, ("prompt", "guidance_scale", "num_inference_steps"))
        sheets.append(Sheet(title=title, dataset=dataset, rows=rows, small=dataset.width < _SMALL, remark=remark))
    return sheets


def worst_classes(
    settings: list[Setting], datasets: list[DatasetFolder], images: int, remarks: list[str]
) -> list[WorstClasses]:
    """The classes with the lowest accuracy, for every setting and data set whose results hold accuracies per class."""
    sections: list[WorstClasses] = []
    for setting in settings:
        scores = [score for encoder in setting.encoders for score in encoder.scores if score.result.per_class]
        for key in dict.fromkeys(score.key for score in scores):
            same = [score.result for score in scores if score.key == key]
            if len(sections) == _MOST_SECTIONS:
                remarks.append(
                    f"accuracy per class is shown for the first {_MOST_SECTIONS} encoders and data sets only"
                )
                return sections
            sections.append(_worst(setting, same, datasets, images, remarks, f"classes-{len(sections)}"))
    return sections


def _worst(
    setting: Setting,
    results: list[ProbeResult],
    datasets: list[DatasetFolder],
    images: int,
    remarks: list[str],
    key: str,
) -> WorstClasses:
    means = pd.DataFrame([result.per_class for result in results]).mean().sort_index().sort_values(kind="stable")
    ranked = [(str(wnid), float(mean)) for wnid, mean in means.items()]
    worst = [wnid for wnid, _ in ranked[:_WORST]]
    source = next((d for d in (setting.encoders[0].dataset, *datasets) if d and worst[0] in d.names), None)
    names = {wnid: name for dataset in datasets for wnid, name in dataset.names.items()}
    pictures = _pictures(source, worst, images, remarks) if source else {}
    rows = [ClassRow(wnid, names.get(wnid, wnid), pictures.get(wnid, []), value) for wnid, value in ranked[:_WORST]]
    dataset = f"{results[0].dataset}/{results[0].split}"
    titles = [(names.get(wnid, wnid), value) for wnid, value in ranked]
    mistakes = [mistake for result in results for mistake in result.worst][:20]
    return WorstClasses(
        label=setting.short,
        dataset=f"{dataset} ({results[0].probe})",
        count=len(ranked),
        rows=rows,
        mistakes=[(m.image, names.get(m.wnid, m.wnid), names.get(m.predicted, m.predicted)) for m in mistakes],
        small=bool(source and source.width < _SMALL),
        source=source.name if source else "",
        figure=class_curve(setting.short, dataset, titles, f"{key}-{slug(dataset)}"),
    )


def _pictures(dataset: DatasetFolder, wnids: list[str], images: int, remarks: list[str]) -> dict[str, list[Picture]]:
    """Some pictures of each class; without any, and with a remark, where the dataset cannot be read."""
    try:
        chosen = choose_images(Dataset.open(dataset.path), wnids, images, _MOST_GROUPS)
        return {wnid: list(map(_picture, rows)) for wnid, rows in chosen.items()}
    except ImagenetSDError as error:
        remarks.append(f"{dataset.name}: {error}")
    except (KeyError, TypeError, OSError, ValueError, Image.DecompressionBombError) as error:
        remarks.append(f"{dataset.name}: its images cannot be read ({type(error).__name__}); run `imagenet-sd verify`")
    return {}


def _picture(row: dict[str, Any]) -> Picture:
    title = clean(f"{row['prompt']} · {row['image_id']}, seed {row['seed']}")
    return Picture(data_uri(row["image"]["bytes"]), title)
