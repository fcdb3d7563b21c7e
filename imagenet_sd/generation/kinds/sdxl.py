"""Stable Diffusion XL and SDXL-Turbo (Podell et al., 2023; Sauer et al., 2023)."""

from dataclasses import replace

from imagenet_sd.generation.kinds.base import Configs, PipelineKind, distilled_euler


def _narrow(kind: PipelineKind, configs: Configs, name: str) -> PipelineKind:
    return replace(kind.without_guidance(steps=1), size=(512, 512)) if distilled_euler(configs) else kind


KINDS = (
    PipelineKind(
        pipeline="StableDiffusionXLPipeline",
        steps=50,
        guidance_scale=5.0,
        denoiser="unet",
        embeds=("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
        tokenizers={"tokenizer": 77, "tokenizer_2": 77},
        load={"add_watermarker": False},
        narrow=_narrow,
    ),
)
