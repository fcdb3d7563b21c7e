"""FLUX.1 dev, whose guidance scale is an input of the transformer, and schnell, which has none."""

from dataclasses import replace
from pathlib import PurePath

from imagenet_sd.generation.kinds.base import Configs, PipelineKind


def _narrow(kind: PipelineKind, configs: Configs, name: str) -> PipelineKind:
    if configs("transformer").get("guidance_embeds", "schnell" not in PurePath(name).name.lower()):
        return kind
    kind = kind.without_guidance(steps=4)
    return replace(
        kind, tokenizers={**kind.tokenizers, "tokenizer_2": 256}, call={**kind.call, "max_sequence_length": 256}
    )


KINDS = (
    PipelineKind(
        pipeline="FluxPipeline",
        steps=28,
        guidance_scale=3.5,
        size_multiple=16,  # else diffusers rounds down
        guidance="distilled",
        negative_prompt=False,
        embeds=("prompt_embeds", "pooled_prompt_embeds"),
        tokenizers={"tokenizer": 77, "tokenizer_2": 512},
        narrow=_narrow,
    ),
)
