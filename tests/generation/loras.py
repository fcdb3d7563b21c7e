"""Small LoRAs for the embedded model, written by hand: the file, and the change of each weight in closed form."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from imagenet_sd.generation.models import EMBEDDED_FOLDER

RANK, ALPHA = 4, 2.0
BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
UNET = {f"{BLOCK}.attn1.to_q": (144, 144), f"{BLOCK}.attn2.to_k": (144, 128), f"{BLOCK}.ff.net.2": (144, 576)}
TEXT_ENCODER = {"encoder.layers.0.self_attn.q_proj": (128, 128)}


def tensors(seed: int = 0, size: float = 0.2) -> dict[str, torch.Tensor]:
    """Matrices A [rank, in] and B [out, rank] for layers of the UNet and the text encoder, as peft names them."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for part, layers in (("unet", UNET), ("text_encoder", TEXT_ENCODER)):
        for name, (out, into) in layers.items():
            made[f"{part}.{name}.lora_A.weight"] = size * torch.randn(RANK, into, generator=generator)
            made[f"{part}.{name}.lora_B.weight"] = size * torch.randn(out, RANK, generator=generator)
    return made


def write_lora(path: Path, made: dict[str, torch.Tensor] | None = None) -> Path:
    """A LoRA in the layout of peft; without alphas, so that alpha / rank is 1."""
    save_file(tensors() if made is None else made, path)
    return path


def write_kohya(path: Path, seed: int = 0) -> Path:
    """The UNet's part in the layout of the kohya scripts, whose alphas stand in the file."""
    made = {}
    for key, value in tensors(seed).items():
        part, _, name = key.partition(".")
        if part == "unet":
            module, _, matrix = name.rpartition(".lora_")
            stem = f"lora_unet_{module.replace('.', '_')}"
            made[f"{stem}.{'lora_down' if matrix.startswith('A') else 'lora_up'}.weight"] = value
            made[f"{stem}.alpha"] = torch.tensor(ALPHA)
    save_file(made, path)
    return path


def original(part: str) -> dict[str, torch.Tensor]:
    """The weights of a part of the embedded model, as its file holds them, in float32."""
    (path,) = (EMBEDDED_FOLDER / part).glob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118  # no mapping


def changes(scale: float, seed: int = 0) -> dict[tuple[str, str], torch.Tensor]:
    """(part, layer) -> scale * B A."""
    made = tensors(seed)
    return {
        (part, name): scale * (made[f"{part}.{name}.lora_B.weight"] @ made[f"{part}.{name}.lora_A.weight"])
        for part, layers in (("unet", UNET), ("text_encoder", TEXT_ENCODER))
        for name in layers
    }
