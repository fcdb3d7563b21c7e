"""Fusing a LoRA into the weights of a pipeline, with nothing of its file ignored in silence."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from imagenet_sd.core.errors import ModelError, one_line

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_HARMLESS = "No LoRA keys associated to"  # a part of the pipeline that the file does not change


def fuse_lora(pipeline: Any, path: Path, weight: float) -> None:
    """Add weight * alpha / rank * B A (Hu et al., "LoRA", 2021) to the weights that the file names, in place.

    Args:
        pipeline: on the CPU, so that the sum is the same whatever the device.
        path: a safetensors file in any layout that the pipeline's class reads.
        weight: the scale.

    Raises:
        ModelError: the file is damaged, was made for another model, or holds weights that the pipeline has no place
            for.
    """
    if not hasattr(pipeline, "load_lora_weights"):
        raise ModelError(f"{type(pipeline).__name__} takes no LoRA", "leave out --lora, or use another model")
    try:
        with safe_open(path, framework="pt"):
            pass
    except Exception as error:
        raise ModelError(f"the LoRA {path} is damaged: {one_line(error)}", "download or copy it again") from None
    try:
        with _warnings() as warnings:
            options = {"weight_name": path.name, "use_safetensors": True, "local_files_only": True}
            given = _lora_tensors(pipeline, str(path.parent), options)
            pipeline.load_lora_weights(str(path.parent), **options)
            loaded = _loaded_tensors(pipeline)
            warnings[:] = [text for text in warnings if not text.startswith(_HARMLESS)]
            if not warnings and loaded == given:
                # By default FLUX and others fuse the transformer alone, and unloading drops what is not fused.
                parts = pipeline._lora_loadable_modules
                pipeline.fuse_lora(components=parts, lora_scale=weight, safe_fusing=True)
                pipeline.unload_lora_weights()
    except Exception as error:  # diffusers, peft and safetensors raise many kinds; each means that it does not fit
        raise _misfit(pipeline, path, one_line(error)) from None
    if warnings:
        raise _misfit(pipeline, path, one_line(ValueError(warnings[0])))
    if loaded != given:
        fault = f"{given - loaded} of its {given} tensors have no place in the model"
        raise _misfit(pipeline, path, fault if loaded < given else f"it lacks {loaded - given} tensors")


def _misfit(pipeline: Any, path: Path, fault: str) -> ModelError:
    return ModelError(
        f"the LoRA {path.name} does not fit this {type(pipeline).__name__}: {fault}",
        "give one that was trained for this model; no part of it is left out silently",
    )


def _lora_tensors(pipeline: Any, folder: str, options: dict[str, Any]) -> int:
    """Number of LoRA matrices and biases in a file, as the pipeline's class reads it."""
    unet = {"unet_config": pipeline.unet.config} if hasattr(pipeline, "unet") else {}
    state_dict = pipeline.lora_state_dict(folder, **options, **unet)
    tensors = state_dict[0] if isinstance(state_dict, tuple) else state_dict
    return sum(not key.endswith(("alpha", "lora_scale")) for key in tensors)


def _loaded_tensors(pipeline: Any) -> int:
    """Number of those that the modules of a pipeline hold."""
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    names = [name for module in modules for name, _ in module.named_parameters()]
    return sum(".lora_" in name or ".lokr_" in name for name in names)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collects what diffusers and transformers would print from the level of a warning on."""
    texts: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(_COLOUR.sub("", record.getMessage()))

    loggers, collect = [logging.getLogger(name) for name in ("diffusers", "transformers")], Collect(logging.WARNING)
    before = [logger.handlers[:] for logger in loggers]
    for logger in loggers:
        logger.handlers[:] = [collect]
    try:
        yield texts
    finally:
        for logger, handlers in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers
