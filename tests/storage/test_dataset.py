"""What is on disk: read by `datasets` with no further code, verified to the last bit, repaired to the same bytes."""

import io
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imagenet_sd.core.seeds import image_seed
from imagenet_sd.data.builtin import DIGIT_WNIDS
from imagenet_sd.pipeline import open_dataset
from imagenet_sd.storage.schema import COLUMNS
from imagenet_sd.storage.verify import verify_dataset
from tests.conftest import CliRun
from tests.generation.test_resume import shard_hashes


@pytest.fixture
def dataset(small_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_dataset, tmp_path / "copy"))


def shards(out: Path) -> list[Path]:
    return sorted(out.glob("data/*/*.parquet"))


def faults(out: Path) -> list[str]:
    return [f"{fault.path}: {fault.message}" for fault in verify_dataset(open_dataset(out))]


def test_rows_hold_what_the_plan_says(small_dataset: Path):
    rows = [row for path in shards(small_dataset) for row in pq.read_table(path).to_pylist()]
    assert [path.name for path in shards(small_dataset)] == [f"train-0000{i}-of-00004.parquet" for i in range(4)]
    assert tuple(rows[0]) == COLUMNS
    assert sorted(row["image_id"] for row in rows) == [f"{wnid}_{i:06d}" for wnid in DIGIT_WNIDS for i in range(2)]
    for row in rows:
        assert row["label"] == DIGIT_WNIDS.index(row["wnid"])
        assert row["seed"] == image_seed(0, row["wnid"], int(row["image_id"].split("_")[1]))
        assert row["image"]["path"] == f"{row['image_id']}.jpg"
        assert (row["guidance_scale"], row["num_inference_steps"], row["model_id"]) == (2.0, 5, "embedded")
        assert (row["template"], row["background"]) == ("c_dc", "")
        assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (32, 32)
    first = json.loads((small_dataset / "data/round-000/.manifests/train-00000.json").read_text())
    assert first["sha256"] == shard_hashes(small_dataset)["data/round-000/train-00000-of-00004.parquet"]
    assert first["generator"]["dtype"] == "float32" and first["generator"]["versions"]["torch"]


@pytest.mark.parametrize("how", ["folder", "folder without its card", "parquet files"])
def test_load_dataset_gives_images_and_class_labels(dataset: Path, tmp_path: Path, how: str):
    from datasets import ClassLabel, load_dataset
    from datasets import Image as ImageFeature

    if how == "folder without its card":
        (dataset / "README.md").unlink()
    if how == "parquet files":
        files = [str(path) for path in shards(dataset)]
        loaded = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    else:
        loaded = load_dataset(str(dataset), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 20
    assert isinstance(loaded.features["label"], ClassLabel) and isinstance(loaded.features["image"], ImageFeature)
    assert loaded.features["label"].names == list(DIGIT_WNIDS)
    row = loaded[3]
    assert loaded.features["label"].int2str(row["label"]) == row["wnid"]
    assert np.asarray(row["image"]).shape == (32, 32, 3)


def test_a_sound_dataset_has_no_fault(small_dataset: Path, cli: CliRun):
    done = cli("verify", small_dataset, "--format", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["faults"] == []


def test_any_flipped_byte_is_found(dataset: Path):
    """Forty random bytes of random shards, one at a time; each fault names exactly that shard."""
    rng = random.Random(0)
    for _ in range(40):
        path = rng.choice(shards(dataset))
        good = path.read_bytes()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        found = faults(dataset)
        assert len(found) == 1 and found[0].startswith(str(path.relative_to(dataset)))
        path.write_bytes(good)
    assert faults(dataset) == []


def test_page_checksums_alone_find_a_flipped_image_byte(dataset: Path):
    """Without the manifest's hash: a flip inside a JPEG is found by reading, though Pillow would show the image."""
    path = shards(dataset)[0]
    jpeg = pq.read_table(path).to_pylist()[0]["image"]["bytes"]
    content = bytearray(path.read_bytes())
    at = bytes(content).find(jpeg[200:260])
    if at < 0:
        pytest.skip("the codec compressed this page")
    content[at] ^= 1
    path.write_bytes(content)
    manifest = next(dataset.glob("data/*/.manifests/train-00000.json"))
    described = json.loads(manifest.read_text())
    described["sha256"] = shard_hashes(dataset)[str(path.relative_to(dataset))]
    manifest.write_text(json.dumps(described))
    assert "unreadable after row 0" in faults(dataset)[0]


def test_verify_names_the_shard_and_repair_restores_its_bytes(small_dataset: Path, dataset: Path, cli: CliRun):
    path = shards(dataset)[2]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    done = cli("verify", dataset)
    assert done.returncode == 1
    assert "train-00002-of-00004.parquet: SHA-256 differs" in done.stdout
    done = cli("verify", dataset, "--repair")
    assert done.returncode == 0, done.stderr
    assert "the same bytes as before" in done.stdout
    assert shard_hashes(dataset) == shard_hashes(small_dataset)


def test_every_kind_of_damage_is_named(dataset: Path):
    first, second, third, fourth = shards(dataset)
    first.unlink()
    (dataset / "data/round-000/.manifests/train-00001.json").write_text('{"fingerprint": ')
    (dataset / "data/round-000/.manifests/train-00002.json").unlink()
    shutil.copy(third, fourth)
    shutil.copy(third, dataset / "data/round-000/train-00009-of-00004.parquet")
    messages = dict(fault.split(": ", 1) for fault in faults(dataset))
    prefix = "data/round-000/"
    assert "missing" in messages[prefix + first.name]
    assert "manifest unreadable" in messages[prefix + second.name]
    assert "no manifest" in messages[prefix + third.name]
    assert "rows instead of" in messages[prefix + fourth.name]
    assert messages[prefix + "train-00009-of-00004.parquet"] == "is not part of the plan"


def test_rows_that_disagree_with_the_plan_are_named(dataset: Path):
    """A shard swapped for another of the same length, with a manifest that fits its bytes."""
    first, second = shards(dataset)[:2]
    shutil.copy(second, first)
    manifest = dataset / "data/round-000/.manifests/train-00000.json"
    described = json.loads(manifest.read_text())
    described["sha256"] = shard_hashes(dataset)["data/round-000/" + second.name]
    manifest.write_text(json.dumps(described))
    (fault,) = faults(dataset)
    assert "row 0: image_id is" in fault and "the plan says" in fault


def test_a_folder_without_a_dataset_is_one_line(tmp_path: Path, cli: CliRun):
    for command in ("verify", "preview"):
        done = cli(command, tmp_path)
        assert done.returncode == 1
        assert "holds no dataset" in done.stderr and "Traceback" not in done.stderr


def test_the_card_has_the_header_the_hub_reads(small_dataset: Path):
    import yaml

    _, header, body = (small_dataset / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    parsed = yaml.safe_load(header)
    assert parsed["configs"][0]["data_files"] == [{"split": "train", "path": "data/round-*/train-*.parquet"}]
    assert parsed["license"] == "apache-2.0" and parsed["size_categories"] == ["n<1K"]
    assert "| 3 | `n13744044` | three, 3, III" in body and "`guidance_scale` | 2.0" in body
