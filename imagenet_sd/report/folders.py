"""What a report takes from the folders of `generate` and `train`. Reads their small files only, no weights."""

import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasPath, Field

from imagenet_sd.core.documents import (
    Count,
    Document,
    Fraction,
    NotNegative,
    Number,
    ResultsError,
    Text,
    Texts,
    clean,
    parse_json,
    read_text,
    validate,
)
from imagenet_sd.core.files import data_path
from imagenet_sd.core.layout import DESCRIPTION
from imagenet_sd.core.results import ProbeResult
from imagenet_sd.core.training_facts import training_facts
from imagenet_sd.core.typed import parse_yaml
from imagenet_sd.report.encoders import DatasetFolder, RunFolder, Score, wilson
from imagenet_sd.report.text import TIMES
from imagenet_sd.storage.dataset import upgrade

_SMALL = 4 << 20
_AUGMENTATIONS = {"dino": "strong", "pytorch": "plain"}


class _DatasetClass(Document):
    wnid: Text
    lemmas: Texts = ()
    count: Annotated[Number, Field(ge=0, le=1e9)]


class _GenerationSettings(Document):
    class_list: Text
    prompt: Text
    template: Text
    model_id: Text
    guidance_scale: NotNegative
    num_inference_steps: Annotated[Number, Field(ge=1)]
    width: Annotated[Number, Field(ge=1, le=1 << 14)]
    height: Annotated[Number, Field(ge=1, le=1 << 14)]
    seed: Number


class _DatasetDescription(Document):
    made_with: Text
    fingerprint: Text
    rounds: Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
    settings: _GenerationSettings
    classes: Annotated[tuple[_DatasetClass, ...], Field(max_length=100_000)]


class _RunDescription(Document):
    data: Text
    validation: Text | None = None
    recipe: Text = Field("", validation_alias=AliasPath("train", "name"))
    augmentation: Text = Field("", validation_alias=AliasPath("train", "augmentation"))
    backbone: Text = Field("", validation_alias=AliasPath("train", "model", "backbone"))
    epochs: NotNegative | None = Field(None, validation_alias=AliasPath("train", "optimizer", "epochs"))
    batch_size: NotNegative | None = Field(None, validation_alias=AliasPath("train", "optimizer", "batch_size"))
    seed: NotNegative | None = Field(None, validation_alias=AliasPath("train", "seed"))


class _RunResult(Document):
    num_images: Count | None = None


class _ClassList(Document):
    classes: Annotated[tuple[Text, ...], Field(max_length=1_000_000)]


class _Validation(Document):
    val_top1: Fraction
    val_top5: Fraction | None = None
    val_images: Count


def read_dataset(path: Path) -> DatasetFolder:
    """Describe a dataset folder from its `dataset.json`.

    Raises:
        ResultsError: the file is missing, or a value in it is missing or out of its range.
    """
    file = path / DESCRIPTION
    description = validate(_DatasetDescription, upgrade(parse_json(read_text(file), file)), file)
    settings = description.settings
    names = {entry.wnid: entry.lemmas[0] if entry.lemmas else entry.wnid for entry in description.classes}
    images = description.rounds * int(sum(entry.count for entry in description.classes))
    return DatasetFolder(
        path=path,
        name=clean(path.resolve().name),
        facts={
            "classes": f"{len(names):,} ({settings.class_list})",
            "images": f"{images:,}",
            "prompt": f"{settings.prompt}: {settings.template}",
            "model": settings.model_id,
            "guidance scale": f"{settings.guidance_scale:g}",
            "steps": f"{settings.num_inference_steps:g}",
            "size": f"{settings.width:g}{TIMES}{settings.height:g}",
            "dataset seed": f"{settings.seed:g}",
            "made with": description.made_with,
            "fingerprint": description.fingerprint,
        },
        factors={
            "data": "synthetic",
            "prompt": settings.prompt,
            "guidance_scale": settings.guidance_scale,
            "num_inference_steps": settings.num_inference_steps,
            "multiple": float(description.rounds),
        },
        class_list=known_class_list(frozenset(names)) or settings.class_list,
        names=names,
        num_images=images,
        width=int(settings.width),
    )


