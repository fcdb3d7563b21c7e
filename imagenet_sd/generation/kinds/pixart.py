"""PixArt-alpha and PixArt-sigma (Chen et al., 2023 and 2024): T5 prompts and one transformer."""

from imagenet_sd.generation.kinds.base import PipelineKind


def _pixart(pipeline: str, max_tokens: int) -> PipelineKind:
    return PipelineKind(
        pipeline=pipeline,
        steps=20,
        guidance_scale=4.5,
        size_multiple=16,
        lora=False,
        embeds=(
            "prompt_embeds",
            "prompt_attention_mask",
            "negative_prompt_embeds",
            "negative_prompt_attention_mask",
        ),
        tokenizers={"tokenizer": max_tokens},
        # Captions as they are (cleaning takes punctuation out and needs further packages), images of the size asked for
        call={"clean_caption": False, "use_resolution_binning": False},
    )


KINDS = (_pixart("PixArtAlphaPipeline", 120), _pixart("PixArtSigmaPipeline", 300))
