"""Stable Diffusion 1 and 2 and SD-Turbo: the kind that has a denoising loop of its own (`ImageGenerator`)."""

from imagenet_sd.generation.kinds.base import Configs, PipelineKind, distilled_euler


def _narrow(kind: PipelineKind, configs: Configs, name: str) -> PipelineKind:
    return kind.without_guidance(steps=1) if distilled_euler(configs) else kind


KINDS = (
    PipelineKind(
        pipeline="StableDiffusionPipeline",
        steps=50,
        guidance_scale=7.5,
        size=(512, 384),  # the aspect ratio of ImageNet-SD, thesis 5.5
        fixed_size=True,
        denoiser="unet",
        tokenizers={"tokenizer": 77},
        narrow=_narrow,
    ),
)
