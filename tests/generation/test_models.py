import json
import os
import shutil
import time
from pathlib import Path

import pytest

from imagenet_sd.core.errors import ModelError
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import EMBEDDED_FOLDER, folder_hash, identify
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
