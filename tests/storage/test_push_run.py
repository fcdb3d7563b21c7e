"""Pushing an encoder: timm loads it from the Hub as it was, and what timm cannot say is refused."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from imagenet_sd.pipeline import train
from imagenet_sd.training.config import TrainingError
from imagenet_sd.training.export import load_run
from imagenet_sd.training.publish import timm_files
from imagenet_sd.training.recipes import load_train_config
from tests.conftest import CliRun
from tests.storage.test_push import Hub

TIMM = ["model.small_images=false", "model.backbone=test_resnet", "optimizer.epochs=1", "optimizer.warmup_epochs=0",
        "optimizer.batch_size=20"]  # fmt: skip

# As a user would: in a process that knows timm alone. Prints what the model says of the images in a file.
LOAD = """
import json, sys
import timm, torch
from safetensors.torch import load_file, save_file

model = timm.create_model("hf-hub:" + sys.argv[1], pretrained=True).eval()
with torch.inference_mode():
    save_file({"outputs": model(load_file(sys.argv[2])["images"])}, sys.argv[3])
config = timm.data.resolve_model_data_config(model)
print(json.dumps({"config": {key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct")},
                  "labels": model.pretrained_cfg.get("label_names"), "classes": model.num_classes}))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("hub") / "root", tmp_path_factory.mktemp("home"))
    yield hub
    hub.process.terminate()
    hub.process.wait(30)


def run_of(folder: Path, *settings: str) -> Path:
    torch.set_num_threads(1)
    config = load_train_config("small", [*TIMM, *settings])
    train(config, "builtin:faces@per_class=20", folder, validation="builtin:faces", log_with="none")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("run") / "faces")


def test_timm_loads_the_pushed_encoder_from_the_hub(hub: Hub, finished: Path, tmp_path: Path, cli: CliRun):
    done = cli("push", finished, "me/faces-encoder", "--format", "json", env=hub.env())
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["architecture"], told["num_classes"], told["files_uploaded"]) == ("test_resnet", 2, 3)

    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    save_file({"images": images}, tmp_path / "in.safetensors")
    command = [
        sys.executable,
        "-c",
        LOAD,
        "me/faces-encoder",
        tmp_path / "in.safetensors",
        tmp_path / "out.safetensors",
    ]
    loaded = subprocess.run(command, env=hub.env(), capture_output=True, text=True, check=False, timeout=120)
    assert loaded.returncode == 0, loaded.stderr
    encoder, head, classes, size = load_run(finished)
    assert head is not None
    with torch.inference_mode():
        expected = head(encoder(images))
    assert torch.allclose(load_file(tmp_path / "out.safetensors")["outputs"], expected, atol=1e-5)
    said = json.loads(loaded.stdout)
    assert said["labels"] == list(classes) == ["n05600637", "not-a-face"] and said["classes"] == 2
    assert said["config"] == {
        "input_size": [3, size, size], "interpolation": "bicubic", "crop_pct": 1.0,
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    }  # fmt: skip

    again = cli("push", finished, "me/faces-encoder", "--format", "json", env=hub.env())
    assert json.loads(again.stdout)["files_uploaded"] == 0 and len(hub.commits("faces-encoder")) == 1


def test_the_model_card_says_what_it_is(hub: Hub, finished: Path, cli: CliRun):
    done = cli("push", finished, "me/card", env=hub.env())
    assert done.returncode == 0 and 'timm.create_model("hf-hub:me/card", pretrained=True)' in done.stdout
    card = hub.content("card", "README.md").decode()
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "timm", "pipeline_tag": "image-classification",
        "tags": ["timm", "image-classification", "imagenet-sd"],
    }  # fmt: skip
    result = json.loads((finished / "result.json").read_text())
    blocks = [yaml.safe_load(part.split("```")[0]) for part in text.split("```yaml\n")[1:]]
    assert blocks[0]["data"] == "builtin:faces@per_class=20"
    assert blocks[0]["measured"]["val_top1"] == result["val_top1"]
    assert blocks[1] == yaml.safe_load((finished / "recipe.yaml").read_text())["train"]


def test_a_local_path_and_markup_stay_out_of_the_card(finished: Path):
    from imagenet_sd.storage.model_card import model_card

    _, facts = timm_files(finished)
    hostile = "```\n# <script>alert(1)</script>"
    card = model_card("me/x", {**facts, "data": hostile, "train": {"name": hostile}})
    assert card.count("```") == 6 and "\n# <script" not in card
    from imagenet_sd.training.publish import _public

    assert _public("imagefolder:/home/me/secret/pets") == "imagefolder:pets" and _public("hf:me/set") == "hf:me/set"


@pytest.mark.parametrize("objective", ["projector", "cosine"])
def test_other_heads_leave_the_encoder_alone(objective: str, tmp_path: Path):
    settings = ["model.projector_layers=1", "model.projector_hidden=8", "model.projector_bottleneck=4"]
    settings += ["objective.loss=cosine_softmax"] if objective == "cosine" else []
    run = run_of(tmp_path / "run", *settings)
    files, facts = timm_files(run)
    config = json.loads(files["config.json"])
    assert config["num_classes"] == 0 and facts["classes"] == () and "label_names" not in config["pretrained_cfg"]
    (tmp_path / "model.safetensors").write_bytes(files["model.safetensors"])
    published, own = load_file(tmp_path / "model.safetensors"), load_file(run / "encoder.safetensors")
    assert published.keys() == own.keys() and all(torch.equal(published[key], own[key]) for key in own)


def test_a_network_that_timm_cannot_name_is_refused(tmp_path: Path, cli: CliRun):
    run = run_of(tmp_path / "run", "model.small_images=true", "model.backbone=resnet10t")
    with pytest.raises(TrainingError, match="without the pooling of its stem") as caught:
        timm_files(run)
    assert "model.small_images=false" in caught.value.hint
    (run / "encoder.safetensors").unlink()
    done = cli("push", run, "me/nothing")
    assert done.returncode == 1 and "is no finished run: encoder.safetensors is missing" in done.stderr
