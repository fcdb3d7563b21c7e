"""A finished run, put back together for use: encoder, classifier and class ids."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from imagenet_sd.core.errors import ImagenetSDError, one_line
from imagenet_sd.core.files import read_json
from imagenet_sd.core.typed import from_mapping
from imagenet_sd.training.checkpoint import head_file
from imagenet_sd.training.config import TrainConfig, TrainingError
from imagenet_sd.training.model import make_encoder
from imagenet_sd.training.objectives import make_objective
from imagenet_sd.training.recipes import read_description


def load_run(run: Path) -> tuple[nn.Module, nn.Module | None, tuple[str, ...], int]:
    """Load what `train` left in a run folder, strictly.

    Returns:
        The encoder (images float [N, 3, H, W] to features [N, d]) and the classifier (features to logits [N, C]; None
        where the run learned without labels), both in evaluation mode; the class ids in the order of the logits; width
        and height of the centre crop in pixels.

    Raises:
        TrainingError: the folder holds no finished run, or is damaged.
    """
    _expect(run, "recipe.yaml", "classes.json", "encoder.safetensors")
    try:
        config = from_mapping(TrainConfig, read_description(run)["train"])
        classes = _classes(read_json(run / "classes.json"))
        encoder = make_encoder(config.model)
        objective = make_objective(encoder, len(classes), config)
        _expect(run, head_file(objective.classifies))
        encoder.load_state_dict(load_file(run / "encoder.safetensors"))
        objective.head.load_state_dict(load_file(run / head_file(objective.classifies)))
    except UnfinishedRun:
        raise
    except (ImagenetSDError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise TrainingError(f"{run} is damaged: {one_line(error)}", "train again") from None
    head = objective.head.eval() if objective.classifies else None
    return encoder.eval(), head, classes, config.val_crop_size


def _classes(content: object) -> tuple[str, ...]:
    names = [name for name in content if isinstance(name, str)] if isinstance(content, list) else []
    if content != names or len(set(names)) != len(names):
        raise ValueError("classes.json is no list of different names")
    return tuple(names)


class UnfinishedRun(TrainingError):
    """A file that a finished run has is missing."""


def _expect(run: Path, *names: str) -> None:
    missing = [name for name in names if not (run / name).is_file()]
    if missing:
        raise UnfinishedRun(f"{run} is no finished run: {missing[0]} is missing", "train to the end first")
