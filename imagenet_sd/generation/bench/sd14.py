"""Stable Diffusion 1.4 as an architecture: random weights for timings without a download, and its exact cost.

Knows nothing of what its pictures show: with random weights they show noise, at the price of real ones.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from imagenet_sd.generation.models import EMBEDDED_FOLDER

TOKENS = 77
# Where it differs from the defaults of diffusers and transformers, which are of the same architecture.
UNET: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
VAE: dict[str, Any] = {
    "sample_size": 512,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def sd14_modules(device: torch.device | str) -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    """UNet, autoencoder and text encoder in float32 with random weights, made on the device ("meta": without any)."""
    with torch.device(device):
        modules = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE), CLIPTextModel(CLIPTextConfig(**TEXT))
    for module in modules:
        module.eval().requires_grad_(False)
    return modules


def sd14_pipeline(dtype: torch.dtype, device: torch.device, seed: int = 0) -> StableDiffusionPipeline:
    """A Stable Diffusion pipeline with random weights.

    The tokenizer is that of the embedded model: its ids are in the vocabulary, and every prompt has 77 tokens, so the
    work is the same as with the real one.

    Args:
        dtype: of the weights.
        device: where they are made.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    unet, vae, text_encoder = sd14_modules(device)
    parts: dict[str, Any] = {
        "unet": unet,
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer"),
        "scheduler": PNDMScheduler(**SCHEDULER),
        "safety_checker": None,
        "feature_extractor": None,  # of the safety checker
    }
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False).to(dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@cache
def sd14_tflop(width: int, height: int) -> dict[str, float]:
    """Floating-point operations of one forward pass of each module for one image, in 10**12; an addition counts as one.

    Counted by PyTorch on tensors without data.

    Args:
        width: pixels, a multiple of 8.
        height: likewise.

    Returns:
        `unet` (one of the two passes of a guided step), `vae` (decoding), `text` (one prompt).
    """
    unet, vae, text_encoder = sd14_modules("meta")
    with torch.device("meta"):
        latents, context = torch.empty(1, 4, height // 8, width // 8), torch.empty(1, TOKENS, TEXT["hidden_size"])
        timestep, tokens = torch.zeros((), dtype=torch.long), torch.zeros(1, TOKENS, dtype=torch.long)
    return count_tflop(
        unet=lambda: unet(latents, timestep, encoder_hidden_states=context),
        vae=lambda: vae.decode(latents),  # pyright: ignore[reportArgumentType]
        text=lambda: text_encoder(tokens),
    )


def count_tflop(**passes: Callable[[], object]) -> dict[str, float]:
    """Floating-point operations of each pass by name, in 10**12, counted by PyTorch."""
    tflop = {}
    for name, run in passes.items():
        with FlopCounterMode(display=False) as counter:
            run()
        tflop[name] = counter.get_total_flops() / 1e12
    return tflop


def tflop_per_image(width: int, height: int, num_inference_steps: int, guidance_scale: float) -> float:
    """Floating-point operations of one image, in 10**12: PNDM calls the UNet once more than it has steps."""
    scheduler = PNDMScheduler(**SCHEDULER)
    scheduler.set_timesteps(num_inference_steps)
    assert scheduler.timesteps is not None
    cost = sd14_tflop(width, height)
    passes = len(scheduler.timesteps) * (2 if guidance_scale > 1 else 1)
    return passes * cost["unet"] + cost["vae"] + cost["text"]
