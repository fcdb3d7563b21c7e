"""A finished run, put back together for use: encoder, classifier and class ids."""

from pathlib import Path

import yaml
from safetensors.torch import load_file
from torch import nn

from imagenet_sd.core.files import read_json
from imagenet_sd.training.config import TrainingError
from imagenet_sd.training.heads import Classifier
from imagenet_sd.training.model import make_encoder


def load_run(run: Path) -> tuple[nn.Module, nn.Module, tuple[str, ...], int]:
    """Load what `train` left in a run folder, strictly.

    Returns:
        The encoder (images float [N, 3, H, W] to features [N, d]) and the classifier (features to logits [N, C]), both
        in evaluation mode; the class ids in the order of the logits; the side of the evaluation crop in pixels.

    Raises:
        TrainingError: the folder holds no finished run, or is damaged.
    """
    from imagenet_sd.training.restore import train_config

    needed = ("recipe.yaml", "classes.json", "encoder.safetensors", "classifier.safetensors")
    missing = [name for name in needed if not (run / name).is_file()]
    if missing:
        raise TrainingError(f"{run} is no finished run: {missing[0]} is missing", "train to the end first")
    try:
        config = train_config(yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["train"])
        classes = tuple(read_json(run / "classes.json"))
        encoder = make_encoder(config.model)
        head = Classifier(getattr(encoder, "num_features"), len(classes), config.model, config.objective)  # noqa: B009
        encoder.load_state_dict(load_file(run / "encoder.safetensors"))
        head.load_state_dict(load_file(run / "classifier.safetensors"))
    except (KeyError, TypeError, RuntimeError, OSError) as error:
        raise TrainingError(f"{run} is damaged: {' '.join(str(error).split())[:200]}", "train again") from None
    return encoder.eval(), head.eval(), classes, config.eval_size
