"""The hub's cache: which files are asked for, and whether they are what their names say."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from imagenet_sd.core.errors import ModelError, PlanError
from imagenet_sd.generation.hub import model_parts
from imagenet_sd.generation.models import EMBEDDED_FOLDER, require_checker
from imagenet_sd.generation.weights import check_snapshot, download_patterns
from tests.conftest import SMALL, CliRun

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = ["text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"]
SETTINGS = [
    *["model_index.json", "feature_extractor/preprocessor_config.json", "safety_checker/config.json"],
    *["scheduler/scheduler_config.json", "text_encoder/config.json", "unet/config.json", "vae/config.json"],
    *["tokenizer/merges.txt", "tokenizer/vocab.json", "tokenizer/tokenizer_config.json"],
]
# Shaped like a real repository of Stable Diffusion 1.x.
REPOSITORY = [
    *SETTINGS,
    *["README.md", ".gitattributes", "v1-5-pruned.safetensors", "v1-5-pruned-emaonly.ckpt"],
    *[f"{name}{suffix}" for name in [*WEIGHTS, "safety_checker/model"] for suffix in (".safetensors", ".bin")],
    *[f"{name}.fp16.safetensors" for name in [*WEIGHTS, "safety_checker/model"]],
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    *[f"text_encoder/model.{half}-00001-of-00002.safetensors" for half in ("fp16", "bf16")],
    "unet/diffusion_pytorch_model.bf16.safetensors",
]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache as the hub client lays it out, with the embedded model under the name nobody/model."""
    base = tmp_path / "hf" / "hub" / "models--nobody--model"
    snapshot = base / "snapshots" / COMMIT
    (base / "blobs").mkdir(parents=True)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(COMMIT)
    for path in sorted(EMBEDDED_FOLDER.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            algorithm = "sha256" if path.suffix == ".safetensors" else "sha1"  # git's own hash for small files
            blob = base / "blobs" / hashlib.new(algorithm, content).hexdigest()
            blob.write_bytes(content)
            link = snapshot / path.relative_to(EMBEDDED_FOLDER)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def blob_of(snapshot: Path, name: str) -> Path:
    return (snapshot / name).resolve()


@pytest.mark.parametrize("flag_nsfw", [False, True])
def test_only_what_is_read_is_downloaded(flag_nsfw: bool):
    allow, ignore = download_patterns(model_parts(EMBEDDED_FOLDER / "model_index.json"), flag_nsfw)
    wanted = set(filter_repo_objects(REPOSITORY, allow_patterns=allow, ignore_patterns=ignore))
    checker = ["safety_checker/model.safetensors"] if flag_nsfw else []
    assert wanted == {*SETTINGS, *checker, *(f"{name}.safetensors" for name in WEIGHTS)}


def test_weights_of_other_programs_are_not_downloaded(tmp_path: Path):
    """The repository of Stable Diffusion 3.5 has its encoders twice, for another program too."""
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "text_encoder_3": ["transformers", "T5EncoderModel"],
        "../x": ["a", "b"],
        "scheduler": ["diffusers", "F"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    parts = model_parts(tmp_path / "model_index.json")
    assert parts == ["transformer", "text_encoder_3", "scheduler"]
    allow, ignore = download_patterns(parts, False)
    weights = ["transformer/diffusion_pytorch_model-00001-of-00002.safetensors", "text_encoder_3/model.safetensors"]
    others = [
        "text_encoders/t5xxl_fp16.safetensors",
        "sd3.5_large.safetensors",
        "text_encoder_3/model.fp16.safetensors",
    ]
    found = filter_repo_objects([*weights, *others], allow_patterns=allow, ignore_patterns=ignore)
    assert set(found) == set(weights)


def test_a_hub_model_needs_a_checker_to_flag():
    require_checker("some/model", set(REPOSITORY))
    for lost in ("safety_checker/", "feature_extractor/"):
        with pytest.raises(PlanError, match="'some/model' has no safety checker"):
            require_checker("some/model", {name for name in REPOSITORY if not name.startswith(lost)})


def test_a_sound_snapshot_passes(cache: Path):
    check_snapshot(cache)
    copied = shutil.copytree(cache, cache.parent / "copy", symlinks=False)  # as on systems without symbolic links
    check_snapshot(copied)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_a_damaged_blob_is_named(cache: Path, name: str, damage: str):
    blob = blob_of(cache, name)
    content = bytearray(blob.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    blob.write_bytes(content[: -100 if damage == "truncate" else None])
    if damage == "remove":
        blob.unlink()
    with pytest.raises(ModelError, match=f"{name} in the hub's cache is damaged") as e:
        check_snapshot(cache)
    assert str(blob) in e.value.hint
    assert ("missing" in str(e.value)) == (damage == "remove")


def test_a_checker_is_looked_at_when_it_is_used(cache: Path):
    blob = cache.parent.parent / "blobs" / ("0" * 64)
    blob.write_bytes(b"not what its name says")
    (cache / "safety_checker").mkdir()
    (cache / "safety_checker" / "model.safetensors").symlink_to(blob)
    check_snapshot(cache)
    with pytest.raises(ModelError, match=r"safety_checker/model\.safetensors"):
        check_snapshot(cache, flag_nsfw=True)


def test_a_bit_flipped_in_the_cache_stops_the_run(cache: Path, tmp_path: Path, cli: CliRun):
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    arguments = ["nobody/model" if word == "embedded" else word for word in SMALL]
    arguments += ["--size", "32x32", "--out", str(tmp_path / "out")]
    done = cli(*arguments, env=env)
    assert done.returncode == 0, done.stderr
    generated = len(list(tmp_path.glob("out/data/*/*.parquet")))
    assert generated == 4
    blob = blob_of(cache, "vae/diffusion_pytorch_model.safetensors")
    content = bytearray(blob.read_bytes())
    content[-10_000] ^= 1
    blob.write_bytes(content)
    done = cli(*arguments, "--multiple", "2", env=env)
    assert done.returncode == 1
    assert "vae/diffusion_pytorch_model.safetensors in the hub's cache is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list(tmp_path.glob("out/data/*/*.parquet"))) == generated
