"""Latent Consistency Models (Luo et al., 2023): Stable Diffusion distilled, the guidance scale an input of the UNet."""

from imagenet_sd.generation.kinds.base import PipelineKind

KINDS = (
    PipelineKind(
        pipeline="LatentConsistencyModelPipeline",
        steps=4,
        guidance_scale=8.5,
        size=(512, 512),
        guidance="distilled",
        negative_prompt=False,
        denoiser="unet",
        embeds=("prompt_embeds",),
        tokenizers={"tokenizer": 77},
    ),
)
