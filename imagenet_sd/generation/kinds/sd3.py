"""Stable Diffusion 3 and 3.5 (Esser et al., 2024). The turbo weights differ from the others in their name alone."""

from pathlib import PurePath

from imagenet_sd.generation.kinds.base import Configs, PipelineKind


def _narrow(kind: PipelineKind, configs: Configs, name: str) -> PipelineKind:
    return kind.without_guidance(steps=4) if "turbo" in PurePath(name).name.lower() else kind


KINDS = (
    PipelineKind(
        pipeline="StableDiffusion3Pipeline",
        steps=28,
        guidance_scale=7.0,
        size_multiple=16,
        embeds=("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
        tokenizers={"tokenizer": 77, "tokenizer_2": 77, "tokenizer_3": 256},
        narrow=_narrow,
    ),
)
