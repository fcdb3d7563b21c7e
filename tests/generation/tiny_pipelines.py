"""Tiny text-to-image pipelines with random weights, one of each kind, in the layout of the published models.

Each is built from the classes' own configurations, so that `model_index.json`, subfolders, safetensors and tokenizers
are those that diffusers and transformers write; the schedulers' settings are the published ones. A folder takes less
than 2 MB, two denoising steps of a 64x64 image a tenth of a second on one CPU thread. FLUX has no default size of its
own, the default of pixart-alpha stays 1024 (its conditioning on size depends on it), and SANA and PixArt want
`use_resolution_binning=False`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from string import ascii_letters, digits, punctuation
from typing import Any

import diffusers as typed_diffusers
import torch
import transformers as typed_transformers
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from tokenizers.processors import TemplateProcessing

from imagenet_sd.generation.models import EMBEDDED_FOLDER

# As Any: the libraries annotate the settings of their classes more narrowly than they use them.
diffusers: Any = typed_diffusers
transformers: Any = typed_transformers

CLIP_WIDTH, SECOND_CLIP_WIDTH, T5_WIDTH, GEMMA_WIDTH = 16, 24, 32, 32
WORDS = (
    "a photo of the red blue dog cat car digit zero one two three and prompt user detailed image style with for colors"
).split()
_LATENT_SIZE = 8  # of the published factor of 8: 64x64 pixels


def build(kind: str, folder: Path, *, seed: int = 0, scale: float = 4.0) -> Path:
    """Write a tiny pipeline of a kind into a folder, and return the folder.

    Args:
        kind: one of `KINDS`.
        folder: where `save_pretrained` writes; created when missing.
        seed: of the random weights; equal seeds give equal bytes.
        scale: of the weights that bring the prompt into the denoiser; random ones of scale 1 hardly change a pixel.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = _BUILDERS[kind]()
    _scale_prompt(pipeline, scale)
    pipeline.save_pretrained(folder, safe_serialization=True)
    _publish_names(folder / "model_index.json")
    return folder


def _publish_names(path: Path) -> None:
    """Name tokenizers in `model_index.json` as SD 3, FLUX and SANA do: by older class names, which are read as well."""
    index = json.loads(path.read_text())
    for name, part in index.items():
        own = "GemmaTokenizer" if name == "tokenizer" else "T5Tokenizer"  # PixArt's first one stays a T5Tokenizer
        if isinstance(part, list) and part[1] == own:
            part[1] += "Fast"
    path.write_text(json.dumps(index, indent=2) + "\n")


# Tokenizers


def _clip_tokenizer(pad_token: str = "<|endoftext|>") -> Any:
    """The tokenizer of the embedded model; OpenCLIP's encoders, the second of SDXL and SD 3, pad with "!"."""
    return transformers.CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer", pad_token=pad_token)


def _t5_tokenizer() -> Any:
    """A unigram vocabulary of some words and every character of ASCII; 100 sentinels at the end, as in T5."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [("▁" + word, -6.0) for word in WORDS]
    pieces += [(letter, -8.0) for letter in ascii_letters + digits + punctuation]
    pieces += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    return transformers.T5Tokenizer(vocab=pieces, model_max_length=512)


def _gemma_tokenizer() -> Any:
    """A byte-pair vocabulary of some words, every character of ASCII and the 256 bytes for all others."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\n", "▁", *ascii_letters, *digits, *punctuation]
    merges = dict.fromkeys((word[:end], word[end]) for word in WORDS for end in range(1, len(word)))
    pieces += [left + right for left, right in merges]
    tokenizer = transformers.GemmaTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=list(merges)
    )
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    return tokenizer


# Text encoders


def _clip(tokenizer: Any, width: int = CLIP_WIDTH, projection: bool = False, act: str = "quick_gelu") -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,  # SDXL and SD 3 read the last but one
        num_attention_heads=2,
        hidden_act=act,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config)


def _t5(tokenizer: Any) -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=len(tokenizer), d_model=T5_WIDTH, d_kv=16, d_ff=64, num_layers=1, num_heads=2,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        )
    )  # fmt: skip


