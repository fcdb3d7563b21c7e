"""A probe is never tested on the images that it was trained on without a word: no test split, and overlap."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.specs import DataSpec, EncoderSpec
from imagenet_sd.core.types import FeatureSet
from imagenet_sd.data.images import ChosenImages
from imagenet_sd.data.open import has_test_images, open_images
from imagenet_sd.data.parquet import files_of_split
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.encoders import timm_encoder
from imagenet_sd.evaluation.features import Extracted, extract
from imagenet_sd.evaluation.splits import check_apart, hold_out, open_apart
from imagenet_sd.pipeline import evaluate, extract_features
from tests.conftest import CliRun

ENCODER = "timm:test_resnet@random"
TINY = EvalConfig(crop_size=32, probe="knn", seeds=(0,), trials=1)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise_folder(folder: Path, classes: tuple[str, ...] = ("a", "b"), count: int = 30, seed: int = 0) -> Path:
    """Noise, of which nothing can be learned but the images themselves."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / name / f"{i:03d}.png")
    return folder


def extracted(digests: list[int], labels: list[int]) -> Extracted:
    rows = np.arange(len(labels), dtype=np.float32)[:, None]
    return Extracted(
        data=FeatureSet(features=rows, labels=np.array(labels)),
        classes=("a", "b"),
        unreadable=("x",),
        cache_key="k",
        from_cache=True,
        digests=np.array(digests, np.uint64),
    )


def test_a_folder_without_splits_is_held_out_and_the_result_says_so(tmp_path: Path, capsys):
    """k-NN with k = 1 among its choices scores 100% where a test image is a training image; noise must give chance."""
    document = evaluate(ENCODER, {"f": f"imagefolder:{noise_folder(tmp_path / 'f')}"}, TINY, cache=tmp_path / "c")
    (result,) = document["results"]
    assert result["num_train"] == 48 and result["num_test"] == 12 and result["top1"] < 0.95
    assert result["note"] == "no test split: 12 of 60 images held out for the test, stratified, seed 0"
    assert "note: f: no test split" in capsys.readouterr().err


def test_the_split_depends_on_the_content_alone(tmp_path: Path):
    """Other names and another order: the same images are held out."""
    one = noise_folder(tmp_path / "one")
    other = tmp_path / "other"
    for path in one.rglob("*.png"):
        target = other / path.parent.name / f"{999 - int(path.stem)}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    parts = [extract_features(ENCODER, f"imagefolder:{f}", "test", TINY, cache=tmp_path / "c") for f in (one, other)]
    rows = [sorted(map(tuple, part.features.round(4).tolist())) for part in parts]
    assert len(rows[0]) == 12 and np.allclose(rows[0], rows[1], atol=1e-3)
    train = extract_features(ENCODER, f"imagefolder:{one}", "train", TINY, cache=tmp_path / "c")
    assert len(train.labels) == 48 and np.bincount(train.labels).tolist() == [24, 24]


@pytest.mark.parametrize("form", ["{0}", "parquet:{0}", "parquet:{0}/data"])
def test_a_generated_dataset_is_held_out_too(small_dataset: Path, form: str, tmp_path: Path):
    spec = form.format(small_dataset)
    train, test = (extract_features(ENCODER, spec, split, TINY, cache=tmp_path) for split in ("train", "test"))
    assert sorted(train.labels) == sorted(test.labels) == list(range(10))  # of two images a class, one each
    assert not {row.tobytes() for row in train.features} & {row.tobytes() for row in test.features}
    with pytest.raises(EvaluationError, match="d: no class has a second training image"):
        evaluate(ENCODER, {"d": spec}, TINY, cache=tmp_path)


def test_equal_images_of_a_class_stay_together_and_a_lone_one_trains():
    whole = extracted([7] * 5 + [8] * 5 + [1, 2, 3, 4, 5, 6], [0] * 10 + [1] * 6)
    train, test, _ = hold_out(whole, "w")
    assert not set(train.digests.tolist()) & set(test.digests.tolist())
    assert np.bincount(test.data.labels).tolist() == [5, 1] and len(train.data.labels) == 10
    assert sorted([*train.data.features[:, 0], *test.data.features[:, 0]]) == list(range(16))
    assert train.unreadable == () and test.unreadable == ("x",)
    train, test, _ = hold_out(extracted([1, 2, 3, 3], [0, 0, 1, 1]), "w")
    assert test.data.labels.tolist() == [0]
    with pytest.raises(EvaluationError, match="w has no test split, and too few images"):
        hold_out(extracted([1, 2], [0, 1]), "w")


