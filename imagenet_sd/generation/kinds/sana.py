"""SANA (Xie et al., 2024): a linear transformer on the latents of an autoencoder of factor 32."""

from imagenet_sd.generation.kinds.base import PipelineKind

KINDS = (
    PipelineKind(
        pipeline="SanaPipeline",
        steps=20,
        guidance_scale=4.5,
        size_multiple=32,
        embeds=(
            "prompt_embeds",
            "prompt_attention_mask",
            "negative_prompt_embeds",
            "negative_prompt_attention_mask",
        ),
        tokenizers={"tokenizer": 300},
        call={"use_resolution_binning": False},  # images have the size that was asked for
    ),
)
