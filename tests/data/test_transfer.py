"""Every transfer dataset and every ImageNet test set, opened from a small tree of its published layout."""

import json
import os
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.data.imagenet_family import family_members, open_imagenet
from imagenet_sd.data.images import LabelledImage, ListSet
from imagenet_sd.data.open import open_images
from imagenet_sd.data.transfer import TRANSFER_SETS, open_transfer
from imagenet_sd.prompts.classes import load_classes

WNIDS = tuple(spec.wnid for spec in load_classes("imagenet-1k"))


def paint(path: Path, mode: str = "RGB") -> None:
    """A small real image file, whose pixels depend on its name and folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (9, 12) if mode == "L" else (9, 12, 3)
    seed = list(f"{path.parent.name}/{path.name}".encode())
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="PNG" if path.suffix == ".png" else "JPEG")


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_mat(path: Path, **values) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, values)


# Each builder lays the tree out as its archive unpacks and returns (classes, train labels, test labels), where labels
# are {image id: class name}.


def aircraft(root: Path):
    data = root / "fgvc-aircraft-2013b/data"
    classes = ["707-320", "Boeing 717", "F/A-18"]
    write(data / "variants.txt", classes)
    parts = {}
    for start, part in enumerate(("train", "val", "test")):
        parts[part] = {f"{1_000_000 + 10 * start + i:07d}": classes[i % 3] for i in range(3)}
    parts["trainval"] = parts["train"] | parts["val"]
    for part, images in parts.items():
        write(data / f"images_variant_{part}.txt", [f"{image} {variant}" for image, variant in images.items()])
        for image in images:
            paint(data / f"images/{image}.jpg")
    return classes, *({f"{i}.jpg": c for i, c in parts[part].items()} for part in ("trainval", "test"))


def cars196(root: Path):
    base, classes = root / "stanford_cars", ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Audi A5 Coupe 2012"]
    write_mat(base / "devkit/cars_meta.mat", class_names=np.array(classes, dtype=object)[None])
    fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    labels = []
    for part, order in (("train", [2, 1, 3, 1]), ("test", [3, 1, 2])):
        rows = [(1, 1, 9, 9, label, f"{i:05d}.jpg") for i, label in enumerate(order, 1)]
        target = "devkit/cars_train_annos.mat" if part == "train" else "cars_test_annos_withlabels.mat"
        write_mat(base / target, annotations=np.array(rows, dtype=fields)[None])
        labels.append({row[5]: classes[row[4] - 1] for row in rows})
        for row in rows:
            paint(base / f"cars_{part}" / row[5])
    return classes, *labels


def dtd(root: Path):
    base, classes = root / "dtd/dtd", ["banded", "blotchy", "zigzagged"]
    parts = {p: [f"{c}/{c}_{i:04d}.jpg" for c in classes] for i, p in enumerate(("train", "val", "test"), 1)}
    for part, paths in parts.items():
        write(base / f"labels/{part}1.txt", paths)
        write(base / f"labels/{part}2.txt", paths[:1])
        for path in paths:
            paint(base / "images" / path)
    labels = {p: {path: path.split("/")[0] for path in paths} for p, paths in parts.items()}
    return classes, labels["train"] | labels["val"], labels["test"]


def eurosat(root: Path):
    classes = ["AnnualCrop", "Forest", "SeaLake"]
    files = {f"{c}/{c}_{i}.jpg": c for c in classes for i in range(1, 11)}
    for file in files:
        paint(root / "eurosat/2750" / file)
    return classes, 21, 9


def flowers(root: Path):
    base, labels = root / "flowers-102", [3, 1, 2, 2, 3, 1, 1, 2, 3]
    sets = {"trnid": [2, 3, 1], "valid": [4, 6, 5], "tstid": [7, 8, 9]}
    write_mat(base / "imagelabels.mat", labels=np.array(labels, dtype=np.uint8)[None])
    write_mat(base / "setid.mat", **{key: np.array(ids, dtype=np.uint16)[None] for key, ids in sets.items()})
    for i in range(1, 10):
        paint(base / f"jpg/image_{i:05d}.jpg")
    named = {key: {f"image_{i:05d}.jpg": f"{labels[i - 1]:03d}" for i in ids} for key, ids in sets.items()}
    return ["001", "002", "003"], named["trnid"] | named["valid"], named["tstid"]


def pets(root: Path):
    base, classes = root / "oxford-iiit-pet", ["Abyssinian", "american_bulldog", "yorkshire_terrier"]
    parts = []
    for part, start in (("trainval", 100), ("test", 1)):
        rows = [(f"{c}_{start + i}", label) for i in range(2) for label, c in enumerate(classes, 1)]
        write(base / f"annotations/{part}.txt", [f"{image} {label} {1 + (label > 1)} 1" for image, label in rows])
        for image, _ in rows:
            paint(base / f"images/{image}.jpg")
        parts.append({f"{image}.jpg": classes[label - 1] for image, label in rows})
    write(base / "annotations/list.txt", ["#Image CLASS-ID SPECIES BREED ID"])
    return classes, *parts


def food101(root: Path):
    base, classes = root / "food-101", ["apple_pie", "baby_back_ribs", "waffles"]
    parts = []
    for part, count in (("train", 3), ("test", 1)):
        names = {c: [f"{c}/{len(part)}{i}{i}" for i in range(count)] for c in reversed(classes)}
        for path in (path for paths in names.values() for path in paths):
            paint(base / f"images/{path}.jpg")
        write(base / f"meta/{part}.json", [json.dumps(names)])
        parts.append({f"{path}.jpg": c for c, paths in names.items() for path in paths})
    write(base / "meta/classes.txt", classes)
    return classes, *parts


def sun397(root: Path, partitions: bool = True):
    base, classes = root / "SUN397", ["abbey", "apartment_building/outdoor", "zoo"]
    folders = [f"/{c[0]}/{c}" for c in classes]
    write(base / "ClassName.txt", folders)
    parts = [
        {f"{f}/sun_{part}{i}xyz.jpg": c for f, c in zip(folders, classes, strict=True) for i in range(2)}
        for part in "ab"
    ]
    for path in (*parts[0], *parts[1], "/z/zoo/sun_c9.jpg"):  # the lists leave images out
        paint(base / path[1:])
    if partitions:
        for part, name in zip(parts, ("Training_01.txt", "Testing_01.txt"), strict=True):
            write(base / "Partitions" / name, list(part))
    return classes, *({path[1:]: c for path, c in part.items()} for part in parts)


def inat(root: Path, year: str):
    base, parts = root / f"inat{year[2:]}", []
    for part, count in (("train", 3), ("val", 1)):
        rows = [(100 * c + i, f"train_val{year}/Aves/{c}/{part}{i}{c}.jpg", c) for i in range(count) for c in (10, 2)]
        for _, path, _ in rows:
            paint(base / path)
        annotations = {
            "info": {"year": int(year)},
            "images": [{"id": i, "file_name": path, "width": 12, "height": 9} for i, path, _ in rows],
            "annotations": [{"id": i, "image_id": i, "category_id": c} for i, _, c in reversed(rows)],
            "categories": [{"id": c, "name": f"Avis {c}", "supercategory": "Aves"} for c in (10, 2)],
        }
        write(base / f"{part}{year}.json", [json.dumps(annotations)])
        parts.append({path: f"{c:05d}" for _, path, c in rows})
    return ["00002", "00010"], *parts


def cifar_records(count: int, classes: int, head: tuple[int, ...] = ()) -> bytes:
    rng = np.random.default_rng(count)
    return b"".join(
        bytes([*head, i % classes]) + rng.integers(0, 256, 3072, dtype=np.uint8).tobytes() for i in range(count)
    )


def cifar10(root: Path):
    base, classes = root / "cifar-10-batches-bin", [f"class{i}" for i in range(10)]
    write(base / "batches.meta.txt", [*classes, ""])
    for batch in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (base / f"{batch}.bin").write_bytes(cifar_records(20, 10))
    return classes, 100, 20


def cifar100(root: Path):
    base, classes = root / "cifar-100-binary", [f"fine{i:02d}" for i in range(100)]
    write(base / "fine_label_names.txt", classes)
    write(base / "coarse_label_names.txt", [f"coarse{i}" for i in range(20)])
    (base / "train.bin").write_bytes(cifar_records(200, 100, (19,)))
    (base / "test.bin").write_bytes(cifar_records(100, 100, (19,)))
    return classes, 200, 100


def caltech101(root: Path):
    base, sizes = root / "caltech101/101_ObjectCategories", {"Faces": 33, "accordion": 31, "BACKGROUND_Google": 4}
    for name, size in sizes.items():
        for i in range(1, size + 1):
            paint(base / name / f"image_{i:04d}.jpg", mode="L" if i == 1 else "RGB")
    return ["Faces", "accordion"], 60, 4


def cub(root: Path):
    base, classes = root / "CUB_200_2011", ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    paths = [f"{c}/{c[4:]}_{i:04d}_79{i}.jpg" for c in classes for i in range(4)]
    write(base / "classes.txt", [f"{i} {c}" for i, c in enumerate(classes, 1)])
    write(base / "images.txt", [f"{i} {path}" for i, path in enumerate(paths, 1)])
    write(base / "image_class_labels.txt", [f"{i} {int(path[:3])}" for i, path in enumerate(paths, 1)])
    write(base / "train_test_split.txt", [f"{i} {int(i % 4 != 0)}" for i in range(1, 9)])
    for path in paths:
        paint(base / "images" / path)
    labels = {i: {p: p.split("/")[0] for n, p in enumerate(paths, 1) if (n % 4 != 0) == i} for i in (True, False)}
    return classes, labels[True], labels[False]


BUILDERS = {
    "aircraft": aircraft,
    "cars196": cars196,
    "dtd": dtd,
    "eurosat": eurosat,
    "flowers": flowers,
    "pets": pets,
    "food101": food101,
    "sun397": sun397,
    "inat18": lambda root: inat(root, "2018"),
    "inat19": lambda root: inat(root, "2019"),
    "cifar10": cifar10,
    "cifar100": cifar100,
    "caltech101": caltech101,
    "cub": cub,
}


def records(images) -> list[LabelledImage]:
    return [record for group in range(len(images.group_sizes)) for record in images.read_group(group)]


def named(images) -> dict[str, str]:
    return {record.image_id: images.classes[record.label] for record in records(images)}


def one_line(error: DatasetError) -> bool:
    return bool(str(error)) and bool(error.hint) and "\n" not in str(error) + error.hint


# ---- the transfer datasets


@pytest.mark.parametrize("name", TRANSFER_SETS)
def test_the_published_layout_opens(name: str, tmp_path: Path):
    classes, *expected = BUILDERS[name](tmp_path)
    seen: list[set] = []
    for split, wanted in zip(("train", "test"), expected, strict=True):
        images = open_transfer(name, tmp_path, split)
        assert list(images.classes) == classes
        found = records(images)
        assert len(found) == sum(images.group_sizes) == (wanted if isinstance(wanted, int) else len(wanted))
        assert len({record.image_id for record in found}) == len(found)
        assert {record.label for record in found} == set(range(len(classes)))
        assert all(record.decode().mode == "RGB" for record in found)
        if not isinstance(wanted, int):
            assert named(images) == wanted
        if name.startswith("cifar"):
            assert found[0].decode().size == (32, 32)
        else:
            assert all(isinstance(record.data, Path) for record in found)  # nothing is read before it is asked for
            assert found[0].decode().size == (12, 9)
        seen.append({record.image_id for record in found if isinstance(record.data, Path)})
    if name != "cars196":  # its two folders number their images from 1 alike
        assert not seen[0] & seen[1]
    else:
        paths = [{r.data for r in records(open_transfer(name, tmp_path, split))} for split in ("train", "test")]
        assert not paths[0] & paths[1]


@pytest.mark.parametrize("name", [n for n in TRANSFER_SETS if not n.startswith(("inat", "caltech", "eurosat"))])
def test_the_dataset_folder_itself_will_do_for_the_root(name: str, tmp_path: Path):
    BUILDERS[name](tmp_path)
    inner = open_transfer(name, tmp_path / TRANSFER_SETS[name].folders[0], "test")
    assert inner.classes == open_transfer(name, tmp_path, "test").classes


def ours_view(*sets: ListSet) -> Counter[tuple[bytes, int]]:
    """(pixels, label) of every image; the pixels of an image depend on the name of its file."""
    return Counter((record.decode().tobytes(), record.label) for images in sets for record in records(images))


def torchvision_view(name: str, root: Path, split: str) -> Counter[tuple[bytes, int]]:
    from torchvision import datasets as tv

    if name == "aircraft":
        sets = [tv.FGVCAircraft(root, "trainval" if split == "train" else "test")]
    elif name == "dtd":
        sets = [tv.DTD(root, part) for part in (("train", "val") if split == "train" else ("test",))]
    elif name == "flowers":
        sets = [tv.Flowers102(root, part) for part in (("train", "val") if split == "train" else ("test",))]
    elif name == "pets":
        sets = [tv.OxfordIIITPet(root, "trainval" if split == "train" else "test")]
    elif name == "food101":
        sets = [tv.Food101(root, split)]
    else:
        sets = [tv.StanfordCars(root, split)]
    return Counter((image.tobytes(), label) for part in sets for image, label in part)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["aircraft", "cars196", "dtd", "flowers", "pets", "food101"])
def test_it_agrees_with_torchvision(name: str, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda *_: True)  # our tree has other sums
    BUILDERS[name](tmp_path)
    ours = ours_view(open_transfer(name, tmp_path, split))
    assert ours and ours == torchvision_view(name, tmp_path, split)


def test_trees_agree_with_torchvision(tmp_path: Path):
    from torchvision import datasets as tv

    for name, make in (("eurosat", tv.EuroSAT), ("sun397", tv.SUN397), ("caltech101", tv.Caltech101)):
        BUILDERS[name](tmp_path)
        theirs = make(tmp_path)
        classes = theirs.categories if name == "caltech101" else theirs.classes
        images = [open_transfer(name, tmp_path, split) for split in ("train", "test")]
        assert list(images[0].classes) == classes
        ours = {record.data: record.label for part in images for record in records(part)}
        if name == "eurosat":
            assert ours == {Path(path): label for path, label in theirs.samples}
        elif name == "sun397":
            assert ours_view(*images) <= Counter((image.tobytes(), label) for image, label in theirs)
        else:
            assert len(ours) == len(theirs)


def test_cifar_pixels_are_planes_of_red_green_and_blue(tmp_path: Path):
    cifar100(tmp_path)
    record = bytes([7, 42]) + b"\x0a" * 1024 + b"\x14" * 1024 + bytes(i % 32 for i in range(1024))
    (tmp_path / "cifar-100-binary/test.bin").write_bytes(record)
    (only,) = records(open_transfer("cifar100", tmp_path, "test"))
    assert only.label == 42
    pixels = np.asarray(only.decode())
    assert pixels[5, 9].tolist() == [10, 20, 9]
    assert pixels[9, 5].tolist() == [10, 20, 5]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_as_class_folders(name: str, tmp_path: Path):
    for split, count in (("train", 3), ("test", 2)):
        for c in ("cat", "airplane"):
            for i in (1, 2, 0)[-count:]:
                paint(tmp_path / name / split / c / f"{i}.png")
    train, test = (open_transfer(name, tmp_path, split) for split in ("train", "test"))
    assert train.classes == test.classes == ("airplane", "cat")
    assert (len(records(train)), len(records(test))) == (6, 4)
    assert [r.image_id for r in records(train)] == [f"{c}/{i}.png" for c in ("airplane", "cat") for i in range(3)]
    assert all(r.image_id.startswith(test.classes[r.label]) for r in records(test))


def test_cifar_as_pickle_is_not_read(tmp_path: Path):
    base = tmp_path / "cifar-10-batches-py"
    write(base / "batches.meta", ["pickle"])
    with pytest.raises(DatasetError) as caught:
        open_transfer("cifar10", tmp_path, "train")
    assert "binary version" in caught.value.hint


def test_inaturalist_where_torchvision_renamed_the_folder(tmp_path: Path):
    inat(tmp_path, "2018")
    (tmp_path / "inat18/train_val2018").rename(tmp_path / "inat18/2018")
    images = open_transfer("inat18", tmp_path, "test")
    assert all(record.decode() for record in records(images))


# ---- splits that nobody published


def seeded_tree(name: str, root: Path, order: list[int]) -> None:
    """Empty files of two classes, created in a given order: only their names matter."""
    place = root / TRANSFER_SETS[name].folders[0]
    if name == "sun397":
        write(place / "ClassName.txt", ["/a/abbey", "/z/zoo"])
    for i in order:
        for c in ("a/abbey", "z/zoo") if name == "sun397" else ("zebra", "abbey"):
            path = place / c / (f"sun_{i:03d}.jpg" if name == "sun397" else f"image_{i:04d}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


@pytest.mark.parametrize(("name", "sizes"), [("eurosat", (154, 66)), ("sun397", (100, 100)), ("caltech101", (60, 160))])
def test_seeded_splits_depend_on_the_names_alone(name: str, sizes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order, splits = list(range(110)), []
    listdir, scandir = os.listdir, os.scandir
    for attempt in range(2):
        root = tmp_path / f"copy{attempt}"
        seeded_tree(name, root, random.Random(attempt).sample(order, len(order)))
        if attempt:  # a file system that lists backwards
            monkeypatch.setattr(os, "listdir", lambda *a: sorted(listdir(*a), reverse=True))
            monkeypatch.setattr(
                os, "scandir", lambda *a: _Entries(sorted(scandir(*a), key=lambda e: e.name, reverse=True))
            )
        splits.append([open_transfer(name, root, split) for split in ("train", "test")])
    first, second = splits
    assert [part.files for part in first] == [part.files for part in second]
    train, test = (set(part.files) for part in first)
    assert (len(train), len(test)) == sizes
    assert not train & test
    for part, size in zip(first, sizes, strict=True):
        assert set(Counter(label for _, label in part.files).values()) == {size // 2}  # stratified
        assert "seeded" in part.note
    names = [path for path, label in first[0].files if label == 0]
    assert names != sorted(path for path, label in (train | test) if label == 0)[: len(names)]  # and mixed


class _Entries(list):
    """What `os.scandir` returns, as a list."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_eurosat_has_exactly_the_papers_sizes(tmp_path: Path):
    sizes = [3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000]
    for label, size in enumerate(sizes):
        folder = tmp_path / "eurosat/2750" / str(label)
        folder.mkdir(parents=True)
        for i in range(size):
            (folder / f"{i}.jpg").touch()
    train, test = (open_transfer("eurosat", tmp_path, split).files for split in ("train", "test"))
    assert (len(train), len(test)) == (18_900, 8_100)
    assert Counter(label for _, label in [*train, *test]) == dict(enumerate(sizes))
    assert len(set(train) | set(test)) == 27_000
    assert set(Counter(label for _, label in test).values()) == {810}


