"""The settings of a training run that the rows of the papers' tables differ in, for studies and the report."""

import math
from collections.abc import Mapping
from typing import Any

TRAINING_FACTS = (
    "model.backbone", "model.projector_layers", "model.projector_hidden", "model.projector_bottleneck",
    "objective.loss", "objective.memory_size", "crops.local_crops_number", "crops.global_crops_scale",
    "crops.local_crops_scale", "optimizer.epochs",
)  # fmt: skip
"""Paths in `TrainConfig`."""


def training_facts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The `TRAINING_FACTS` of nested settings, without those that are absent."""
    facts: dict[str, Any] = {}
    for key in TRAINING_FACTS:
        section, _, name = key.partition(".")
        inner = settings.get(section)
        if isinstance(inner, Mapping) and name in inner:
            facts[key] = list(inner[name]) if isinstance(inner[name], tuple) else inner[name]
    return known_facts(facts)


def known_facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of values by path those of `TRAINING_FACTS` that are names, numbers or short lists of numbers."""
    return {key: values[key] for key in TRAINING_FACTS if _is_plain(values.get(key))}


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return value.isprintable() and len(value) <= 100
    return _is_number(value) or (isinstance(value, list) and len(value) <= 4 and all(map(_is_number, value)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