def _gemma(tokenizer: Any) -> Any:
    return transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=len(tokenizer), hidden_size=GEMMA_WIDTH, intermediate_size=64, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16,
        )
    )  # fmt: skip


# Autoencoders and denoisers


def _vae(channels: int = 4, scaling_factor: float = 0.18215, **options: Any) -> AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=8 * _LATENT_SIZE,
        scaling_factor=scaling_factor,
        **options,
    )


def _unet(cross_attention_dim: int, **options: Any) -> UNet2DConditionModel:
    settings = {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 2,
        "sample_size": _LATENT_SIZE,
    }
    return diffusers.UNet2DConditionModel(**settings | {"cross_attention_dim": cross_attention_dim} | options)


_STABLE_BETAS = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "steps_offset": 1,
}  # fmt: skip


def _stable_diffusion(scheduler: Any, **unet: Any) -> DiffusionPipeline:
    tokenizer = _clip_tokenizer()
    return diffusers.StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_clip(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(CLIP_WIDTH, **unet),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd15() -> DiffusionPipeline:
    return _stable_diffusion(diffusers.PNDMScheduler(**_STABLE_BETAS, skip_prk_steps=True, set_alpha_to_one=False))


def _sd_turbo() -> DiffusionPipeline:
    """Of the architecture of Stable Diffusion 2: linear projections, GELU in the text encoder, "!" as padding."""
    tokenizer = _clip_tokenizer("!")
    pipeline = _stable_diffusion(
        diffusers.EulerDiscreteScheduler(**_STABLE_BETAS, timestep_spacing="trailing"),
        use_linear_projection=True,
        attention_head_dim=(2, 4),
    )
    pipeline.register_modules(tokenizer=tokenizer, text_encoder=_clip(tokenizer, act="gelu"))
    return pipeline


def _sdxl_of(scheduler: Any) -> DiffusionPipeline:
    tokenizer, tokenizer_2 = _clip_tokenizer(), _clip_tokenizer("!")
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025),
        text_encoder=_clip(tokenizer),
        text_encoder_2=_clip(tokenizer_2, SECOND_CLIP_WIDTH, projection=True, act="gelu"),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=_unet(
            CLIP_WIDTH + SECOND_CLIP_WIDTH,
            block_out_channels=(16, 24),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + SECOND_CLIP_WIDTH,
        ),
        scheduler=scheduler,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def _sdxl() -> DiffusionPipeline:
    return _sdxl_of(diffusers.EulerDiscreteScheduler(**_STABLE_BETAS, timestep_spacing="leading"))


def _sdxl_turbo() -> DiffusionPipeline:
    return _sdxl_of(diffusers.EulerAncestralDiscreteScheduler(**_STABLE_BETAS, timestep_spacing="trailing"))


def _sd3() -> DiffusionPipeline:
    tokenizer, tokenizer_2, tokenizer_3 = _clip_tokenizer(), _clip_tokenizer("!"), _t5_tokenizer()
    pooled = CLIP_WIDTH + SECOND_CLIP_WIDTH
    assert pooled >= T5_WIDTH  # the pipeline pads CLIP's embeddings to the width of T5's
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=_LATENT_SIZE, num_layers=2, num_attention_heads=2, attention_head_dim=16,
            joint_attention_dim=T5_WIDTH, caption_projection_dim=32, pooled_projection_dim=pooled,
            pos_embed_max_size=16,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(16, 1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(tokenizer, projection=True),
        tokenizer=tokenizer,
        text_encoder_2=_clip(tokenizer_2, SECOND_CLIP_WIDTH, projection=True, act="gelu"),
        tokenizer_2=tokenizer_2,
        text_encoder_3=_t5(tokenizer_3),
        tokenizer_3=tokenizer_3,
    )  # fmt: skip


def _flux_of(guidance_embeds: bool, **scheduler: Any) -> DiffusionPipeline:
    tokenizer, tokenizer_2 = _clip_tokenizer(), _t5_tokenizer()
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**scheduler),
        vae=_vae(16, 0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=_t5(tokenizer_2),
        tokenizer_2=tokenizer_2,
        transformer=diffusers.FluxTransformer2DModel(
            num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=T5_WIDTH, pooled_projection_dim=CLIP_WIDTH, axes_dims_rope=(4, 6, 6),
            guidance_embeds=guidance_embeds,
        ),
    )  # fmt: skip


