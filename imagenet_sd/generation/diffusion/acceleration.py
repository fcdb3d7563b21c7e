"""The levers put to work on a pipeline's modules: scheduler, attention kernels, memory layout, compilation."""

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, XFormersAttnProcessor

from imagenet_sd.core.errors import ModelError
from imagenet_sd.generation.diffusion.options import SCHEDULERS, Levers

_OTHERWISE = "leave out {} (the plan records it, so in a new folder)"


def keep_freed_memory() -> None:
    """Let the C library keep up to 1 GiB that this process frees, instead of handing it back after every large tensor.

    A denoising step on a CPU frees and asks for the same memory again and again; with glibc's defaults the kernel
    clears those pages anew each time, a seventh of the time of the small embedded model. No bit depends on it. Other
    C libraries are left as they are.
    """
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h; glibc takes no more than 32 MiB for the second
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 1 << 30)


def make_scheduler(pipeline: StableDiffusionPipeline, name: str) -> Any:
    """The scheduler of that name with the settings of the pipeline's own, which "" stands for."""
    if not name:
        return pipeline.scheduler
    return getattr(diffusers, SCHEDULERS[name]).from_config(pipeline.scheduler.config)


def prepare(pipeline: StableDiffusionPipeline, levers: Levers) -> None:
    """Set attention kernels and memory layout, and arrange for compilation at the first call, all in place.

    Modules on a GPU, and those to be compiled, get the channels-last layout; on a CPU they are otherwise left alone.

    Raises:
        ModelError: xformers cannot run here.
    """
    unet, vae = pipeline.unet, pipeline.vae
    if levers.attention == "xformers":
        probe_xformers(unet)
        unet.set_attn_processor(XFormersAttnProcessor())
    if levers.compile or unet.device.type == "cuda":
        unet.to(memory_format=torch.channels_last)
        vae.to(memory_format=torch.channels_last)
    if levers.compile:
        # Static shapes: with a guidance interval there are two batch sizes, and a graph for each beats one for all.
        unet.compile(dynamic=False)
        vae.decoder.compile(dynamic=False)


def probe_xformers(unet: UNet2DConditionModel) -> None:
    """Run xformers once with the device, the dtype and every head width of this UNet.

    Raises:
        ModelError: it is not installed, or has no kernel for them.
    """
    hint = _OTHERWISE.format("--attention xformers")
    try:
        from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "xformers"
        fault = "is not installed" if missing else f"cannot be imported: {line(error)}"
        raise ModelError(f"xformers {fault}", f'`pip install "imagenet-sd[xformers]"`, or {hint}') from None
    widths = {module.inner_dim // module.heads for module in unet.modules() if isinstance(module, Attention)}
    for width in sorted(widths):
        query = torch.zeros(2, 64, width, device=unet.device, dtype=unet.dtype)
        try:
            with torch.inference_mode():
                memory_efficient_attention(query, query, query)
        except Exception as error:  # NotImplementedError for want of a kernel, and whatever a broken build raises
            raise ModelError(
                f"xformers has no attention that runs with {unet.dtype} and head width {width} on {unet.device.type}: "
                f"{line(error)}",
                hint,
            ) from None


@torch.inference_mode()
def warm_up(
    pipeline: StableDiffusionPipeline, latents: torch.Tensor, tokens: torch.Tensor, rows: Sequence[int]
) -> None:
    """Compile now, so that what cannot be compiled fails before the first image.

    Args:
        pipeline: one that `prepare` arranged for compilation.
        latents: [batch, channels, height, width] for the decoder, in the dtype and layout of the denoising loop.
        tokens: [tokens, width]: a prompt's embedding.
        rows: the batch sizes that the UNet will see.

    Raises:
        ModelError: there is no working compiler.
        torch.OutOfMemoryError: the batch does not fit.
    """
    try:
        for count in rows:
            shown = latents[:1].expand(count, -1, -1, -1).contiguous()
            time = torch.zeros((), dtype=torch.int64, device=latents.device)
            context = tokens.expand(count, -1, -1).contiguous()
            pipeline.unet(shown, time, encoder_hidden_states=context, return_dict=False)
        pipeline.vae.decode(latents, return_dict=False)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers fail in many ways; each means that --compile cannot be had here
        raise ModelError(f"the model cannot be compiled here: {line(error)}", _OTHERWISE.format("--compile")) from None


def line(error: BaseException) -> str:
    """The text of an error in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]