def test_sun_without_partitions_says_so(tmp_path: Path):
    sun397(tmp_path, partitions=False)
    train, test = (open_transfer("sun397", tmp_path, split) for split in ("train", "test"))
    assert "Partitions" in train.note
    assert not set(train.files) & set(test.files)
    sun397(tmp_path)
    assert open_transfer("sun397", tmp_path, "train").note == ""


def test_sun_partitions_may_lie_beside_it(tmp_path: Path):
    _, train, _ = sun397(tmp_path)
    (tmp_path / "SUN397/Partitions").rename(tmp_path / "Partitions")
    assert named(open_transfer("sun397", tmp_path, "train")) == train


# ---- the ImageNet family


def family_tree(name: str, root: Path) -> dict[str, str]:
    """A member's tree; returns {image id: wnid}."""
    member = next(member for member in family_members() if member.name == name)
    labels = {}
    for index in (0, 2, 9, 10, 100, 999):
        folder = WNIDS[index] if member.folders_are == "wnid" else str(index)
        for i in range(2):
            paint(root / member.folder / folder / f"{index}_{i}.JPEG")
            labels[f"{folder}/{index}_{i}.JPEG"] = WNIDS[index]
    write(root / member.folder / "README.txt", ["not an image"])
    return labels


@pytest.mark.parametrize("name", [member.name for member in family_members()])
def test_the_family_is_keyed_by_wnid(name: str, tmp_path: Path):
    labels = family_tree(name, tmp_path)
    images = open_imagenet(name, tmp_path)
    assert images.classes == tuple(sorted(set(labels.values())))
    assert named(images) == labels
    assert all(record.decode().size == (12, 9) for record in records(images))
    assert [r.label for r in records(images)] == sorted(r.label for r in records(images))
    folder = next(member.folder for member in family_members() if member.name == name)
    assert named(open_imagenet(name, tmp_path / folder)) == labels


