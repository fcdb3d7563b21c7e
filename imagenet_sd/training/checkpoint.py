"""Checkpoints: one safetensors file with every tensor of a run and its counters, published atomically."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from imagenet_sd.core.errors import one_line
from imagenet_sd.core.files import atomic_write
from imagenet_sd.training.config import TrainingError

COUNTERS = ("epoch", "step", "bad_images")
"""What a checkpoint counts, each from 0."""


def save_checkpoint(
    path: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    counters: dict[str, Any],
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Save the states of the modules, the momenta of the optimiser (SGD), numbered in order, and JSON counters.

    Beside the `COUNTERS` there may be `bad_ids`, ids of unreadable images, and `sums`, numbers by name. The state of
    the scaler of float16 gradients is kept with them.
    """
    if scaler is not None:
        counters = counters | {"scaler": scaler.state_dict()}
    tensors = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        if state.get("momentum_buffer") is not None:
            tensors[f"momentum/{number}"] = state["momentum_buffer"]
    _publish(path, tensors, {"counters": json.dumps(counters)})


def load_checkpoint(
    path: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Any]:
    """Put a checkpoint back, strictly; returns its counters, with `bad_ids` and `sums` empty where it has none.

    Raises:
        TrainingError: the file is damaged or belongs to another model.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {_new_name(key): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            counters = {"bad_ids": [], "sums": {}} | json.loads((file.metadata() or {})["counters"])
        whole = all(isinstance(counters[name], int) and counters[name] >= 0 for name in COUNTERS)
        whole = whole and all(isinstance(image, str) for image in counters["bad_ids"])
        if not whole or not all(isinstance(number, int | float) for number in dict(counters["sums"]).values()):
            raise ValueError(f"its counters are {counters!r}")
        for name, module in modules.items():
            prefix = f"{name}/"
            module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        state = optimizer.state_dict()
        moved = {k.split("/")[1]: v for k, v in tensors.items() if k.startswith("momentum/")}
        momenta = {int(number): {"momentum_buffer": value} for number, value in moved.items()}
        optimizer.load_state_dict({"state": momenta, "param_groups": state["param_groups"]})
        if scaler is not None and "scaler" in counters:  # earlier checkpoints have none
            scaler.load_state_dict(counters["scaler"])
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path} cannot be resumed from: {one_line(error)}", "delete it to start the run from scratch"
        ) from None
    return counters


def _new_name(key: str) -> str:
    """The name of a tensor today; version 0.1.0 called two modules otherwise."""
    module, _, rest = key.partition("/")
    return {"ocm": "objective", "averaged": "ema_model"}.get(module, module) + "/" + rest


def save_weights(path: Path, module: nn.Module) -> None:
    """The weights of a module alone, float32 on the CPU, as safetensors."""
    _publish(path, module.state_dict())


def head_file(classifies: bool) -> str:
    """The file in a run folder that holds the weights of its head."""
    return "classifier.safetensors" if classifies else "head.safetensors"


def _publish(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    atomic_write(path, lambda temporary: save_file(tensors, temporary, metadata))
