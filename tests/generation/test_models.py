import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from imagenet_sd.core.errors import ModelError, PlanError
from imagenet_sd.core.files import sha256_file
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import EMBEDDED_FOLDER, folder_hash, identify, offline_identity
from imagenet_sd.generation.weights import fetch
from tests.conftest import SMALL, CliRun


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED_FOLDER, tmp_path / "my-model"))


def test_an_unreachable_model_is_one_clear_line_soon(tmp_path: Path, cli: CliRun, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    started = time.monotonic()
    done = cli("generate", "--model", "nobody/nothing", "--out", tmp_path / "out", env={**os.environ})
    assert time.monotonic() - started < 15
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: model 'nobody/nothing' is neither a local folder nor")
    assert "--model embedded" in hint and "local" in hint
    assert not (tmp_path / "out").exists()


def test_a_local_folder_is_known_by_its_hash(model_folder: Path):
    identity = identify(GenerationConfig(model=str(model_folder)))
    assert identity.model_id == "my-model"
    assert identity.weights_sha256 == folder_hash(EMBEDDED_FOLDER)
    assert fetch(str(model_folder), identity) == model_folder
    weights = model_folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 4
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="not those of the plan"):
        fetch(str(model_folder), identity)


def test_a_linked_part_belongs_to_the_hash(model_folder: Path, tmp_path: Path):
    whole = folder_hash(model_folder)
    for name in ("a", "b"):
        shutil.copytree(model_folder / "unet", tmp_path / name)
    (tmp_path / "b" / "config.json").write_text("{}")
    shutil.rmtree(model_folder / "unet")
    (model_folder / "unet").symlink_to(tmp_path / "a")
    assert folder_hash(model_folder) == whole, "as if the files were there"
    (model_folder / "unet").unlink()
    (model_folder / "unet").symlink_to(tmp_path / "b")
    swapped = folder_hash(model_folder)
    assert swapped != whole
    (tmp_path / "b" / "back").symlink_to(model_folder)  # a circle
    assert folder_hash(model_folder) == swapped


def test_the_hash_of_a_folder_without_links_is_that_of_before():
    digest = hashlib.sha256()
    patterns = ("*.json", "*.txt", "*.model", "*.safetensors")
    for path in sorted({path for pattern in patterns for path in EMBEDDED_FOLDER.rglob(pattern)}):
        digest.update(f"{path.relative_to(EMBEDDED_FOLDER).as_posix()}\n{sha256_file(path)}\n".encode())
    assert folder_hash(EMBEDDED_FOLDER) == digest.hexdigest()


def test_a_folder_has_no_revision(model_folder: Path):
    for model in ("embedded", str(model_folder)):
        for look in (identify, offline_identity):
            with pytest.raises(PlanError, match=r"^revision is 'v1', and model .* is no repository of the hub$") as e:
                look(GenerationConfig(model=model, revision="v1"))
            assert e.value.hint == "leave out --revision"


def test_a_truncated_weights_file_is_one_line(model_folder: Path, tmp_path: Path, cli: CliRun):
    weights = model_folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    arguments = [model_folder if word == "embedded" else word for word in SMALL]
    done = cli(*arguments, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "cannot be loaded as a StableDiffusionPipeline" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_kind_of_pipeline_is_refused(model_folder: Path):
    index = json.loads((model_folder / "model_index.json").read_text())
    (model_folder / "model_index.json").write_text(
        json.dumps(index | {"_class_name": "StableDiffusionImg2ImgPipeline"})
    )
    with pytest.raises(ModelError, match="StableDiffusionImg2ImgPipeline is no pipeline that turns texts alone"):
        identify(GenerationConfig(model=str(model_folder)))
    (model_folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "NoSuchPipeline"}))
    with pytest.raises(ModelError, match="diffusers has no pipeline 'NoSuchPipeline'"):
        identify(GenerationConfig(model=str(model_folder)))
    (model_folder / "model_index.json").unlink()
    with pytest.raises(ModelError, match=r"model_index\.json"):
        identify(GenerationConfig(model=str(model_folder)))