@pytest.mark.parametrize("name", ["v2-matched-frequency", "v2-threshold-0.7", "v2-top-images"])
def test_folder_10_of_v2_is_the_eleventh_class(name: str, tmp_path: Path):
    family_tree(name, tmp_path)
    found = named(open_imagenet(name, tmp_path))
    assert found["10/10_0.JPEG"] == WNIDS[10]
    assert found["2/2_0.JPEG"] == WNIDS[2]


def test_all_thousand_numbered_folders(tmp_path: Path):
    folder = tmp_path / "imagenetv2-top-images-format-val"
    for i in range(1000):
        (folder / str(i)).mkdir(parents=True)
        (folder / str(i) / f"{i}.jpeg").touch()
    images = open_imagenet("v2-top-images", tmp_path)
    assert images.classes == WNIDS
    assert [path for path, _ in images.files] == [f"{i}/{i}.jpeg" for i in range(1000)]
    assert [label for _, label in images.files] == list(range(1000))


def test_the_standard_order_is_timms(tmp_path: Path):
    from timm.data import ImageNetInfo

    assert len(WNIDS) == 1000 and list(WNIDS) == sorted(set(WNIDS)) == ImageNetInfo("imagenet-1k").label_names()
    paint(tmp_path / "imagenetv2-top-images-format-val/10/a.jpeg")
    images = open_images(f"imagenet:v2-top-images@{tmp_path}", "test")
    assert images.classes == ("n01530575",)  # brambling, the eleventh class


