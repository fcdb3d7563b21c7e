"""Loading a pipeline onto this process's device."""

import ctypes
import inspect
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline

from imagenet_sd.core.errors import DeviceError, ModelError, one_line
from imagenet_sd.core.machine import fast_bfloat16
from imagenet_sd.generation.diffusion.kernels import use_channels_last
from imagenet_sd.generation.diffusion.lora import fuse_lora
from imagenet_sd.generation.diffusion.options import Offload, Quantize
from imagenet_sd.generation.diffusion.quantization import quantize_linear_layers
from imagenet_sd.generation.kinds import STABLE_DIFFUSION
from imagenet_sd.generation.kinds.base import PipelineKind


def pick_device() -> torch.device:
    """The accelerator of this process (through `accelerate`, so a launcher's local rank counts), else the CPU.

    Raises:
        DeviceError: $CUDA_VISIBLE_DEVICES names a GPU, and none is usable: on a CPU a shard would take days, and its
            images would have other bits than those of the other workers.
    """
    from accelerate import PartialState

    device = PartialState().device or torch.device("cpu")
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    chosen = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "y", "on", "t")
    if device.type == "cpu" and torch.version.cuda and named not in ("", "-1", "NoDevFiles") and not chosen:
        raise DeviceError(
            f"CUDA_VISIBLE_DEVICES is {named}, and no GPU can be used",
            "look at nvidia-smi; to work on the CPU, set CUDA_VISIBLE_DEVICES to nothing",
        )
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The compute dtype: for "auto" bfloat16 on a GPU that has it, else float16; float32 on a CPU."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if fast_bfloat16(device) else torch.float16
    return torch.float32


def set_up_cpu_worker() -> None:
    """Let this process use one CPU thread, so that bits do not depend on the number of cores, and keep freed memory."""
    torch.set_num_threads(1)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let the C library keep up to 1 GiB that this process frees, instead of returning it after every large tensor.

    A denoising step on a CPU frees and allocates the same memory again and again; with glibc's defaults the kernel
    clears those pages each time, a seventh of the time of the small embedded model. No bit depends on it. Other C
    libraries are left as they are.
    """
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h; glibc takes no more than 32 MiB for the second
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 1 << 30)


def load_pipeline(
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    kind: PipelineKind = STABLE_DIFFUSION,
    *,
    lora: tuple[Path, float] | None = None,
    quantize: Quantize = "none",
    offload: Offload = "none",
) -> Any:
    """Load a pipeline from a local folder: safetensors only, without its safety checker.

    A LoRA is fused and weights are quantized on the CPU, so that neither depends on the device.

    Args:
        folder: in the layout of diffusers.
        dtype: of the weights.
        device: where it is to run.
        kind: what is known of its class.
        lora: (safetensors file, weight) of a LoRA.
        quantize: see `quantize_linear_layers`.
        offload: where weights rest while they are not used; the images are the same.

    Returns:
        An instance of the class that `kind` names.

    Raises:
        ModelError: the folder is damaged or of another kind, the LoRA does not fit, or weights cannot be quantized.
    """
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    pipeline_class: type[DiffusionPipeline] = getattr(diffusers, kind.pipeline)
    takes = inspect.signature(pipeline_class.__init__).parameters
    unchecked = {"safety_checker": None, "requires_safety_checker": False}
    try:
        pipeline = pipeline_class.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            **{name: value for name, value in unchecked.items() if name in takes},
            **kind.load,
        )
    except Exception as error:  # loaders raise many kinds on damaged files; each means the model is unusable
        raise ModelError(
            f"{folder} cannot be loaded as a {kind.pipeline}: {one_line(error)}",
            "download or copy the model again",
        ) from None
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        fuse_lora(pipeline, *lora)
    denoiser = kind.denoiser_in(pipeline.components)
    quantize_linear_layers(getattr(pipeline, denoiser), quantize, device)
    if offload == "none":
        return pipeline.to(device)
    if device.type == "cuda":  # now: later the layers are not where their layout could be changed
        use_channels_last(pipeline, denoiser)
    enable = pipeline.enable_model_cpu_offload if offload == "model" else pipeline.enable_sequential_cpu_offload
    enable(device=device)
    return pipeline
