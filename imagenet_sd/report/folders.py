"""What a report takes from the folders of `generate` and `train`. Reads their small files only, no weights."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from imagenet_sd.core.files import data_path
from imagenet_sd.core.layout import DESCRIPTION
from imagenet_sd.report.checks import TIMES, Record, ReportError, clean, read_object, read_text
from imagenet_sd.report.results import Dataset, Run, Score, wilson
from imagenet_sd.storage.dataset import upgrade

_SMALL = 4 << 20
_AUGMENTATIONS = {"dino": "strong", "pytorch": "plain"}


def read_dataset(path: Path) -> Dataset:
    """Describe a dataset folder from its `dataset.json`.

    Raises:
        ReportError: the file is missing, or a value in it is missing or out of its range.
    """
    record = Record(upgrade(read_object(path / DESCRIPTION).value), path / DESCRIPTION)
    settings, names, images = record.record("settings", required=True), {}, 0
    for entry in record.records("classes"):
        lemmas = entry.texts("lemmas")
        names[entry.text("wnid")] = clean(lemmas[0]) if lemmas else entry.text("wnid")
        images += int(entry.number("count", 0, 1e9))
    rounds = int(record.number("rounds", 1, 1e6))
    factors = {
        "data": "synthetic",
        "prompt": settings.text("prompt"),
        "guidance_scale": settings.number("guidance_scale", 0),
        "num_inference_steps": settings.number("num_inference_steps", 1),
        "multiple": float(rounds),
    }
    for key in ("width", "height"):
        settings.number(key, 1, 1 << 14)
    facts = {
        "classes": f"{len(names):,} ({settings.text('class_list')})",
        "images": f"{images * rounds:,}",
        "prompt": f"{settings.text('prompt')}: {settings.text('template')}",
        "model": settings.text("model_id"),
        "guidance scale": f"{factors['guidance_scale']:g}",
        "steps": f"{factors['num_inference_steps']:g}",
        "size": f"{settings.number('width'):g}{TIMES}{settings.number('height'):g}",
        "dataset seed": f"{settings.number('seed'):g}",
        "made with": record.text("made_with"),
        "fingerprint": record.text("fingerprint"),
    }
    return Dataset(
        path=path,
        name=clean(path.resolve().name),
        document=record.value,
        facts=facts,
        factors=factors,
        class_list=known_class_list(frozenset(names)) or settings.text("class_list"),
        names=names,
        num_images=images * rounds,
    )


def read_run(path: Path) -> Run:
    """Describe a run folder from its `recipe.yaml`, `metrics.jsonl`, `classes.json` and `environment.json`.

    Raises:
        ReportError: `recipe.yaml` is missing, or a value in one of the files is missing or out of its range.
    """
    description = _yaml(path / "recipe.yaml")
    train = description.record("train", required=True)
    model, optimizer = train.record("model"), train.record("optimizer")
    data, validation = description.text("data"), description.text("validation", "")
    augmentation = train.text("augmentation", "")
    factors: dict[str, Any] = {"augmentation": _AUGMENTATIONS.get(augmentation, augmentation)}
    if train.has("seed"):
        factors["seed"] = train.number("seed", 0)
    facts = {
        "data": data,
        "validation": validation or "none",
        "recipe": train.text("name", ""),
        "augmentation": augmentation,
        "backbone": model.text("backbone", ""),
        "epochs": f"{optimizer.optional('epochs', 0) or 0:g}",
        "batch size": f"{optimizer.optional('batch_size', 0) or 0:g}",
        "seed": f"{factors.get('seed', 0):g}",
    }
    environment = path / "environment.json"
    versions = {}
    if environment.is_file():
        record = read_object(environment, _SMALL)
        versions = Record({"environment": record.value}, environment).facts("environment")
    return Run(
        path=path,
        name=clean(path.resolve().name),
        data=data,
        facts=facts,
        factors=factors,
        classes=_classes(path / "classes.json"),
        score=_validation(path / "metrics.jsonl", validation),
        versions=versions,
    )


def _yaml(path: Path) -> Record:
    try:
        value = yaml.safe_load(read_text(path, _SMALL))
    except (yaml.YAMLError, RecursionError) as error:
        raise ReportError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}", "restore the file") from None
    if not isinstance(value, dict):
        raise ReportError(f"{path} holds no settings", "give a folder that `imagenet-sd train` wrote")
    return Record(value, path)


def _classes(path: Path) -> frozenset[str]:
    if not path.is_file():
        return frozenset()
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not JSON: {' '.join(str(error).split())[:200]}", "restore the file") from None
    return frozenset(map(clean, Record({"classes": value}, path).texts("classes", 1_000_000)))


def _validation(path: Path, validation: str) -> Score | None:
    """The last epoch's accuracy on the validation images; a last line that was cut off is left out."""
    last = None
    if not validation or not path.is_file():
        return None
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if '"val_top1"' not in line or len(line) > 10_000:
                    continue
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(value, dict):
                    last = Record(value, path, f"line {number}")
    except (OSError, UnicodeError) as error:
        raise ReportError(f"{path} cannot be read: {' '.join(str(error).split())}", "restore the file") from None
    if last is None:
        return None
    top1, images = last.number("val_top1", 0, 1), int(last.number("val_images", 1))
    return Score(
        dataset=validation,
        split="test",
        probe="training run",
        suite="imagenet",
        top1=top1,
        top5=last.optional("val_top5", 0, 1),
        interval=wilson(top1, images),
        num_test=images,
    )


@lru_cache(maxsize=1)
def _shipped_lists() -> dict[frozenset[str], str]:
    found = {}
    for path in sorted(data_path("prompts", "classes").glob("*.txt")):
        lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
        found[frozenset(filter(None, lines))] = path.stem
    return found


def known_class_list(wnids: frozenset[str]) -> str:
    """The shipped class list that has exactly these classes; "" when there is none. The paper's rows match by it."""
    return _shipped_lists().get(wnids, "")