@pytest.mark.parametrize(
    ("name", "folder"),
    [("v2-top-images", "1000"), ("v2-top-images", "01"), ("v2-top-images", "-1"), ("a", "n00000001")],
)
def test_folders_that_are_no_class_are_refused(name: str, folder: str, tmp_path: Path):
    family_tree(name, tmp_path)
    paint(tmp_path / next(m.folder for m in family_members() if m.name == name) / folder / "x.JPEG")
    with pytest.raises(DatasetError, match=re.escape(folder)) as caught:
        open_imagenet(name, tmp_path)
    assert one_line(caught.value)


# ---- faults


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", TRANSFER_SETS)
def test_a_missing_dataset_is_one_line_and_a_hint(name: str, split: str, tmp_path: Path):
    with pytest.raises(DatasetError, match=name) as caught:
        open_transfer(name, tmp_path, split)
    assert one_line(caught.value)
    assert "https://" in caught.value.hint
    assert str(tmp_path / TRANSFER_SETS[name].folders[0]) in caught.value.hint


@pytest.mark.parametrize("name", [member.name for member in family_members()])
def test_a_missing_member_is_one_line_and_a_hint(name: str, tmp_path: Path):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DatasetError, match=re.escape(name)) as caught:
            open_imagenet(name, root)
        assert one_line(caught.value)
        assert "https://" in caught.value.hint and str(root) in caught.value.hint