def test_images_in_both_splits_are_counted_and_too_many_are_an_error(tmp_path: Path, cli: CliRun):
    noise_folder(tmp_path / "f" / "train", seed=1)
    test = noise_folder(tmp_path / "f" / "test", seed=2, count=10)
    shutil.copy(tmp_path / "f/train/a/000.png", test / "a" / "copy.png")
    shutil.copy(tmp_path / "f/train/a/001.png", test / "b" / "copy.png")  # under another label
    spec = {"f": f"imagefolder:{tmp_path / 'f'}"}
    (result,) = evaluate(ENCODER, spec, TINY, cache=tmp_path / "c")["results"]
    assert result["note"] == "2 of 22 test images are training images too" and result["num_train"] == 60
    shutil.rmtree(test)
    shutil.copytree(tmp_path / "f/train", test)
    done = cli("evaluate", ENCODER, "--data", f"f={spec['f']}", "--crop-size", 32, "--cache", tmp_path / "c",
               "--out", tmp_path / "r.json")  # fmt: skip
    assert done.returncode == 1 and "error: f: 60 of 60 test images are training images too" in done.stderr
    assert not (tmp_path / "r.json").exists()
    assert check_apart(extracted([1, 2], [0, 1]), extracted([3, 4], [0, 1]), "x") == ""


@pytest.mark.parametrize("suite", ["analysis", "fewshot"])
def test_other_suites_say_which_images_they_took(suite: str, tmp_path: Path):
    config = EvalConfig(crop_size=32, suite=suite, seeds=(0,), trials=1, shots=(2,), episodes=0)
    document = evaluate(ENCODER, {"f": f"imagefolder:{noise_folder(tmp_path / 'f')}"}, config, cache=tmp_path / "c")
    (result,) = document["results"]
    said = "all images: there is no test split" if suite == "analysis" else "no test split: 12 of 60 images held out"
    assert result["note"].startswith(said)


@pytest.mark.parametrize(
    "settings",
    [
        {"suite": "readout", "targets": "class,brightness"},
        {"probe": "gradient", "blocks": "layer4", "gradient_steps": 2},
        {"suite": "imagenet-probe", "probe": "knn"},
    ],
)
def test_suites_that_open_the_images_themselves_hold_the_same_ones_out(settings: dict[str, Any], tmp_path: Path):
    config = EvalConfig(crop_size=32, seeds=(0,), trials=1, **settings)
    data = f"imagefolder:{noise_folder(tmp_path / 'f')}"
    results = evaluate(ENCODER, {"f": data}, config, cache=tmp_path / "c")["results"]
    note = "no test split: 12 of 60 images held out for the test, stratified, seed 0"
    assert results and {(r["num_train"], r["num_test"], r["note"]) for r in results} == {(48, 12, note)}
    train, test, said = open_apart("f", DataSpec.parse(data))
    found = [
        {record.digest() for group in range(len(part.group_sizes)) for record in part.read_group(group)}
        for part in (train, test)
    ]
    assert said == note and [len(each) for each in found] == [48, 12] and not found[0] & found[1]
    encoder = timm_encoder(EncoderSpec.parse(ENCODER))
    whole = extract(encoder, open_images(data, "test"), TINY, tmp_path / "c")
    assert [set(part.digests.tolist()) for part in hold_out(whole, "f")[:2]] == found


def test_a_probe_on_further_sets_counts_its_training_images_among_them(tmp_path: Path):
    """To score a probe on images of its training is allowed there, and said."""
    spec = {name: f"imagefolder:{noise_folder(tmp_path / name)}" for name in ("f", "again")}
    config = replace(TINY, suite="imagenet-probe")
    first, second = evaluate(ENCODER, spec, config, cache=tmp_path / "c")["results"]
    assert first["note"].startswith("no test split: 12 of 60") and "training images too" not in first["note"]
    assert second["note"] == "all images: there is no test split; 48 of 60 test images are training images too"