def read_run(path: Path) -> RunFolder:
    """Describe a run folder from its `recipe.yaml`, `metrics.jsonl`, `classes.json` and `environment.json`.

    Raises:
        ResultsError: `recipe.yaml` is missing, or a value in one of the files is missing or out of its range.
    """
    values = _yaml(path / "recipe.yaml")
    description = validate(_RunDescription, values, path / "recipe.yaml")
    augmentation, validation = description.augmentation, description.validation or ""
    factors: dict[str, Any] = {
        "augmentation": _AUGMENTATIONS.get(augmentation, augmentation),
        "recipe": description.recipe,
        "backbone": description.backbone,
    }
    if description.seed is not None:
        factors["seed"] = description.seed
    facts = {
        key.replace("_", " "): value if isinstance(value, str) else f"{value or 0:g}" for key, value in description
    }
    return RunFolder(
        path=path,
        name=clean(path.resolve().name),
        data=description.data,
        facts=facts | {"validation": validation or "none"},
        factors=factors,
        classes=_classes(path / "classes.json"),
        score=_validation(path / "metrics.jsonl", validation),
        versions=_environment(path / "environment.json"),
        training=training_facts(values["train"]),
        num_images=_num_images(path / "result.json"),
    )


def _yaml(path: Path) -> dict[str, Any]:
    try:
        value = parse_yaml(read_text(path, _SMALL))
    except ResultsError:
        raise
    except ValueError as error:
        raise ResultsError(f"{path} is not YAML: {clean(str(error))[:200]}", "restore the file") from None
    if not isinstance(value, dict) or not isinstance(value.get("train"), dict):
        raise ResultsError(f"{path} holds no settings of a training run", "give a folder of `imagenet-sd train`")
    return value


def _classes(path: Path) -> frozenset[str]:
    if not path.is_file():
        return frozenset()
    return frozenset(validate(_ClassList, {"classes": parse_json(read_text(path), path)}, path).classes)


def _num_images(path: Path) -> int | None:
    """Images that a finished run was trained on; None for one of version 0.1.0, which did not record it."""
    if not path.is_file():
        return None
    return validate(_RunResult, parse_json(read_text(path, _SMALL), path), path).num_images


def _environment(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    values = parse_json(read_text(path, _SMALL), path)
    if not isinstance(values, dict):
        raise ResultsError(f"{path} holds no JSON object", "restore the file")
    plain = [(key, value) for key, value in values.items() if not isinstance(value, dict | list)]
    return {clean(key): clean(str(value)) for key, value in plain[:200]}


def _validation(path: Path, validation: str) -> Score | None:
    """The last epoch's accuracy on the validation images; a last line that was cut off is left out."""
    last = None
    if not validation or not path.is_file():
        return None
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if '"val_top1"' in line and len(line) <= 10_000:
                    with suppress(json.JSONDecodeError, RecursionError):
                        last = json.loads(line)
    except (OSError, UnicodeError) as error:
        raise ResultsError(f"{path} cannot be read: {clean(str(error))}", "restore the file") from None
    if not isinstance(last, dict):
        return None
    measured = validate(_Validation, last, path)
    result = ProbeResult(
        dataset=validation,
        split="test",
        probe="training run",
        top1=measured.val_top1,
        top5=measured.val_top5,
        top1_interval=wilson(measured.val_top1, measured.val_images),
        num_test=measured.val_images,
    )
    return Score(suite="imagenet", result=result)


@lru_cache
def known_class_list(wnids: frozenset[str]) -> str:
    """The shipped class list that has exactly these classes; "" when there is none. The paper's rows match by it."""
    for path in sorted(data_path("prompts", "classes").glob("*.txt")):
        lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
        if wnids == set(filter(None, lines)):
            return path.stem
    return ""
