"""Sets of labelled images and the one door to them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.files import IMAGE_SUFFIXES, image_files
from imagenet_sd.data.images import ArraySet, FolderSet
from imagenet_sd.data.open import open_images
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import offline_identity
from imagenet_sd.generation.plan import make_plan
from imagenet_sd.prompts.classes import load_classes


def test_a_generated_dataset_and_its_parquet_files_read_alike(small_dataset: Path):
    ours, plain = open_images(str(small_dataset)), open_images(f"parquet:{small_dataset}/data/round-000")
    records = [r for g in range(len(ours.group_sizes)) for r in ours.read_group(g)]
    others = [r for g in range(len(plain.group_sizes)) for r in plain.read_group(g)]
    assert sum(ours.group_sizes) == 20 and ours.classes == plain.classes and len(ours.classes) == 10
    assert [(r.image_id, r.label, r.data) for r in records] == [(r.image_id, r.label, r.data) for r in others]
    assert records[0].decode().size == (32, 32)


def test_image_folder_labels_follow_sorted_names_as_in_torchvision(tmp_path: Path):
    from torchvision.datasets import ImageFolder

    for name in ("n2", "n1", "n10"):
        (tmp_path / name / "deep").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name / "x.png")
        Image.new("L", (8, 8)).save(tmp_path / name / "deep" / "y.JPEG")
    ours, theirs = FolderSet(tmp_path), ImageFolder(str(tmp_path))
    assert list(ours.classes) == theirs.classes
    assert [(str(path), label) for path, label in ours.files] == theirs.samples or sorted(
        (str(path), label) for path, label in ours.files
    ) == sorted(theirs.samples)
    assert ours.read_group(0)[0].decode().mode == "RGB"


@pytest.mark.parametrize(
    "spec", ["builtin:nothing", "imagefolder:/nowhere", "gopher:x", "/nowhere", "parquet:/nowhere"]
)
def test_missing_data_is_one_line_with_a_hint(spec: str):
    with pytest.raises(DatasetError) as caught:
        open_images(spec)
    assert "\n" not in str(caught.value) and caught.value.hint


@pytest.mark.parametrize(("name", "train", "test"), [("mnist", 4000, 1000), ("digits", 1198, 599), ("faces", 100, 100)])
def test_builtin_sets(name: str, train: int, test: int):
    sets = [open_images(f"builtin:{name}", split) for split in ("train", "test")]
    assert [sum(s.group_sizes) for s in sets] == [train, test]
    assert all(isinstance(s, ArraySet) and s.images.shape[1:] == (32, 32, 3) for s in sets)
    digests = [{image.tobytes() for image in s.images} for s in sets if isinstance(s, ArraySet)]
    assert not digests[0] & digests[1]


def test_real_data_can_be_limited_per_class():
    whole = open_images("builtin:mnist")
    labels = np.array([whole.read_group(g)[0].label for g in range(len(whole.group_sizes))])
    few = open_images("builtin:mnist@per_class=3")
    expected = sorted(np.concatenate([np.flatnonzero(labels == c)[:3] for c in range(10)]))
    assert len(few.group_sizes) == 30
    for group, row in enumerate(expected):
        a, b = few.read_group(group)[0], whole.read_group(row)[0]
        assert (a.image_id, a.label) == (b.image_id, b.label) and np.array_equal(a.data, b.data)
    with pytest.raises(DatasetError, match="keeps nothing"):
        open_images("builtin:mnist@per_class=0")
    with pytest.raises(DatasetError, match="has no rounds"):
        open_images("builtin:mnist@rounds=1")


def test_match_counts_the_images_that_the_reader_reads(tmp_path: Path):
    """Any suffix in any case, at any depth; hidden files and other files are none."""
    digits = load_classes("digits-10")
    names = [
        "a.png",
        "b.TIFF",
        "deep/c.webp",
        "deep/er/d.ppm",
        ".e.png",
        "notes.txt",
        *(f"x{s}" for s in IMAGE_SUFFIXES),
    ]
    for spec in digits:
        for name in names:
            (tmp_path / spec.wnid / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / spec.wnid / name).touch()
    config = GenerationConfig(model="embedded", classes="digits-10", match=str(tmp_path))
    plan, _ = make_plan(config, offline_identity(config))
    images = FolderSet(tmp_path)
    assert plan.counts == (12,) * 10 and sum(images.group_sizes) == 120
    assert [file for file, label in images.files if label == 3] == image_files(tmp_path / digits[3].wnid)
