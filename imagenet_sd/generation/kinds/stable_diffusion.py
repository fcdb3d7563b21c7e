"""Stable Diffusion 1 and 2 and SD-Turbo: the kind that has a denoising loop of its own (`ImageGenerator`)."""

from imagenet_sd.generation.kinds.base import PipelineKind, narrow_turbo

KINDS = (
    PipelineKind(
        pipeline="StableDiffusionPipeline",
        steps=50,
        guidance_scale=7.5,
        size=(512, 384),  # the aspect ratio of ImageNet-SD, thesis 5.5
        fixed_size=True,
        denoiser="unet",
        tokenizers={"tokenizer": 77},
        narrow=narrow_turbo,
    ),
)
