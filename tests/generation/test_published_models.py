"""The benchmark's full-size models: they are the published files, name by name, and stock classes load all of them."""

import hashlib
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import published_layouts  # pyright: ignore[reportMissingImports]
    import published_models as published  # pyright: ignore[reportMissingImports]
finally:
    sys.path.remove(str(ROOT / "benchmarks"))

PUBLISHED_BYTES = {  # of the files on the Hugging Face Hub, all float32
    ("sd14", "unet"): 3_438_167_534,
    ("sd14", "vae"): 334_643_276,
    ("sd14", "text_encoder"): 492_265_879,
    ("sd14", "safety_checker"): 1_215_981_830,
    ("sdxl", "unet"): 10_270_077_736,
    ("sdxl", "vae"): 334_643_268,
    ("sdxl", "text_encoder"): 492_265_168,
    ("sdxl", "text_encoder_2"): 2_778_702_264,
}
UNET = {"sample_size": 8, "block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 32, "layers_per_block": 1}
SDXL_UNET = {
    "sample_size": 8, "block_out_channels": [32, 32, 64], "cross_attention_dim": 48, "attention_head_dim": [1, 2, 4],
    "transformer_layers_per_block": [1, 1, 2], "addition_time_embed_dim": 8, "layers_per_block": 1,
    "projection_class_embeddings_input_dim": 6 * 8 + 16,
}  # fmt: skip
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
VAE = {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1}
SHRUNKEN = {
    "sd14": {
        "unet": UNET, "vae": VAE, "text_encoder": TEXT,
        "safety_checker": {
            "projection_dim": 16, "text_config": TEXT, "text_config_dict": TEXT, "vision_config": VISION,
            "vision_config_dict": VISION,
        },
    },
    "sdxl": {
        "unet": SDXL_UNET, "vae": VAE, "text_encoder": TEXT,
        "text_encoder_2": {**TEXT, "hidden_size": 16, "projection_dim": 16},
    },
}  # fmt: skip
KINDS = tuple(SHRUNKEN)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {kind: tmp_path_factory.mktemp("published") / kind for kind in KINDS}
    for kind, folder in folders.items():
        published.write_layout(published.LAYOUTS[kind].changed(SHRUNKEN[kind]), folder)
    return folders


@pytest.mark.parametrize(("kind", "name"), PUBLISHED_BYTES)
def test_full_size_files_have_the_published_number_of_bytes(kind: str, name: str):
    """The header spells out every name and shape, so that its length tells other names and other shapes."""
    part = published.LAYOUTS[kind].parts[name]
    tensors = {
        key: (torch.float32 if dtype.is_floating_point else dtype, shape)
        for key, (dtype, shape) in part.tensors().items()
    }
    header, data = published.safetensors_header(tensors)
    difference = PUBLISHED_BYTES[kind, name] - len(header.rstrip(b" ")) - data
    assert 0 <= difference < 8  # padding, and the digits of offsets where the order is another


def test_vocabularies_are_the_published_files(folders: dict[str, Path]):
    """By their names in git, which are hashes, in the published repositories."""
    known = {
        "merges.txt": "76e821f1b6f0a9709293c3b6b51ed90980b3166b",
        "vocab.json": "469be27c5c010538f845f518c4f5e8574c78f7c8",
    }
    for folder in (folders["sd14"] / "tokenizer", folders["sdxl"] / "tokenizer", folders["sdxl"] / "tokenizer_2"):
        for name, digest in known.items():
            content = (folder / name).read_bytes()
            assert hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == digest


def test_names_of_stable_diffusion_1_4_are_the_old_ones(folders: dict[str, Path]):
    keys = {
        name: set(safe_open(folders["sd14"] / name / published.weights_file(name), "pt").keys())
        for name in SHRUNKEN["sd14"]
    }
    for side in ("encoder", "decoder"):
        old = {f"{side}.mid_block.attentions.0.{part}" for part in ("query", "key", "value", "proj_attn", "group_norm")}
        found = {key.rpartition(".")[0] for key in keys["vae"] if key.startswith(f"{side}.mid_block.attentions")}
        assert found == old
    assert {"text_model.embeddings.position_ids", "text_model.final_layer_norm.weight"} < keys["text_encoder"]
    assert all(key.startswith("text_model.") for key in keys["text_encoder"])
    assert "vision_model.vision_model.embeddings.position_ids" in keys["safety_checker"]
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight" in keys["unet"]


def model_class(name: str) -> Any:
    import diffusers
    import transformers
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    return {
        "unet": diffusers.UNet2DConditionModel,
        "vae": diffusers.AutoencoderKL,
        "text_encoder": transformers.CLIPTextModel,
        "text_encoder_2": transformers.CLIPTextModelWithProjection,
        "safety_checker": StableDiffusionSafetyChecker,
    }[name]


@pytest.mark.parametrize(("kind", "name"), PUBLISHED_BYTES)
def test_stock_classes_load_every_tensor(kind: str, name: str, folders: dict[str, Path]):
    folder = folders[kind] / name
    model, info = model_class(name).from_pretrained(folder, output_loading_info=True, use_safetensors=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    stored = load_file(folder / published.weights_file(name))
    floats = [tensor.float() for tensor in stored.values() if tensor.is_floating_point()]
    assert sum(tensor.numel() for tensor in floats) == sum(tensor.numel() for tensor in model.parameters())
    loaded = sorted(float(tensor.detach().double().square().sum()) for tensor in model.parameters())
    assert loaded == pytest.approx(sorted(float(tensor.double().square().sum()) for tensor in floats), rel=1e-6)


def test_old_names_of_attention_reach_the_right_layers(folders: dict[str, Path]):
    vae = model_class("vae").from_pretrained(folders["sd14"] / "vae")
    stored = load_file(folders["sd14"] / "vae/diffusion_pytorch_model.safetensors")
    attention = vae.decoder.mid_block.attentions[0]
    layers = {"query": attention.to_q, "key": attention.to_k, "value": attention.to_v, "proj_attn": attention.to_out[0]}
    for name, layer in layers.items():
        assert torch.equal(layer.weight, stored[f"decoder.mid_block.attentions.0.{name}.weight"])


def test_the_projects_loader_takes_the_published_layout(folders: dict[str, Path]):
    """With the safety checker's folder present; tokens as open_clip, the origin of the vocabulary, makes them."""
    from open_clip import SimpleTokenizer

    from imagenet_sd.generation.diffusion.loading import load_pipeline

    pipeline: Any = load_pipeline(folders["sd14"], torch.float32, torch.device("cpu"))
    assert pipeline.safety_checker is None
    text = "A photo of a Siberian husky, 2 o'clock"
    expected = [token for token in SimpleTokenizer()(text)[0].tolist() if token]
    assert pipeline.tokenizer(text).input_ids == expected
    generator = torch.Generator().manual_seed(0)
    image = pipeline(text, width=64, height=64, num_inference_steps=1, generator=generator, output_type="np").images[0]
    assert image.shape == (64, 64, 3) and 0.1 < image.max() - image.min() <= 1


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_stock_pipelines_take_the_published_layout(kind: str, folders: dict[str, Path]):
    """The safety checker included, which the project's loader leaves out."""
    from diffusers import DiffusionPipeline

    pipeline: Any = DiffusionPipeline.from_pretrained(
        folders[kind], dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    assert (getattr(pipeline, "safety_checker", None) is not None) == (kind == "sd14")
    generator = torch.Generator().manual_seed(0)
    images = pipeline("a dog", width=64, height=64, num_inference_steps=1, generator=generator, output_type="np").images
    assert images.shape == (1, 64, 64, 3)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize(("kind", "loader"), [("sd14", "project"), ("sdxl", "diffusers")])
def test_the_benchmark_measures_what_it_loads(kind: str, loader: str, folders: dict[str, Path]):
    args = Namespace(load=kind, loader=loader, dtype="float32", images=2, steps=1)
    result = published_layouts.load(folders[kind], args)
    for name in SHRUNKEN[kind].keys() - {"safety_checker"}:
        stored = load_file(folders[kind] / name / published.weights_file(name)).values()
        assert result["parameters"][name] == sum(tensor.numel() for tensor in stored if tensor.is_floating_point())
    assert len(result["image_seconds"]) == 2 and result["image_spread"] > 0.1
    assert 0 < result["import_peak_gib"] <= result["load_peak_gib"] <= result["read_peak_gib"]
    row = published_layouts.table({kind: {"gib_on_disk": 1.26, **result}}).splitlines()[-1]
    assert row.startswith(f"| {kind} | float32 | 1.3 |") and row.count("|") == 12
