"""Frozen encoders; those of timm are opened here, with their own weights or a checkpoint mapped key by key."""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from imagenet_sd.core.backbones import create_backbone
from imagenet_sd.core.errors import one_line
from imagenet_sd.core.specs import ENCODER_SPECS, EncoderSpec
from imagenet_sd.data.preprocess import (
    Preprocessing,
    imagenet_preprocessing,
    invariance_preprocessing,
    transfer_preprocessing,
)
from imagenet_sd.evaluation.config import PUBLISHED_CROP_SIZE, EvalConfig, EvaluationError

# Weights of heads that are not part of an encoder; whatever else is left over in a checkpoint is an error.
_HEADS = ("fc.", "head.", "head_dist.", "classifier.", "projector.", "projection_head.", "prototypes.", "predictor.",
          "last_layer.", "momentum_encoder.")  # fmt: skip
_WRAPPERS = ("state_dict", "model", "teacher", "student")
_PREFIXES = ("", "module.", "backbone.", "module.backbone.", "encoder.", "module.encoder.", "encoder_q.",
             "base_encoder.", "module.base_encoder.")  # fmt: skip
_HINT = (
    "the imagenet suite scores a run folder or a model with a classifier of ImageNet's classes; use --suite transfer"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """A frozen encoder.

    Attributes:
        name: what the user asked for.
        module: normalised images float [N, 3, S, S] to features [N, D].
        fingerprint: hash of its weights.
        head: features to logits [N, C]; None when there is no classifier.
        classes: class ids of the logits.
        crop_size: edge of the centre crop in pixels that it was trained for; 0 leaves it to the evaluation.
        own: the preprocessing of its own configuration; None when it has none.
    """

    name: str
    module: nn.Module
    fingerprint: str
    head: nn.Module | None = None
    classes: tuple[str, ...] = ()
    crop_size: int = 0
    own: Preprocessing | None = None

    def preprocessing(self, config: EvalConfig) -> Preprocessing:
        """How images are shown to it: by the papers' protocol for the suite, or by its own configuration."""
        suites = {"imagenet": imagenet_preprocessing, "invariance": invariance_preprocessing}
        protocol = suites.get(config.suite, transfer_preprocessing)
        if config.preprocessing == "protocol":
            return protocol(config.crop_size or self.crop_size or PUBLISHED_CROP_SIZE)
        return self.own or protocol(self.crop_size or config.crop_size or PUBLISHED_CROP_SIZE)


def weights_hash(module: nn.Module) -> str:
    """Hash over names, shapes, dtypes and values of a module's state, hexadecimal."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def timm_encoder(spec: EncoderSpec, config: EvalConfig | None = None) -> Encoder:
    """Open a timm model; an untrained one is made with seed 0.

    Args:
        spec: the encoder, with a `model`.
        config: the imagenet suite takes the model with its own classifier; `preprocessing="model"` asks for its own
            preprocessing.

    Raises:
        EvaluationError: no such model or file, no network for timm's weights, keys that do not match, no classifier of
            ImageNet's classes, or a preprocessing that is not known here.
    """
    config = config or EvalConfig()
    head, classes = None, ()
    if config.suite == "imagenet":
        module = _with_classifier(spec)
        classes = imagenet_classes(module.num_classes, str(spec))
        head = _take_classifier(module, str(spec))
    else:
        module = _create(spec, num_classes=0, pretrained=not (spec.path or spec.random))
        if spec.path:
            load_checkpoint(module, Path(spec.path))
    return Encoder(
        name=str(spec),
        module=module.eval(),
        fingerprint=weights_hash(module),
        head=head,
        classes=classes,
        own=own_preprocessing(module, str(spec)) if config.preprocessing == "model" else None,
    )


def imagenet_classes(count: int, name: str) -> tuple[str, ...]:
    """The wnids of a published classifier's logits, which their number tells: timm has one list for each.

    Args:
        count: 1,000 for ImageNet-1k in standard order; 11,821 for the 12k list; 11,221, 21,841, 21,842 or 21,843 for
            those of 21k.
        name: of the model, for messages.

    Raises:
        EvaluationError: no list has as many classes.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": count})
    if subset is None:
        raise EvaluationError(f"{name} has a classifier of {count} classes, which are none of ImageNet's", _HINT)
    return tuple(ImageNetInfo(subset).label_names())


def own_preprocessing(module: nn.Module, name: str) -> Preprocessing:
    """What timm's configuration of a model says: its size, crop_pct, interpolation, mean and standard deviation.

    Raises:
        EvaluationError: images are to be padded, or are not square.
    """
    from timm.data import resolve_data_config

    own: dict[str, Any] = resolve_data_config(model=module)
    (_, height, width), mode, interpolation = own["input_size"], own["crop_mode"], own["interpolation"]
    if height != width or mode not in ("center", "squash") or interpolation not in ("bilinear", "bicubic"):
        asked = f"{height}x{width}, {mode}, {interpolation}"
        raise EvaluationError(f"the preprocessing of {name} is not known here: {asked}", "use --preprocessing protocol")
    return Preprocessing(
        resize_size=int(height / own["crop_pct"]),
        crop_size=height,
        interpolation=interpolation,
        crop_mode=mode,
        mean=tuple(own["mean"]),
        std=tuple(own["std"]),
    )


def _create(spec: EncoderSpec, **options: Any) -> Any:
    """A timm model, with the attributes that timm gives it."""
    if spec.random:
        torch.manual_seed(0)
    try:
        return create_backbone(spec.model, **options)
    except Exception as error:  # timm and the hub client raise many kinds; each means there is no such model here
        raise EvaluationError(
            f"{spec} cannot be loaded: {one_line(error)}",
            f"check the name and the network; an encoder is {ENCODER_SPECS}",
        ) from None


def _with_classifier(spec: EncoderSpec) -> Any:
    """A trained model with its classifier: timm's, or one as large as that of the checkpoint."""
    if spec.random:
        raise EvaluationError(f"{spec} is untrained and has no classifier", _HINT)
    if not spec.path:
        return _create(spec, pretrained=True)
    module = _create(spec, num_classes=0)
    left_out = load_checkpoint(module, Path(spec.path))
    weight = left_out.get(f"{module.pretrained_cfg.get('classifier')}.weight")
    if weight is None:
        raise EvaluationError(f"{spec.path} has no classifier of one layer for {spec.model}", _HINT)
    module = _create(spec, num_classes=len(weight))
    load_checkpoint(module, Path(spec.path))
    return module


@torch.inference_mode()
def _take_classifier(module: Any, name: str) -> nn.Module:
    """Take the classifier off a timm model, and check that the two in a row still are the model."""
    _, height, width = module.pretrained_cfg.get("input_size") or (3, 224, 224)
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    expected, head = module.eval()(images), module.get_classifier()
    module.reset_classifier(0)
    if not isinstance(head, nn.Module) or not torch.allclose(head(module(images)), expected, rtol=1e-3, atol=1e-3):
        raise EvaluationError(f"the classifier of {name} is not one layer on its features", _HINT)
    return head.eval()


def load_checkpoint(module: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """Load a checkpoint of torchvision, DINO, t-ReX or timm into an encoder, strictly.

    Known wrappers ("state_dict", "teacher", ...) and prefixes ("module.", "backbone.", "encoder.", ...) are taken off.
    Every weight of the encoder must be there with its shape; what is left over must belong to a known kind of head.

    Args:
        module: the encoder; with its classifier where that is to be loaded too.
        path: `.safetensors`, or a file for `torch.load(weights_only=True)`.

    Returns:
        The weights of heads that were left out.

    Raises:
        EvaluationError: the file is missing, damaged, or does not fit.
    """
    state = _unwrap(_read(path), path)
    wanted = module.state_dict()
    fits = {p: sum(p + key in state for key in wanted) for p in _PREFIXES}
    prefix = max(_PREFIXES, key=lambda p: fits[p])
    weights = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    missing = [key for key in wanted if key not in weights]
    shapes = [key for key in wanted if key in weights and weights[key].shape != wanted[key].shape]
    others = {key: value for key, value in state.items() if not key.startswith(prefix)}
    left = {key: value for key, value in weights.items() if key not in wanted}
    unknown = [key for key in left if not key.startswith(_HEADS)]
    unknown += [key for key in others if not key.removeprefix("module.").startswith(_HEADS)]
    for fault, keys in (("lacks", missing), ("has another shape for", shapes), ("has the unknown", unknown)):
        if keys:
            raise EvaluationError(
                f"{path} does not fit the model: it {fault} {keys[0]}"
                + (f" and {len(keys) - 1} more" * (len(keys) > 1)),
                "give the timm name of the architecture that the checkpoint was trained with",
            )
    module.load_state_dict({key: weights[key] for key in wanted})
    return left | others


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise EvaluationError(
            f"there is no checkpoint {path}", "give the path of a .safetensors or .pth file"
        ) from None
    except pickle.UnpicklingError:  # torch's own message advises to load it all the same
        raise EvaluationError(
            f"{path} cannot be read as weights: it is damaged, or holds more than tensors, such as code",
            "only tensors are loaded: where you trust the file, save its state_dict as .safetensors",
        ) from None
    except Exception as error:  # unpicklers and parsers raise many kinds; each means the file is not usable
        raise EvaluationError(
            f"{path} cannot be read as weights: {one_line(error)}", "save it as .safetensors"
        ) from None


def _unwrap(state: Any, path: Path) -> dict[str, torch.Tensor]:
    for _ in range(3):
        wrappers = _WRAPPERS if isinstance(state, dict) else ()
        state = next((state[key] for key in wrappers if isinstance(state.get(key), dict)), state)
    tensors = state.items() if isinstance(state, dict) else ()
    weights = {key: value for key, value in tensors if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not weights:
        raise EvaluationError(
            f"{path} holds no weights by name, but a {type(state).__name__}",
            "save the state_dict of the model, best as .safetensors",
        )
    return weights