ANNOTATIONS = {
    "aircraft": "fgvc-aircraft-2013b/data/images_variant_test.txt",
    "cars196": "cars_test_annos_withlabels.mat",
    "dtd": "labels/test1.txt",
    "flowers": "imagelabels.mat",
    "pets": "annotations/trainval.txt",
    "food101": "meta/test.json",
    "inat18": "val2018.json",
    "inat19": "val2019.json",
    "cifar10": "test_batch.bin",
    "cifar100": "test.bin",
    "cub": "train_test_split.txt",
}


@pytest.mark.parametrize("damage", ["missing", "empty", "noise"])
@pytest.mark.parametrize("name", ANNOTATIONS)
def test_a_damaged_annotation_file_is_one_line_and_a_hint(name: str, damage: str, tmp_path: Path):
    BUILDERS[name](tmp_path)
    (victim,) = tmp_path.rglob(Path(ANNOTATIONS[name]).name)
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(b"" if damage == "empty" else bytes(range(1, 256)) * 3)
    with pytest.raises(DatasetError) as caught:
        open_transfer(name, tmp_path, "train" if name == "pets" else "test")
    assert one_line(caught.value)


def test_an_image_folder_that_was_not_unpacked(tmp_path: Path):
    cub(tmp_path)
    (tmp_path / "CUB_200_2011/images").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="missing") as caught:
        open_transfer("cub", tmp_path, "train")
    assert one_line(caught.value)


