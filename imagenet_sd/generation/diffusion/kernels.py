"""What changes rounding only: attention kernels, memory layout and compilation of a pipeline's modules."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, XFormersAttnProcessor
from torch._inductor import config as inductor_config

from imagenet_sd.core.errors import ModelError, one_line
from imagenet_sd.generation.diffusion.options import SamplingOptions, leave_out


def set_kernels(pipeline: Any, denoiser: str, options: SamplingOptions, *, regional: bool) -> None:
    """Set attention kernels and memory layout, and arrange for compilation at the first call, all in place.

    Modules on a GPU, and those to be compiled, get the channels-last layout; on a CPU they are otherwise left alone.

    Args:
        pipeline: of any class.
        denoiser: name of the part that runs at every step.
        options: the options.
        regional: whether to compile the denoiser by its repeated blocks, where it declares them: one of them is
            compiled and serves all, in seconds instead of minutes. Before that, the projections of queries, keys and
            values become one product, unless they are quantized.

    Raises:
        ModelError: xformers cannot run here, or the denoiser is no UNet.
    """
    module = getattr(pipeline, denoiser)
    if options.attention == "xformers":
        if not isinstance(module, UNet2DConditionModel):
            raise ModelError(
                f"--attention xformers is for UNets, and {type(pipeline).__name__} has a {type(module).__name__}",
                leave_out("--attention xformers"),
            )
        require_xformers(module, pipeline._execution_device)
        module.set_attn_processor(XFormersAttnProcessor())
    if options.compile or module.device.type == "cuda":
        use_channels_last(pipeline, denoiser)
    if not options.compile:
        return
    if hasattr(inductor_config, "deterministic"):
        inductor_config.deterministic = True  # else kernels are chosen by timing, and round differently by chance
    fusable = options.attention == "sdpa" and options.quantize == "none"
    if regional and fusable and hasattr(module, "fuse_qkv_projections"):
        module.fuse_qkv_projections()
    if regional and getattr(module, "_repeated_blocks", None):
        module.compile_repeated_blocks(dynamic=False)
    else:
        # Static shapes: with a guidance interval there are two batch sizes, and a graph for each beats one for all.
        module.compile(dynamic=False)
    if hasattr(pipeline, "vae"):
        pipeline.vae.decoder.compile(dynamic=False)


def use_channels_last(pipeline: Any, denoiser: str) -> None:
    """Lay the weights of the denoiser and the image decoder out as their convolutions on a GPU like them best.

    A part with convolutions over time as well, such as the decoder of QwenImage, stays as it is: it has no such layout.
    """
    for part in (denoiser, "vae"):
        module = getattr(pipeline, part, None)
        if module is not None and all(weight.dim() < 5 for weight in module.parameters()):
            module.to(memory_format=torch.channels_last)


def require_xformers(unet: UNet2DConditionModel, device: torch.device) -> None:
    """Run xformers once with the device, the dtype and every head width of this UNet.

    Raises:
        ModelError: it is not installed, or has no kernel for them.
    """
    hint = leave_out("--attention xformers")
    try:
        from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "xformers"
        fault = "is not installed" if missing else f"cannot be imported: {one_line(error)}"
        raise ModelError(f"xformers {fault}", f'`pip install "imagenet-sd[xformers]"`, or {hint}') from None
    widths = {module.inner_dim // module.heads for module in unet.modules() if isinstance(module, Attention)}
    for width in sorted(widths):
        query = torch.zeros(2, 64, width, device=device, dtype=unet.dtype)
        try:
            with torch.inference_mode():
                memory_efficient_attention(query, query, query)
        except Exception as error:  # NotImplementedError where there is no kernel, and whatever a broken build raises
            raise ModelError(
                f"xformers has no attention that runs with {unet.dtype} and head width {width} on {device.type}: "
                f"{one_line(error)}",
                hint,
            ) from None


@torch.inference_mode()
def compile_now(
    pipeline: StableDiffusionPipeline, latents: torch.Tensor, prompt_embed: torch.Tensor, batch_sizes: Sequence[int]
) -> None:
    """Compile before the first image, so that what cannot be compiled fails then.

    Args:
        pipeline: one that `set_kernels` arranged for compilation.
        latents: [batch, channels, height, width] for the decoder, in the dtype and layout of the denoising loop.
        prompt_embed: [tokens, width]: the embedding of a prompt.
        batch_sizes: those that the UNet will meet.

    Raises:
        ModelError: there is no working compiler.
        torch.OutOfMemoryError: the batch does not fit.
    """
    with compiling():
        for size in batch_sizes:
            latent_model_input = latents[:1].expand(size, -1, -1, -1).contiguous()
            timestep = torch.zeros((), dtype=torch.int64, device=latents.device)
            prompt_embeds = prompt_embed.expand(size, -1, -1).contiguous()
            pipeline.unet(latent_model_input, timestep, encoder_hidden_states=prompt_embeds, return_dict=False)
        pipeline.vae.decode(latents, return_dict=False)


@contextmanager
def compiling() -> Iterator[None]:
    """The first calls of compiled modules: what fails in this block, but for memory and known faults, is compilation.

    Raises:
        ModelError: there is no working compiler, or one from the block.
        torch.OutOfMemoryError: from the block.
    """
    try:
        yield
    except (torch.OutOfMemoryError, ModelError):
        raise
    except Exception as error:  # compilers fail in many ways; each means that --compile does not work here
        raise ModelError(f"the model cannot be compiled here: {one_line(error)}", leave_out("--compile")) from None
