"""A training configuration from the plain values that a run folder keeps."""

import dataclasses
import typing
from typing import Any

from imagenet_sd.training.config import TrainConfig


def train_config(values: dict[str, Any]) -> TrainConfig:
    """The inverse of `config.resolved`; unknown keys are a TypeError."""
    return _build(TrainConfig, values)


def _build(kind: Any, values: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    made = {}
    for key, value in values.items():
        hint = hints.get(key)
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            value = _build(hint, value)
        made[key] = tuple(value) if isinstance(value, list) else value
    return kind(**made)
