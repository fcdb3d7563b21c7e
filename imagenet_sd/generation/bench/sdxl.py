"""Stable Diffusion XL as an architecture: random weights for timings without a download, and its exact cost.

Knows nothing of what its pictures show: with random weights they show noise, at the price of real ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from imagenet_sd.generation.bench.sd14 import TOKENS, count_tflop
from imagenet_sd.generation.models import EMBEDDED_FOLDER

IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
TIME_IDS = 6
"""Original size, crop and target size, two numbers each, which the UNet is told beside the pooled embedding."""
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SdxlShapes:
    """What differs from the defaults of diffusers and transformers, by module; see `FULL` and `TINY`."""

    unet: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    text_2: dict[str, Any] = field(default_factory=dict)


_UNET_BLOCKS: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
}
_VAE_BLOCKS: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "scaling_factor": 0.13025,
}
FULL = SdxlShapes(
    unet={
        **_UNET_BLOCKS,
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    vae={**_VAE_BLOCKS, "sample_size": 1024, "block_out_channels": (128, 256, 512, 512)},
    text={**IDS, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768},
    text_2={
        **IDS,
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "hidden_act": "gelu",
        "projection_dim": 1280,
    },
)
"""The published configurations of stabilityai/stable-diffusion-xl-base-1.0 (Podell et al., 2023)."""
_TINY_TEXT = {**IDS, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
TINY = SdxlShapes(
    unet={
        **_UNET_BLOCKS,
        "sample_size": 8,
        "block_out_channels": (32, 32, 64),
        "transformer_layers_per_block": (1, 1, 1),
        "attention_head_dim": (2, 2, 4),
        "cross_attention_dim": 64,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
        "norm_num_groups": 8,
    },
    vae={**_VAE_BLOCKS, "sample_size": 64, "block_out_channels": (16,) * 4, "norm_num_groups": 8},
    text={**_TINY_TEXT, "projection_dim": 32},
    text_2={**_TINY_TEXT, "hidden_act": "gelu", "projection_dim": 32},
)
"""The same kinds of blocks, a few channels wide: for a CPU."""


def sdxl_modules(dtype: torch.dtype, device: torch.device | str, shapes: SdxlShapes = FULL) -> dict[str, nn.Module]:
    """The modules with random weights, made on the device in the dtype; on "meta" without any weights.

    Returns:
        `unet`, `vae`, `text_encoder`, `text_encoder_2`.
    """
    with _default_dtype(dtype), torch.device(device):
        modules: dict[str, nn.Module] = {
            "unet": UNet2DConditionModel(**shapes.unet),
            "vae": AutoencoderKL(**shapes.vae),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**shapes.text)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**shapes.text_2)),
        }
    return {name: module.eval().requires_grad_(False) for name, module in modules.items()}


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New tensors have this dtype: 3.5 billion weights never exist in float32 and again in the dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def sdxl_pipeline(
    dtype: torch.dtype, device: torch.device, seed: int = 0, shapes: SdxlShapes = FULL
) -> StableDiffusionXLPipeline:
    """A Stable Diffusion XL pipeline with random weights.

    Both tokenizers are that of the embedded model: its ids are in the vocabulary, and every prompt has 77 tokens, so
    the work is the same as with the real ones.

    Args:
        dtype: of the weights.
        device: where they are made.
        seed: of the weights.
        shapes: of the modules.
    """
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer")
    parts: dict[str, Any] = {
        **sdxl_modules(dtype, device, shapes),
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
        "scheduler": EulerDiscreteScheduler(**SCHEDULER),
    }
    pipeline = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sdxl_tflop(width: int, height: int, shapes: SdxlShapes = FULL) -> dict[str, float]:
    """Floating-point operations of one forward pass of each module for one image, in 10**12; an addition counts as one.

    Counted by PyTorch on tensors without data.

    Args:
        width: pixels, a multiple of 8.
        height: likewise.
        shapes: of the modules.

    Returns:
        `unet` (one of the two passes of a guided step), `vae` (decoding), `text` (one prompt, both encoders).
    """
    modules: dict[str, Any] = sdxl_modules(torch.float32, "meta", shapes)
    with torch.device("meta"):
        latents = torch.empty(1, 4, height // 8, width // 8)
        context = torch.empty(1, TOKENS, shapes.unet["cross_attention_dim"])
        timestep, tokens = torch.zeros((), dtype=torch.long), torch.zeros(1, TOKENS, dtype=torch.long)
        added = {
            "text_embeds": torch.empty(1, shapes.text_2["projection_dim"]),
            "time_ids": torch.empty(1, TIME_IDS),
        }
    return count_tflop(
        unet=lambda: modules["unet"](latents, timestep, encoder_hidden_states=context, added_cond_kwargs=added),
        vae=lambda: modules["vae"].decode(latents),
        text=lambda: (modules["text_encoder"](tokens), modules["text_encoder_2"](tokens)),
    )


def sdxl_tflop_per_image(
    width: int, height: int, num_inference_steps: int, guidance_scale: float, shapes: SdxlShapes = FULL
) -> float:
    """Floating-point operations of one image, in 10**12. The empty prompt costs none: its embedding is zeros."""
    cost = sdxl_tflop(width, height, shapes)
    passes = num_inference_steps * (2 if guidance_scale > 1 else 1)
    return passes * cost["unet"] + cost["vae"] + cost["text"]
