"""Datasets made by older versions: their description is upgraded when it is read, and their shards stay theirs."""

import json
import shutil
from pathlib import Path

from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import ModelIdentity
from imagenet_sd.generation.plan import make_plan
from imagenet_sd.storage.dataset import Dataset
from tests.conftest import SMALL, CliRun

VERSION_1 = Path(__file__).parent / "fixtures" / "dataset-version-1.json"
"""As `generate` wrote it before the settings were called settings."""


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_description_of_version_1_is_the_dataset_it_was():
    document = json.loads(VERSION_1.read_text())
    assert document["format_version"] == 1 and "recipe" in document
    old = Dataset.from_document(Path("old"), document)
    assert old.fingerprint == document["fingerprint"] == "c1effda6a7be6c143b97b56f0b855465"
    config = GenerationConfig(
        model="embedded", classes="digits-10", prompt="c_dc", guidance_scale=2, num_inference_steps=10,
        images_per_class=24, shard_size=40, seed=7,
    )  # fmt: skip
    plan, new = make_plan(config, ModelIdentity.recorded(document["recipe"]))  # the model that shipped then
    assert old.document == new | {"made_with": document["made_with"]}
    assert plan.requests(plan.shard(5)) == old.plan.requests(old.plan.shard(5))


def test_a_folder_of_version_1_is_complete_sound_and_left_alone(small_dataset: Path, tmp_path: Path, cli: CliRun):
    out = Path(shutil.copytree(small_dataset, tmp_path / "old"))
    document = json.loads((out / "dataset.json").read_text())
    renamed = {"recipe" if key == "settings" else key: value for key, value in document.items()}
    (out / "dataset.json").write_text(json.dumps(renamed | {"format_version": 1}, indent=2, ensure_ascii=False) + "\n")
    before = snapshot(out)
    done = cli(*SMALL, "--out", out)
    assert done.returncode == 0 and "0 shards generated in this run" in done.stdout, done.stderr
    done = cli("verify", out)
    assert done.returncode == 0 and "sound" in done.stdout
    assert snapshot(out) == before
    done = cli(*SMALL, "--scale", "3", "--out", out)
    assert done.returncode == 1 and "guidance_scale: 2.0 there, 3.0 asked for" in done.stderr
