"""Stable Diffusion XL and SDXL-Turbo (Podell et al., 2023; Sauer et al., 2023)."""

from imagenet_sd.generation.kinds.base import PipelineKind, narrow_turbo

KINDS = (
    PipelineKind(
        pipeline="StableDiffusionXLPipeline",
        steps=50,
        guidance_scale=5.0,
        denoiser="unet",
        embeds=("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
        tokenizers={"tokenizer": 77, "tokenizer_2": 77},
        load={"add_watermarker": False},
        narrow=narrow_turbo,
    ),
)
