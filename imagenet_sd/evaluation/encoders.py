"""Frozen encoders; those of timm are opened here, with their own weights or a checkpoint mapped key by key."""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from imagenet_sd.core.errors import one_line
from imagenet_sd.core.specs import ENCODER_SPECS, EncoderSpec
from imagenet_sd.data.preprocess import MEAN, STD
from imagenet_sd.evaluation.config import EvaluationError

# Weights of heads that are not part of an encoder; whatever else is left over in a checkpoint is an error.
_HEADS = ("fc.", "head.", "classifier.", "projector.", "projection_head.", "prototypes.", "predictor.", "last_layer.")
_WRAPPERS = ("state_dict", "model", "teacher", "student")
_PREFIXES = ("", "module.", "backbone.", "module.backbone.", "encoder.", "module.encoder.", "encoder_q.")


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
        mean: channel means that are subtracted.
        std: standard deviations that are divided by.
    """

    name: str
    module: nn.Module
    fingerprint: str
    head: nn.Module | None = None
    classes: tuple[str, ...] = ()
    crop_size: int = 0
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD


def weights_hash(module: nn.Module) -> str:
    """Hash over names, shapes, dtypes and values of a module's state, hexadecimal."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def timm_encoder(spec: EncoderSpec, own_preprocessing: bool = False) -> Encoder:
    """Open a timm model; an untrained one is made with seed 0.

    Args:
        spec: the encoder, with a `model`.
        own_preprocessing: take crop size, mean and deviation from the model's own configuration.

    Raises:
        EvaluationError: no such model or file, no network for timm's weights, or keys that do not match.
    """
    import timm
    from timm.data import resolve_data_config

    if spec.random:
        torch.manual_seed(0)
    try:
        module = timm.create_model(spec.model, pretrained=not (spec.path or spec.random), num_classes=0)
    except Exception as error:  # timm and the hub client raise many kinds; each means there is no such model here
        reason = " ".join(str(error).split())[:200]
        raise EvaluationError(
            f"{spec} cannot be loaded: {reason}", f"check the name and the network; an encoder is {ENCODER_SPECS}"
        ) from None
    if spec.path:
        load_checkpoint(module, Path(spec.path))
    own: dict[str, Any] = resolve_data_config(model=module) if own_preprocessing else {}
    return Encoder(
        name=str(spec),
        module=module.eval(),
        fingerprint=weights_hash(module),
        crop_size=own["input_size"][-1] if own else 0,
        mean=tuple(own.get("mean", MEAN)),
        std=tuple(own.get("std", STD)),
    )


def load_checkpoint(module: nn.Module, path: Path) -> list[str]:
    """Load a checkpoint of torchvision, DINO, t-ReX or timm into an encoder, strictly.

    Known wrappers ("state_dict", "teacher", ...) and prefixes ("module.", "backbone.", "encoder.", ...) are taken off.
    Every weight of the encoder must be there with its shape; what is left over must belong to a known kind of head.

    Args:
        module: the encoder, without a classifier.
        path: `.safetensors`, or a file for `torch.load(weights_only=True)`.

    Returns:
        The keys of heads that were left out.

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
    others = [key for key in state if not key.startswith(prefix)]
    left = [key for key in weights if key not in wanted]
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
    return left + others


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
