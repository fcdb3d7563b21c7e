"""Stable Diffusion 1.4 and SDXL base 1.0 as their authors publish them, file by file, with random weights.

The folders hold what `CompVis/stable-diffusion-v1-4` and `stabilityai/stable-diffusion-xl-base-1.0` hold on the Hugging
Face Hub for loading with safetensors: the same configurations, vocabulary and merges, and the same names and shapes of
the tensors. To save disk, the safety checker and all of SDXL are float16, under the names of the float32 files. Modules
are made on the device "meta" and tensors written one after the other, so that memory holds one tensor at a time.
"""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from imagenet_sd.prompts.tokens import CLIP, clip_tokenizer

Config = dict[str, Any]
Tensors = dict[str, tuple[torch.dtype, tuple[int, ...]]]

_SAFETENSORS_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
_MAKERS: dict[str, Callable[[Config], Any]] = {
    "UNet2DConditionModel": UNet2DConditionModel.from_config,
    "AutoencoderKL": AutoencoderKL.from_config,
    "CLIPTextModel": lambda config: CLIPTextModel(CLIPTextConfig(**config)),
    "CLIPTextModelWithProjection": lambda config: CLIPTextModelWithProjection(CLIPTextConfig(**config)),
    "StableDiffusionSafetyChecker": lambda config: StableDiffusionSafetyChecker(CLIPConfig(**config)),
}


@dataclass(frozen=True)
class Part:
    """A subfolder with weights.

    Attributes:
        config: its `config.json`.
        dtype: of the floating-point tensors.
        renames: what today's names of tensors contain -> what the published ones contain instead.
        prefix: before all names.
        position_ids: name and length of the tensor of positions that older versions of transformers saved.
    """

    config: Config
    dtype: torch.dtype
    renames: Mapping[str, str] | tuple[()] = ()
    prefix: str = ""
    position_ids: tuple[str, int] | None = None

    def tensors(self) -> Tensors:
        """Published name -> (type, shape), as in the file: 64-bit integers first, then by name."""
        class_name = self.config["_class_name"] if "_class_name" in self.config else self.config["architectures"][0]
        with torch.device("meta"):
            module = _MAKERS[class_name](self.config)
        tensors: Tensors = {}
        if self.position_ids is not None:
            tensors[self.position_ids[0]] = (torch.int64, (1, self.position_ids[1]))
        for key, tensor in sorted((self.published(key), value) for key, value in module.state_dict().items()):
            tensors[key] = (self.dtype, tuple(tensor.shape))
        return tensors

    def published(self, name: str) -> str:
        """The published name of a tensor that today's class calls `name`."""
        for old, new in dict(self.renames).items():
            name = name.replace(old, new)
        return self.prefix + name


@dataclass(frozen=True)
class Layout:
    """A published pipeline: its parts with weights, and everything else as path -> JSON document."""

    parts: Mapping[str, Part]
    documents: Mapping[str, Config]

    def changed(self, changes: Mapping[str, Config]) -> "Layout":
        """The same layout with other values in the configurations of some parts; a nested one is merged."""
        parts = {
            name: replace(part, config=_merged(part.config, changes.get(name, {}))) for name, part in self.parts.items()
        }
        return replace(self, parts=parts)


def _merged(config: Config, changes: Config) -> Config:
    return config | {
        key: _merged(config[key], value) if isinstance(value, dict) else value for key, value in changes.items()
    }


def weights_file(part: str) -> str:
    """The published name of the weights' file: that of diffusers for its own modules, else that of transformers."""
    return "diffusion_pytorch_model.safetensors" if part in ("unet", "vae") else "model.safetensors"


def write_layout(layout: Layout, folder: Path, seed: int = 0) -> None:
    """Write all files of a layout; equal seeds give equal bytes."""
    generator = torch.Generator().manual_seed(seed)
    for name, part in layout.parts.items():
        (folder / name).mkdir(parents=True)
        _write_json(folder / name / "config.json", part.config)
        write_safetensors(folder / name / weights_file(name), part.tensors(), generator)
    for path, document in layout.documents.items():
        (folder / path).parent.mkdir(exist_ok=True)
        _write_json(folder / path, document)
        if path.endswith("tokenizer_config.json"):
            write_vocabulary((folder / path).parent)


def _write_json(path: Path, document: Config) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")


