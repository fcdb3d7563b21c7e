"""The tiny pipelines themselves: published layout and schedulers, images that depend on the prompt and on the seed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from tests.generation.tiny_pipelines import IMAGE_SIZE, KINDS, build

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
PROMPTS = ("a photo of a red dog", "the digit three")
PUBLISHED = {  # pipeline, scheduler with its spacing and shift, pad tokens of the tokenizers
    "sd15": ("StableDiffusion", "PNDM", "leading", None, ["<|endoftext|>"]),
    "sd-turbo": ("StableDiffusion", "EulerDiscrete", "trailing", None, ["!"]),
    "sdxl": ("StableDiffusionXL", "EulerDiscrete", "leading", None, ["<|endoftext|>", "!"]),
    "sdxl-turbo": ("StableDiffusionXL", "EulerAncestralDiscrete", "trailing", None, ["<|endoftext|>", "!"]),
    "sd3": ("StableDiffusion3", "FlowMatchEulerDiscrete", None, 3.0, ["<|endoftext|>", "!", "<pad>"]),
    "flux-dev": ("Flux", "FlowMatchEulerDiscrete", None, 3.0, ["<|endoftext|>", "<pad>"]),
    "flux-schnell": ("Flux", "FlowMatchEulerDiscrete", None, 1.0, ["<|endoftext|>", "<pad>"]),
    "sana": ("Sana", "DPMSolverMultistep", "linspace", None, ["<pad>"]),
    "pixart-alpha": ("PixArtAlpha", "DPMSolverMultistep", "linspace", None, ["<pad>"]),
    "pixart-sigma": ("PixArtSigma", "DPMSolverMultistep", "linspace", None, ["<pad>"]),
    "lcm": ("LatentConsistencyModel", "LCM", "leading", None, ["<|endoftext|>"]),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(kind, tmp_path_factory.mktemp("tiny") / kind)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    pipeline = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline: Any, kind: str, prompt: str, seed: int) -> np.ndarray:
    """[H, W, 3] float32 in 0..1: two steps with the pipeline's own settings."""
    width, height = IMAGE_SIZE[kind]
    exact_size = {"use_resolution_binning": False} if kind.startswith(("sana", "pixart")) else {}
    generator = torch.Generator().manual_seed(seed)
    return pipeline(
        prompt, width=width, height=height, num_inference_steps=2, generator=generator, output_type="np", **exact_size
    ).images[0]  # fmt: skip


def test_images_depend_on_prompt_and_seed(pipeline: Any, kind: str):
    image = sample(pipeline, kind, PROMPTS[0], 0)
    width, height = IMAGE_SIZE[kind]
    assert image.shape == (height, width, 3) and np.isfinite(image).all()
    assert np.ptp(image) > 32 / 255  # the generator refuses images of one colour, a spread below 2
    assert (image == sample(pipeline, kind, PROMPTS[0], 0)).all()
    for other in (sample(pipeline, kind, PROMPTS[1], 0), sample(pipeline, kind, PROMPTS[0], 1)):
        assert np.abs(image - other).mean() > 1 / 255


def test_folders_are_as_published_and_small(pipeline: Any, folder: Path, kind: str):
    name, scheduler, spacing, shift, pad_tokens = PUBLISHED[kind]
    index = json.loads((folder / "model_index.json").read_text())
    parts = [part for part, value in index.items() if isinstance(value, list) and value[0]]
    assert index["_class_name"] == f"{name}Pipeline"
    assert index["scheduler"] == ["diffusers", f"{scheduler}Scheduler"]
    settings = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    assert (settings.get("timestep_spacing"), settings.get("shift")) == (spacing, shift)
    for part in parts:
        files = {path.name for path in (folder / part).iterdir()}
        if part.startswith("tokenizer"):
            assert files == {"tokenizer.json", "tokenizer_config.json"}
        elif part != "scheduler":
            weights = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
            assert files == {"config.json", f"{weights}.safetensors"}
    tokenizers = [getattr(pipeline, part) for part in parts if part.startswith("tokenizer")]
    assert [tokenizer.pad_token for tokenizer in tokenizers] == pad_tokens
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 2_000_000


def test_tokenizers_keep_their_limits_and_know_every_character(pipeline: Any):
    for part, tokenizer in pipeline.components.items():
        if not part.startswith("tokenizer"):
            continue
        limit = {"CLIPTokenizer": 77, "T5Tokenizer": 512}.get(type(tokenizer).__name__)
        assert limit is None or tokenizer.model_max_length == limit
        assert tokenizer.unk_token_id not in tokenizer("Grey (cat), 3: #1!", add_special_tokens=False).input_ids
        assert len(tokenizer("dog " * 9).input_ids) - len(tokenizer("dog " * 8).input_ids) in (1, 2)


def test_equal_seeds_give_equal_bytes(folder: Path, kind: str, tmp_path: Path):
    same, other = build(kind, tmp_path / "same"), build(kind, tmp_path / "other", seed=1)
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder)
            assert path.read_bytes() == (same / name).read_bytes(), name
            assert (path.read_bytes() != (other / name).read_bytes()) == (path.suffix == ".safetensors"), name