def _flux_dev() -> DiffusionPipeline:
    return _flux_of(
        True, shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
        max_image_seq_len=4096,
    )  # fmt: skip


def _flux_schnell() -> DiffusionPipeline:
    return _flux_of(
        False, shift=1.0, use_dynamic_shifting=False, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
        max_image_seq_len=4096,
    )  # fmt: skip


def _sana() -> DiffusionPipeline:
    """With an autoencoder of factor 32 as published: 2x2 latents."""
    tokenizer = _gemma_tokenizer()
    sizes = (8, 8, 8, 8, 16, 16)
    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    scales = ((),) * 3 + ((5,),) * 3
    return diffusers.SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=_gemma(tokenizer),
        vae=diffusers.AutoencoderDC(
            latent_channels=8, attention_head_dim=8, encoder_block_types=blocks, decoder_block_types=blocks,
            encoder_block_out_channels=sizes, decoder_block_out_channels=sizes, encoder_layers_per_block=(1,) * 6,
            decoder_layers_per_block=(1,) * 6, encoder_qkv_multiscales=scales, decoder_qkv_multiscales=scales,
            upsample_block_type="interpolate", downsample_block_type="Conv", scaling_factor=0.41407,
        ),
        transformer=diffusers.SanaTransformer2DModel(
            in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16, num_layers=2,
            num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32,
            caption_channels=GEMMA_WIDTH, sample_size=2,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            beta_schedule="linear", prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0,
        ),
    )  # fmt: skip


def _pixart(pipeline: type, **transformer: Any) -> DiffusionPipeline:
    tokenizer = _t5_tokenizer()
    return pipeline(
        tokenizer=tokenizer,
        text_encoder=_t5(tokenizer),
        vae=_vae(scaling_factor=transformer.pop("scaling_factor")),
        transformer=diffusers.PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=24, num_layers=2, cross_attention_dim=48,
            caption_channels=T5_WIDTH, **transformer,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    )  # fmt: skip


def _pixart_alpha() -> DiffusionPipeline:
    return _pixart(diffusers.PixArtAlphaPipeline, scaling_factor=0.18215, sample_size=128)


def _pixart_sigma() -> DiffusionPipeline:
    return _pixart(
        diffusers.PixArtSigmaPipeline,
        scaling_factor=0.13025,
        sample_size=_LATENT_SIZE,
        use_additional_conditions=False,
    )


def _lcm() -> DiffusionPipeline:
    tokenizer = _clip_tokenizer()
    return diffusers.LatentConsistencyModelPipeline(
        vae=_vae(),
        text_encoder=_clip(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(CLIP_WIDTH, time_cond_proj_dim=16),
        scheduler=diffusers.LCMScheduler(**_STABLE_BETAS | {"steps_offset": 0}, original_inference_steps=50),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


_BUILDERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "sd15": _sd15, "sd-turbo": _sd_turbo, "sdxl": _sdxl, "sdxl-turbo": _sdxl_turbo, "sd3": _sd3, "flux-dev": _flux_dev,
    "flux-schnell": _flux_schnell, "sana": _sana, "pixart-alpha": _pixart_alpha, "pixart-sigma": _pixart_sigma,
    "lcm": _lcm,
}  # fmt: skip
_READS_PROMPT = ("attn2.to_v.", "add_v_proj.", "text_embedder.linear_2.", "add_embedding.linear_2.")
KINDS = tuple(_BUILDERS)
IMAGE_SIZE = dict.fromkeys(KINDS, (64, 64))


def _scale_prompt(pipeline: DiffusionPipeline, scale: float) -> None:
    """Scale what the denoiser reads of the prompt: values of cross-attention, and the pooled embedding's projection."""
    denoiser = pipeline.components.get("unet") or pipeline.components["transformer"]
    with torch.no_grad():
        for name, weight in denoiser.named_parameters():
            if any(part in name for part in _READS_PROMPT):
                weight.mul_(scale)