ESCAPES = ["../../secret.jpg", "a/../../secret.jpg", "/etc/secret.jpg", "..\\secret.jpg", "C:/secret.jpg", "a\0.jpg"]


@pytest.mark.parametrize("path", ESCAPES)
def test_a_path_that_leaves_the_root_is_refused(path: str, tmp_path: Path):
    paint(tmp_path / "good.jpg")
    with pytest.raises(DatasetError, match="outside") as caught:
        ListSet("x", ["a"], [("good.jpg", 0), (path, 0), ("good2.jpg", 0)], tmp_path)
    assert one_line(caught.value)


def test_annotation_files_cannot_reach_outside(tmp_path: Path):
    paint(tmp_path / "secret.jpg")
    inat(tmp_path, "2018")
    path = tmp_path / "inat18/val2018.json"
    part = json.loads(path.read_text())
    part["images"][0]["file_name"] = "../secret.jpg"
    path.write_text(json.dumps(part))
    cub(tmp_path)
    listing = tmp_path / "CUB_200_2011/images.txt"
    listing.write_text(listing.read_text().replace("4 001", "4 ../../001"))
    aircraft(tmp_path)
    write(tmp_path / "fgvc-aircraft-2013b/data/images_variant_test.txt", ["../../../secret 707-320"])
    sun397(tmp_path)
    write(tmp_path / "SUN397/ClassName.txt", ["/../.."])
    write(tmp_path / "SUN397/Partitions/Testing_01.txt", ["/../../secret.jpg"])
    for name in ("inat18", "cub", "aircraft", "sun397"):
        with pytest.raises(DatasetError, match="outside") as caught:
            open_transfer(name, tmp_path, "test")
        assert one_line(caught.value)