def write_vocabulary(folder: Path) -> None:
    """CLIP's vocab.json and merges.txt, byte for byte as published."""
    model = json.loads(clip_tokenizer().to_str())["model"]
    vocabulary = json.dumps(model["vocab"], indent=2, sort_keys=True, ensure_ascii=False)
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (folder / "vocab.json").write_text(vocabulary + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")


def safetensors_header(tensors: Tensors) -> tuple[bytes, int]:
    """The head of a safetensors file (8 bytes of length, then JSON, padded), and the size of the data after it."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _SAFETENSORS_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    document = json.dumps(entries, separators=(",", ":")).encode()
    document += b" " * (-len(document) % 8)
    return struct.pack("<Q", len(document)) + document, end


def write_safetensors(path: Path, tensors: Tensors, generator: torch.Generator) -> None:
    """A safetensors file of random weights, written tensor by tensor."""
    with path.open("wb") as file:
        file.write(safetensors_header(tensors)[0])
        for name, (dtype, shape) in tensors.items():
            file.write(random_tensor(name, dtype, shape, generator).numpy().data)


def random_tensor(name: str, dtype: torch.dtype, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Positions as they are; biases 0 and the weights of norms 1; else normal with variance 1 / (number of inputs)."""
    if dtype == torch.int64:
        return torch.arange(prod(shape)).reshape(shape)
    if len(shape) == 1:
        return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=dtype)
    return torch.randn(shape, generator=generator).mul_(prod(shape[1:]) ** -0.5).to(dtype)


_SCHEDULER: Config = {
    "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
    "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None, "clip_sample": False,
}  # fmt: skip
_VAE: Config = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4, "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
    "out_channels": 3, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
_TEXT: Config = {
    "architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2,
    "hidden_act": "quick_gelu", "hidden_size": 768, "initializer_factor": 1.0, "initializer_range": 0.02,
    "intermediate_size": 3072, "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model",
    "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "torch_dtype": "float32",
    "transformers_version": "4.21.0.dev0", "vocab_size": 49408,
}  # fmt: skip
_OLD_TEXT_CONFIG: Config = {key: value for key, value in _TEXT.items() if key not in ("architectures", "torch_dtype")}
_OLD_VISION_CONFIG: Config = {
    "attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "quick_gelu", "hidden_size": 1024, "image_size": 224,
    "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 4096, "layer_norm_eps": 1e-05,
    "max_length": 20, "model_type": "clip_vision_model", "num_attention_heads": 16, "num_beams": 1,
    "num_hidden_layers": 24, "patch_size": 14, "tie_word_embeddings": True, "transformers_version": "4.21.0.dev0",
}  # fmt: skip
_SAFETY: Config = {
    "architectures": ["StableDiffusionSafetyChecker"], "initializer_factor": 1.0, "logit_scale_init_value": 2.6592,
    "model_type": "clip", "projection_dim": 768, "text_config": _OLD_TEXT_CONFIG,
    "text_config_dict": {
        "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12
    },
    "torch_dtype": "float32", "transformers_version": None, "vision_config": _OLD_VISION_CONFIG,
    "vision_config_dict": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
        "patch_size": 14,
    },
}  # fmt: skip
_SD14_UNET: Config = {
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.12.0.dev0", "act_fn": "silu",
    "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False,
    "class_embed_type": None, "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"], "downsample_padding": 1,
    "dual_cross_attention": False, "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-05, "norm_num_groups": 32,
    "num_class_embeds": None, "only_cross_attention": False, "out_channels": 4, "resnet_time_scale_shift": "default",
    "sample_size": 64, "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3], "upcast_attention": False,
    "use_linear_projection": False,
}  # fmt: skip
_SDXL_UNET: Config = {
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.19.0.dev0", "act_fn": "silu",
    "addition_embed_type": "text_time", "addition_embed_type_num_heads": 64, "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280], "center_input_sample": False,
    "class_embed_type": None, "class_embeddings_concat": False, "conv_in_kernel": 3, "conv_out_kernel": 3,
    "cross_attention_dim": 2048, "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"], "downsample_padding": 1,
    "dual_cross_attention": False, "encoder_hid_dim": None, "encoder_hid_dim_type": None, "flip_sin_to_cos": True,
    "freq_shift": 0, "in_channels": 4, "layers_per_block": 2, "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1, "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-05, "norm_num_groups": 32,
    "num_attention_heads": None, "num_class_embeds": None, "only_cross_attention": False, "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816, "resnet_out_scale_factor": 1.0, "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default", "sample_size": 128, "time_cond_proj_dim": None,
    "time_embedding_act_fn": None, "time_embedding_dim": None, "time_embedding_type": "positional",
    "timestep_post_act": None, "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "upcast_attention": None,
    "use_linear_projection": True,
}  # fmt: skip
_FEATURE_EXTRACTOR: Config = {
    "crop_size": 224, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 224,
}  # fmt: skip