def test_images_are_chosen_out_of_groups(small_dataset: Path):
    images = open_images(str(small_dataset))
    names = [record.image_id for group in range(len(images.group_sizes)) for record in images.read_group(group)]
    chosen = np.arange(len(names)) % 3 == 1
    part = ChosenImages(images, chosen)
    found = [[record.image_id for record in part.read_group(group)] for group in range(len(part.group_sizes))]
    assert [name for each in found for name in each] == [name for name, kept in zip(names, chosen, strict=True) if kept]
    assert [len(each) for each in found] == list(part.group_sizes)
    assert ChosenImages(images, np.zeros(len(names), bool)).group_sizes == []


def test_parts_of_a_memory_map_are_memory_maps(tmp_path: Path):
    small = extracted(list(range(3000)), [0, 1] * 1500)
    np.save(tmp_path / "features.npy", small.data.features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    large = replace(small, data=FeatureSet(features=mapped, labels=small.data.labels))
    for expected, found in zip(hold_out(small, "s")[:2], hold_out(large, "s")[:2], strict=True):
        assert isinstance(found.data.features, np.memmap) and not isinstance(expected.data.features, np.memmap)
        assert np.array_equal(found.data.features, expected.data.features)
        assert np.array_equal(found.data.labels, expected.data.labels)


def test_the_report_repeats_the_note(tmp_path: Path):
    from imagenet_sd.report.collect import collect

    out = tmp_path / "results.json"
    evaluate(ENCODER, {"f": f"imagefolder:{noise_folder(tmp_path / 'f')}"}, TINY, cache=tmp_path / "c", out=out)
    assert any("f: no test split: 12 of 60" in remark for remark in collect([out]).remarks)


def test_official_splits_are_left_alone(tmp_path: Path):
    (result,) = evaluate(ENCODER, {"f": "builtin:faces"}, TINY, cache=tmp_path)["results"]
    assert (result["num_train"], result["num_test"]) == (100, 100) and "note" not in result


def test_which_specs_have_test_images(tmp_path: Path, small_dataset: Path):
    def has(text: str) -> bool:
        return has_test_images(DataSpec.parse(text))

    both, train, test, plain = (tmp_path / name for name in ("both", "train_only", "test_only", "plain"))
    for folder in (both / "train", both / "val", train / "train", test / "test"):
        noise_folder(folder, count=1)
    noise_folder(plain, ("bus", "train"), count=1)  # a class of that name, as in COCO
    assert [has(f"imagefolder:{f}") for f in (both, train, test, plain)] == [True, False, True, False]
    assert has("builtin:faces") and not has(str(small_dataset)) and not has(f"parquet:{small_dataset}")
    assert open_images(f"imagefolder:{plain}").classes == ("bus", "train")
    assert open_images(f"imagefolder:{train}", "test").classes == ("a", "b")
    with pytest.raises(DatasetError, match="has test images only, in test"):
        open_images(f"imagefolder:{test}", "train")
    noise_folder(train / "valid", count=1)
    assert has(f"imagefolder:{train}")
    noise_folder(both / "test", ("b", "c"), count=1)  # before val, as in files of Parquet
    assert open_images(f"imagefolder:{both}", "test").classes == ("b", "c")


def test_parquet_files_are_told_apart_by_their_names(tmp_path: Path):
    hub = ["data/test-00000-of-00001.parquet", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    assert files_of_split(hub, "train") == hub[1:] and files_of_split(hub, "test") == hub[:1]
    converted = ["default/train/0000.parquet", "default/validation/0000.parquet"]
    assert files_of_split(converted, "train") == converted[:1] and files_of_split(converted, "test") == converted[1:]
    for name in ("val", "validation", "valid"):
        files = [f"{name}-0.parquet", "test-0.parquet", "train-0.parquet"]
        assert files_of_split(files, "test") == files[1:2] and files_of_split(files[::2], "test") == files[:1]
    unnamed = ["latest.parquet", "training.parquet", "tests2.parquet"]  # none of these is the name of a split
    assert files_of_split(unnamed, "test") == files_of_split(unnamed, "train") == unnamed
    with pytest.raises(DatasetError, match="no training files"):
        files_of_split(["test.parquet"], "train")

    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for name, label in (("train", 0), ("test", 1)):
        rows = {"image": [{"bytes": b"x", "path": ""}], "label": [label]}
        pq.write_table(pa.table(rows).replace_schema_metadata(metadata), tmp_path / f"{name}-00000-of-00001.parquet")
    sets = [open_images(f"parquet:{tmp_path}", split) for split in ("train", "test")]
    assert [[r.label for r in s.read_group(0)] for s in sets] == [[0], [1]]
    assert [len(s.group_sizes) for s in sets] == [1, 1]
