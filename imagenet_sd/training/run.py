"""One run from data spec to encoder: agree with the run folder, train, and write down what came out."""

import os
import platform
from pathlib import Path
from typing import Any

import torch
import yaml

from imagenet_sd import __version__
from imagenet_sd.core import progress
from imagenet_sd.core.files import atomic_write, read_json, write_json
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.core.typed import from_mapping, to_mapping
from imagenet_sd.data.images import ImageSet, JoinedSet
from imagenet_sd.data.open import has_test_images, open_images
from imagenet_sd.training.config import Tracker, TrainConfig, TrainingError, with_epochs
from imagenet_sd.training.recipes import read_description
from imagenet_sd.training.runlog import plot_curves, read_metrics


def train_run(
    config: TrainConfig,
    data: DataSpec,
    run: Path,
    *,
    also: DataSpec | None = None,
    validation: DataSpec | None,
    workers: int,
    stream: bool,
    log_with: Tracker = "tensorboard",
) -> dict[str, Any]:
    """See `imagenet_sd.pipeline.train`."""
    from imagenet_sd.training.loop import Trainer

    epochs = config.optimizer.epochs
    if stream:
        config = with_epochs(config, 1)
    if stream and also:
        raise TrainingError(f"{also} cannot be added to a dataset that is streamed", "leave out --also or --stream")
    images = _growing(data) if stream else open_images(data, "train")
    images = JoinedSet(images, open_images(also, "train")) if also else images
    held_out = open_images(validation, "test") if validation else None
    validated_on = str(validation or "")
    if validation and any(_same_images(spec, validation) for spec in (data, also) if spec):
        raise TrainingError(
            f"{validation} would be validated on the images that it trains on", "give --val images that are held out"
        )
    joined = f"{data} + {also}" if also else str(data)
    description = {"data": joined, "validation": validated_on, "stream": stream, "train": to_mapping(config)}
    begun = _agree(run, description)
    summary = {"run": str(run), "epochs": config.optimizer.epochs, "validation": validated_on}
    if (run / "result.json").exists():
        return read_result(run)
    if workers < 0:
        workers = min(8, (os.cpu_count() or 2) - 1) if torch.cuda.is_available() else 0
    trainer = Trainer(config, images, run, held_out, workers, sequential=stream, log_with=log_with)
    note = trainer.validator.note if trainer.validator else ""
    if trainer.accelerator.is_main_process:
        if note:
            progress.note(f"validation: {note}")
        if config.optimizer.epochs < epochs:
            progress.note(f"streaming: one pass over the images, not the {epochs} epochs of the recipe")
        run.mkdir(parents=True, exist_ok=True)
        if not begun:
            text = yaml.safe_dump(description, sort_keys=False)
            atomic_write(run / "recipe.yaml", lambda path: path.write_text(text, encoding="utf-8"))
        write_json(run / "classes.json", list(images.classes))
        write_json(run / "environment.json", _environment(trainer.accelerator.num_processes))
    if not trainer.fit():
        trainer.accelerator.end_training()
        return summary | {"finished": False}
    metrics = read_metrics(run / "metrics.jsonl")
    last = next((x for x in reversed(metrics) if "epoch" in x), {})
    result = summary | {"finished": True, "num_images": trainer.stream.num_images}
    result |= ({"validation_note": note} if note else {}) | last
    result.pop("epoch", None)
    if trainer.accelerator.is_main_process:
        plot_curves(metrics, run / "curves.png")
        write_json(run / "result.json", result)  # written last: its presence means that the run is done
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    return result


def read_result(run: Path) -> dict[str, Any]:
    """What a finished run came to.

    Raises:
        DatasetError: `result.json` is no JSON.
        TrainingError: it is not what `train` writes.
    """
    result = read_json(run / "result.json")
    numbers = ("epochs", "val_top1", "knn_top1")
    whole = isinstance(result, dict) and {"run", "finished", "epochs", "validation"} <= result.keys()
    if not whole or any(not isinstance(result.get(name, 0.0), int | float) for name in numbers):
        raise TrainingError(
            f"{run / 'result.json'} is not what `train` writes", "delete it; the same command writes it again"
        )
    return result


def _growing(data: DataSpec) -> ImageSet:
    from imagenet_sd.storage.dataset import Dataset
    from imagenet_sd.training.stream import GrowingSet

    if data.kind != "dataset" or data.limit:
        raise TrainingError(f"{data} cannot be streamed", "give the folder of a dataset that `generate` is writing")
    return GrowingSet(Dataset.open(Path(data.root)))


def _same_images(data: DataSpec, validation: DataSpec) -> bool:
    """Whether two specs stand for the same images: one name or folder, without test images of its own."""
    places = [(spec.name, *(path.resolve() for path in spec.paths)) for spec in (data, validation)]
    return places[0] == places[1] and not has_test_images(validation)


def _agree(run: Path, description: dict[str, Any]) -> bool:
    """Whether the folder holds this run already, begun or finished.

    A folder whose run never came to its first step, such as one whose data and recipe did not fit, is free.

    Raises:
        TrainingError: it holds another run; the message says where the two differ.
    """
    if not (run / "recipe.yaml").exists():
        return False
    there = read_description(run)
    there["train"] = to_mapping(from_mapping(TrainConfig, there["train"]))  # fields that it does not know yet
    different = _differences(there, description)
    if different and any((run / name).exists() for name in ("metrics.jsonl", "checkpoint.safetensors", "result.json")):
        raise TrainingError(
            f"{run} holds another run: {'; '.join(different)}", "give --out a new folder, or the same settings"
        )
    return not different


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(key for key in old if key not in new)]
        pairs = [(old.get(key), new.get(key), f"{path}.{key}" if path else str(key)) for key in keys]
        return [line for a, b, where in pairs for line in _differences(a, b, where)]
    return [] if old == new else [f"{path}: {old!r} there, {new!r} asked for"]


def _environment(processes: int) -> dict[str, Any]:
    import timm

    return {
        "imagenet-sd": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processes": processes,
        "threads": torch.get_num_threads(),
    }