def _tokenizer(folder: str, pad_token: str = "<|endoftext|>") -> dict[str, Config]:
    def token(content: str) -> Config:
        return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}

    special = {"bos_token": token("<|startoftext|>"), "eos_token": token("<|endoftext|>")}
    special |= {"unk_token": token("<|endoftext|>")}
    typed = {name: {"__type": "AddedToken", **value} for name, value in special.items()}
    settings = {
        "add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": CLIP.limit,
        "pad_token": pad_token, "tokenizer_class": "CLIPTokenizer",
    }  # fmt: skip
    return {
        f"{folder}/special_tokens_map.json": special | {"pad_token": pad_token},
        f"{folder}/tokenizer_config.json": settings | typed,
    }


def _model_index(pipeline: str, version: str, libraries: Mapping[str, str], **settings: Any) -> Config:
    """Parts as "library.Class"."""
    parts = {name: value.split(".") for name, value in libraries.items()}
    return {"_class_name": pipeline, "_diffusers_version": version, **settings, **parts}


_MODULES = {
    "text_encoder": "transformers.CLIPTextModel", "tokenizer": "transformers.CLIPTokenizer",
    "unet": "diffusers.UNet2DConditionModel", "vae": "diffusers.AutoencoderKL",
}  # fmt: skip
_SD14_MODULES = _MODULES | {
    "feature_extractor": "transformers.CLIPImageProcessor", "scheduler": "diffusers.PNDMScheduler",
    "safety_checker": "stable_diffusion.StableDiffusionSafetyChecker",
}  # fmt: skip
_SDXL_MODULES = _MODULES | {
    "scheduler": "diffusers.EulerDiscreteScheduler", "tokenizer_2": "transformers.CLIPTokenizer",
    "text_encoder_2": "transformers.CLIPTextModelWithProjection",
}  # fmt: skip
LAYOUTS = {
    "sd14": Layout(
        parts={
            "unet": Part(_SD14_UNET, torch.float32),
            "vae": Part(
                _VAE | {"_diffusers_version": "0.2.2", "sample_size": 512, "scaling_factor": 0.18215},
                torch.float32,
                renames={".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."},
            ),
            "text_encoder": Part(
                {"_name_or_path": "openai/clip-vit-large-patch14", **_TEXT},
                torch.float32,
                prefix="text_model.",
                position_ids=("text_model.embeddings.position_ids", CLIP.limit),
            ),
            "safety_checker": Part(
                _SAFETY,
                torch.float16,
                renames={"vision_model.": "vision_model.vision_model."},
                position_ids=("vision_model.vision_model.embeddings.position_ids", 257),
            ),
        },
        documents={
            "model_index.json": _model_index("StableDiffusionPipeline", "0.2.2", _SD14_MODULES),
            "scheduler/scheduler_config.json": {
                "_class_name": "PNDMScheduler", "_diffusers_version": "0.7.0.dev0", **_SCHEDULER,
            },
            "feature_extractor/preprocessor_config.json": _FEATURE_EXTRACTOR,
            **_tokenizer("tokenizer"),
        },
    ),
    "sdxl": Layout(
        parts={
            "unet": Part(_SDXL_UNET, torch.float16),
            "vae": Part(
                _VAE | {
                    "_diffusers_version": "0.20.0.dev0", "force_upcast": True, "norm_num_groups": 32,
                    "sample_size": 1024, "scaling_factor": 0.13025,
                },
                torch.float16,
            ),
            "text_encoder": Part(
                _TEXT | {"projection_dim": 768, "torch_dtype": "float16", "transformers_version": "4.32.0.dev0"},
                torch.float16,
                prefix="text_model.",
            ),
            "text_encoder_2": Part(
                _TEXT | {
                    "architectures": ["CLIPTextModelWithProjection"], "hidden_act": "gelu", "hidden_size": 1280,
                    "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32,
                    "projection_dim": 1280, "torch_dtype": "float16", "transformers_version": "4.32.0.dev0",
                },
                torch.float16,
            ),
        },
        documents={
            "model_index.json": _model_index(
                "StableDiffusionXLPipeline", "0.19.0.dev0", _SDXL_MODULES, force_zeros_for_empty_prompt=True,
                add_watermarker=None,
            ),
            "scheduler/scheduler_config.json": {
                "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0", **_SCHEDULER,
                "interpolation_type": "linear", "prediction_type": "epsilon", "sample_max_value": 1.0,
                "timestep_spacing": "leading", "use_karras_sigmas": False,
            },
            **_tokenizer("tokenizer"),
            **_tokenizer("tokenizer_2", pad_token="!"),
        },
    ),
}  # fmt: skip
