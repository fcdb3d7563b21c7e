"""A finished run as the files of a timm repository on the Hub: `config.json` and `model.safetensors`."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from torch import nn

from imagenet_sd import __version__
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.core.typed import from_mapping, to_mapping
from imagenet_sd.data.preprocess import MEAN, STD
from imagenet_sd.training.config import TrainConfig, TrainingError
from imagenet_sd.training.export import load_run
from imagenet_sd.training.model import num_features
from imagenet_sd.training.objectives.augself import AugSelfHead
from imagenet_sd.training.recipes import read_description
from imagenet_sd.training.run import read_result


def timm_files(run: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """What `timm.create_model("hf-hub:...")` needs of a finished run.

    With a linear classifier on the features of the encoder, it becomes the classifier of the timm model; else (with a
    projector, or without labels) the encoder stands alone.

    Returns:
        Name -> content of the files, and the facts of its card, see `model_card`.

    Raises:
        TrainingError: the run is not finished or damaged, or timm cannot build its network by name.
    """
    encoder, head, classes, size = load_run(run)
    description = read_description(run)
    config = from_mapping(TrainConfig, description["train"])
    if config.model.small_images:
        raise TrainingError(
            f"{run} has a {config.model.backbone} without the pooling of its stem (model.small_images), which timm "
            "would put back, and give other features",
            "train with --set model.small_images=false to publish, or share the run folder as it is",
        )
    model = _with_classifier(config.model.backbone, encoder, head, len(classes), size)
    classes = classes if model is not None else ()
    model = model if model is not None else encoder
    base: dict[str, Any] = dict(getattr(model, "pretrained_cfg", {}))
    kept = {key: base[key] for key in ("first_conv", "classifier", "fixed_input_size") if base.get(key) is not None}
    document = {
        "architecture": config.model.backbone,
        "num_classes": len(classes),
        "num_features": num_features(model),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, size, size],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(MEAN),
            "std": list(STD),
            "num_classes": len(classes),
            **kept,
            **({"label_names": list(classes)} if classes else {}),
        },
    }
    weights = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    facts = {
        "architecture": config.model.backbone,
        "features": num_features(model),
        "classes": classes,
        "crop_size": size,
        "data": _public(str(description.get("data", ""))),
        "validation": _public(str(description.get("validation") or "")),
        "train": to_mapping(config),
        "result": read_result(run) if (run / "result.json").is_file() else {},
        "version": __version__,
    }
    text = json.dumps(document, indent=2) + "\n"
    return {"config.json": text.encode(), "model.safetensors": save(weights, {"format": "pt"})}, facts


@torch.inference_mode()
def _with_classifier(
    architecture: str, encoder: nn.Module, head: nn.Module | None, num_classes: int, size: int
) -> nn.Module | None:
    """The timm model with the run's linear classifier; None where its logits would not be those of the run."""
    head = head.base if isinstance(head, AugSelfHead) else head
    linear = getattr(head, "linear", None)
    if head is None or not isinstance(linear, nn.Linear):
        return None
    model = timm.create_model(architecture, num_classes=num_classes).eval()
    classifier: Any = getattr(model, "get_classifier")()  # noqa: B009
    if not isinstance(classifier, nn.Linear) or classifier.weight.shape != linear.weight.shape:
        return None
    model.load_state_dict(encoder.state_dict(), strict=False)
    classifier.load_state_dict(linear.state_dict())
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    same = torch.allclose(model(images), head(encoder(images)), rtol=1e-4, atol=1e-4)
    return model if same else None


def _public(spec: str) -> str:
    """A data spec, or several joined by " + ", without the paths to local folders."""
    if not spec or " + " in spec:
        return " + ".join(map(_public, spec.split(" + "))) if spec else ""
    parsed = DataSpec.parse(spec)
    for path in sorted(map(str, parsed.paths), key=len, reverse=True):
        spec = spec.replace(path, Path(path).name)
    return spec