@pytest.mark.parametrize(
    ("classes", "files", "fault"),
    [
        (["a"], [], "no images"),
        (["a", "a"], [("g.jpg", 0)], "one name"),
        (["a"], [("g.jpg", 1)], "label 1"),
        (["a"], [("g.jpg", -1)], "label -1"),
        (["a"], [("g.jpg", 0), ("g.jpg", 0)], "twice"),
        (["a"], [("g.jpg", 0), ("line\nbreak.jpg", 0)], "missing"),
    ],
)
def test_lists_that_contradict_themselves(classes, files, fault: str, tmp_path: Path):
    paint(tmp_path / "g.jpg")
    with pytest.raises(DatasetError, match=fault) as caught:
        ListSet("x", classes, files, tmp_path)
    assert one_line(caught.value)


# ---- the one door


def test_open_images_takes_every_spec(tmp_path: Path):
    pets(tmp_path)
    family_tree("a", tmp_path)
    assert len(records(open_images(f"torchvision:pets@{tmp_path}", "train"))) == 6
    assert named(open_images(f"torchvision:pets@{tmp_path}", "val")) == named(open_transfer("pets", tmp_path, "test"))
    assert len(open_images(f"imagenet:a@{tmp_path}", "test").classes) == 6
    assert len(open_images("builtin:digits", "test").classes) == 10
    assert open_images(f"imagefolder:{tmp_path / 'imagenet-a'}", "test").classes[0] == WNIDS[0]


@pytest.mark.parametrize(
    ("spec", "split"),
    [
        ("torchvision:pets", "test"),
        ("torchvision:@root", "test"),
        ("torchvision:imagenet@root", "test"),
        ("torchvision:pets@root", "trainval"),
        ("imagenet:b@root", "test"),
        ("imagenet:val", "test"),
        ("imagenet:val@root", "train"),
        ("nonsense", "test"),
    ],
)
def test_open_images_refuses_what_it_does_not_know(spec: str, split: str):
    with pytest.raises(DatasetError) as caught:
        open_images(spec, split)
    assert one_line(caught.value)


def test_the_table_is_complete():
    assert set(TRANSFER_SETS) == set(BUILDERS)
    assert {spec.metric for spec in TRANSFER_SETS.values()} == {"top1"}
    per_class = {name for name, spec in TRANSFER_SETS.items() if spec.metric_sea == "mean_per_class"}
    assert per_class == {"aircraft", "caltech101", "flowers", "pets"}
    assert [member.name for member in family_members()] == [
        *("val", "v2-matched-frequency", "v2-threshold-0.7", "v2-top-images", "sketch", "r", "a")
    ]
    assert all(name == spec.name for name, spec in TRANSFER_SETS.items())
