"""The transfer datasets, read from their published layouts: fourteen real datasets of the papers' tables.

Every reader takes the annotation files that the authors distribute, where torchvision unpacks them (or where their
own archive does), and lists images without opening them. Nothing is downloaded and no pickle is read. Splits are the
official ones; where there are none, a hash of the file names decides, so a split is the same on every machine.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.files import image_files
from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.images import ArraySet, ImageSet, ListSet
from imagenet_sd.data.matfile import read_mat

Metric = Literal["top1", "mean_per_class"]
Split = Literal["train", "test"]
Files = list[tuple[str, int]]  # (path relative to a folder, with "/"; label)
SPLIT_SEED = 0
LONG_TAIL = ("inat18", "inat19")
"""The two sets of the papers with long-tailed classes; the others are small."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferSpec:
    """A transfer dataset and how it is evaluated.

    Attributes:
        name: the key in `TRANSFER_SETS`.
        metric: the measure of the ImageNet-SD protocol.
        metric_sea: the measure of the SeA protocol (that of Kornblith et al. and BYOL).
        folders: its possible folders under the root; the first is that of torchvision and of the hint.
        markers: files or folders one of which shows that the dataset is there.
        homepage: where to get it.
        read: lists one split of it in its folder.
    """

    name: str
    metric: Metric = "top1"
    metric_sea: Metric
    folders: tuple[str, ...]
    markers: tuple[str, ...]
    homepage: str
    read: "Callable[[Path, Split], _Listing | ArraySet]"

    def hint(self, root: Path) -> str:
        """What to download and where to put it, in one line."""
        place = root / self.folders[0]
        marker = "" if self.markers[0] == "." else f", so that {place / self.markers[0]} exists"
        return f"download {self.name} from {self.homepage} and unpack it to {place}{marker}"


class _Listing(NamedTuple):
    """What a reader finds: classes, images relative to `images`, and a remark on the split."""

    classes: Sequence[str]
    files: Files
    images: Path
    note: str = ""


def _rows(path: Path, columns: int) -> list[list[str]]:
    """The lines of a text file, split at blanks into `columns` parts; the last part may hold blanks."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        row = line.strip().split(None, columns - 1)
        if len(row) != columns:
            raise DatasetError(f"{path}:{number} has {len(row)} columns, not {columns}")
        rows.append(row)
    return rows


def _column(path: Path) -> list[str]:
    return [row[0] for row in _rows(path, 1)]


def _mat(path: Path) -> dict[str, Any]:
    try:
        return read_mat(path)
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from None


def _tree(folder: Path, skip: Sequence[str] = ()) -> tuple[list[str], Files]:
    """Class folders of image files: sorted names, and each class's files in sorted order."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    classes = [name for name in names if name not in skip and not name.startswith(".")]
    return classes, [
        (file.relative_to(folder).as_posix(), label)
        for label, name in enumerate(classes)
        for file in image_files(folder / name)
    ]


def _seeded(name: str, files: Files, split: Split, parts: Callable[[int], tuple[int, int]]) -> Files:
    """A stratified split by a hash of the file names.

    Args:
        name: the dataset; part of the hash.
        files: all images.
        split: which part to return.
        parts: from the number of images of a class to the numbers that train and test take of it.
    """
    by_class: dict[int, Files] = {}
    for item in files:
        by_class.setdefault(item[1], []).append(item)
    chosen = []
    for label in sorted(by_class):
        order = sorted(by_class[label], key=lambda item: (stable_hash(f"{name}-split", SPLIT_SEED, item[0]), item[0]))
        train, test = parts(len(order))
        chosen += order[:train] if split == "train" else order[train : train + test]
    return sorted(chosen, key=lambda item: (item[1], item[0]))


def _aircraft(folder: Path, split: Split) -> _Listing:
    classes = _column(folder / "data/variants.txt")
    rank = {name: label for label, name in enumerate(classes)}
    rows = _rows(folder / f"data/images_variant_{'trainval' if split == 'train' else 'test'}.txt", 2)
    return _Listing(classes, [(f"{image}.jpg", rank[variant]) for image, variant in rows], folder / "data/images")


def _cars(folder: Path, split: Split) -> _Listing:
    classes = [str(name) for name in _mat(folder / "devkit/cars_meta.mat")["class_names"]]
    labelled = [folder / "cars_test_annos_withlabels.mat", folder / "devkit/cars_test_annos_withlabels.mat"]
    path = folder / "devkit/cars_train_annos.mat" if split == "train" else labelled[labelled[1].is_file()]
    rows = _mat(path)["annotations"]
    files = [(str(file), int(label) - 1) for file, label in zip(rows["fname"], rows["class"], strict=True)]
    return _Listing(classes, files, folder / f"cars_{split}")


def _dtd(folder: Path, split: Split) -> _Listing:
    parts = {part: _column(folder / f"labels/{part}1.txt") for part in ("train", "val", "test")}
    classes = sorted({path.split("/")[0] for paths in parts.values() for path in paths})
    chosen = parts["train"] + parts["val"] if split == "train" else parts["test"]
    return _Listing(classes, [(path, classes.index(path.split("/")[0])) for path in chosen], folder / "images")


def _eurosat_parts(count: int) -> tuple[int, int]:
    """810 test images of a class (8,100 of the 27,000), the rest train; of classes cut short, three tenths test."""
    test = 810 if count >= 2 * 810 else 3 * count // 10
    return count - test, test


def _eurosat(folder: Path, split: Split) -> _Listing:
    classes, files = _tree(folder)
    chosen = _seeded("eurosat", files, split, _eurosat_parts)
    return _Listing(classes, chosen, folder, "seeded: 810 test images per class, the rest train; no split is official")


def _flowers(folder: Path, split: Split) -> _Listing:
    """The classes are the published numbers: the archive names none."""
    labels = [int(label) for label in _mat(folder / "imagelabels.mat")["labels"]]
    sets = _mat(folder / "setid.mat")
    ids = [int(i) for key in (("trnid", "valid") if split == "train" else ("tstid",)) for i in sets[key]]
    if not all(1 <= i <= len(labels) for i in ids):
        raise DatasetError(f"{folder / 'setid.mat'} names an image outside of 1 to {len(labels)}")
    classes = [f"{label:03d}" for label in range(1, max(labels) + 1)]
    return _Listing(classes, [(f"image_{i:05d}.jpg", labels[i - 1] - 1) for i in ids], folder / "jpg")


def _pets(folder: Path, split: Split) -> _Listing:
    parts = {part: _rows(folder / f"annotations/{part}.txt", 4) for part in ("trainval", "test")}
    breeds = {int(row[1]): row[0].rsplit("_", 1)[0] for rows in parts.values() for row in rows}
    labels = {number: label for label, number in enumerate(sorted(breeds))}
    rows = parts["trainval" if split == "train" else "test"]
    files = [(f"{row[0]}.jpg", labels[int(row[1])]) for row in rows]
    return _Listing([breeds[number] for number in labels], files, folder / "images")


def _food(folder: Path, split: Split) -> _Listing:
    names = json.loads((folder / f"meta/{split}.json").read_text(encoding="utf-8"))
    classes = sorted(names)
    return _Listing(
        classes, [(f"{path}.jpg", label) for label, c in enumerate(classes) for path in names[c]], folder / "images"
    )


def _sun(folder: Path, split: Split) -> _Listing:
    """Official lists from `Partitions` (in the folder or beside it) when there; else 50 + 50 seeded per class."""
    named = [name.removeprefix("/") for name in _column(folder / "ClassName.txt")]
    rank = {name: label for label, name in enumerate(named)}
    classes = [name[2:] for name in named]  # "a/abbey" is abbey
    beside = [folder.parent / "Partitions"] if folder.name == "SUN397" else []
    for place in (folder / "Partitions", *beside, folder):
        path = place / ("Training_01.txt" if split == "train" else "Testing_01.txt")
        if path.is_file():
            paths = [line.removeprefix("/") for line in _column(path)]
            return _Listing(classes, [(line, rank[line.rpartition("/")[0]]) for line in paths], folder)
    files = [
        (f"{name}/{file}", label)
        for name, label in rank.items()
        for file in sorted(path.name for path in (folder / name).glob("sun_*.jpg"))
    ]
    chosen = _seeded("sun397", files, split, lambda count: (min(50, count // 2), min(50, count - count // 2)))
    return _Listing(classes, chosen, folder, "seeded 50+50 per class: the official Partitions are not there")


def _inat(folder: Path, split: Split, year: str) -> _Listing:
    """The classes are the category numbers: the names in the files changed after the competition."""
    part = json.loads((folder / f"{'train' if split == 'train' else 'val'}{year}.json").read_text(encoding="utf-8"))
    numbers = sorted({int(category["id"]) for category in part["categories"]})
    rank = {number: label for label, number in enumerate(numbers)}
    label_of = {row["image_id"]: rank[int(row["category_id"])] for row in part["annotations"]}
    files = [(str(image["file_name"]), label_of[image["id"]]) for image in part["images"]]
    published = f"train_val{year}/"
    if not (folder / published).is_dir() and (folder / year).is_dir():  # torchvision renames the folder
        files = [(f"{year}/{path.removeprefix(published)}", label) for path, label in files]
    return _Listing([f"{number:05d}" for number in numbers], files, folder)


def _cifar(
    folder: Path, split: Split, names: str, train: Sequence[str], test: Sequence[str], label_bytes: int = 1
) -> _Listing | ArraySet:
    """Binary records of `label_bytes` labels (the last is the fine one) and 3 planes of 32 x 32 bytes."""
    if not (folder / names).is_file():
        classes, _ = _tree(folder / "train")
        present, files = _tree(folder / split)
        return _Listing(classes, [(path, classes.index(present[label])) for path, label in files], folder / split)
    classes, size = _column(folder / names), label_bytes + 3072
    parts = []
    for batch in train if split == "train" else test:
        raw = np.fromfile(folder / batch, dtype=np.uint8)
        if not len(raw) or len(raw) % size:
            raise DatasetError(f"{folder / batch} holds {len(raw)} bytes, no multiple of {size}")
        parts.append(raw.reshape(-1, size))
    records = np.concatenate(parts)
    labels = records[:, label_bytes - 1].astype(np.int64)
    if labels.max() >= len(classes):
        raise DatasetError(f"{folder} has label {labels.max()} of {len(classes)} classes")
    pixels = np.ascontiguousarray(records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return ArraySet("", pixels, labels, classes)


def _caltech(folder: Path, split: Split) -> _Listing:
    """Thirty images of each class train; the background folder is no class, as in torchvision."""
    classes, files = _tree(folder, skip=("BACKGROUND_Google",))
    chosen = _seeded("caltech101", files, split, lambda count: (min(30, count - 1), max(count - 30, 1)))
    return _Listing(classes, chosen, folder, "seeded: 30 training images per class, the rest test")


def _cub(folder: Path, split: Split) -> _Listing:
    classes = _rows(folder / "classes.txt", 2)
    rank = {number: label for label, (number, _) in enumerate(classes)}
    label_of = dict(_rows(folder / "image_class_labels.txt", 2))
    is_train = dict(_rows(folder / "train_test_split.txt", 2))
    wanted = "1" if split == "train" else "0"
    files = [(path, rank[label_of[i]]) for i, path in _rows(folder / "images.txt", 2) if is_train[i] == wanted]
    return _Listing([name for _, name in classes], files, folder / "images")


_VGG, _INAT = "https://www.robots.ox.ac.uk/~vgg/data", "https://github.com/visipedia/inat_comp/tree/master"
_CARS_PAGE = "https://ai.stanford.edu/~jkrause/cars/car_dataset.html (offline; with cars_test_annos_withlabels.mat)"
_EUROSAT_PAGE = "https://github.com/phelber/EuroSAT (the RGB version)"
_FOOD_PAGE = "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101"
_SUN_PAGE = "https://vision.princeton.edu/projects/2010/SUN (SUN397.tar.gz and Partitions.zip)"
_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html (the binary version)"
_CALTECH_PAGE = "https://data.caltech.edu/records/mzrjq-6wc02"
_CUB_PAGE = "https://www.vision.caltech.edu/datasets/cub_200_2011"
_CIFAR10 = partial(
    _cifar, names="batches.meta.txt", train=[f"data_batch_{i}.bin" for i in range(1, 6)], test=["test_batch.bin"]
)
_CIFAR100 = partial(_cifar, names="fine_label_names.txt", train=["train.bin"], test=["test.bin"], label_bytes=2)
_CALTECH_AT = "caltech101/101_ObjectCategories caltech-101/101_ObjectCategories 101_ObjectCategories"
_EUROSAT_AT = "eurosat/2750 2750 eurosat/EuroSAT_RGB EuroSAT_RGB"
_PER_CLASS = ("aircraft", "caltech101", "flowers", "pets")

_TABLE: tuple[tuple[str, str, str, str, Callable[[Path, Split], _Listing | ArraySet]], ...] = (
    # name, folders, markers, homepage, reader
    ("aircraft", "fgvc-aircraft-2013b .", "data/variants.txt", f"{_VGG}/fgvc-aircraft", _aircraft),
    ("cars196", "stanford_cars .", "devkit/cars_meta.mat", _CARS_PAGE, _cars),
    ("dtd", "dtd/dtd dtd .", "labels/test1.txt", f"{_VGG}/dtd", _dtd),
    ("eurosat", _EUROSAT_AT, ".", _EUROSAT_PAGE, _eurosat),
    ("flowers", "flowers-102 .", "setid.mat", f"{_VGG}/flowers/102", _flowers),
    ("pets", "oxford-iiit-pet .", "annotations/test.txt", f"{_VGG}/pets", _pets),
    ("food101", "food-101 .", "meta/test.json", _FOOD_PAGE, _food),
    ("sun397", "SUN397 .", "ClassName.txt", _SUN_PAGE, _sun),
    ("inat18", "inat18 .", "train2018.json", f"{_INAT}/2018", partial(_inat, year="2018")),
    ("inat19", "inat19 .", "train2019.json", f"{_INAT}/2019", partial(_inat, year="2019")),
    ("cifar10", "cifar-10-batches-bin cifar10 .", "batches.meta.txt train", _CIFAR_PAGE, _CIFAR10),
    ("cifar100", "cifar-100-binary cifar100 .", "fine_label_names.txt train", _CIFAR_PAGE, _CIFAR100),
    ("caltech101", _CALTECH_AT, ".", _CALTECH_PAGE, _caltech),
    ("cub", "CUB_200_2011 .", "images.txt", _CUB_PAGE, _cub),
)
TRANSFER_SETS: dict[str, TransferSpec] = {
    name: TransferSpec(
        name=name,
        metric_sea="mean_per_class" if name in _PER_CLASS else "top1",
        folders=tuple(folders.split()),
        markers=tuple(markers.split()),
        homepage=homepage,
        read=read,
    )
    for name, folders, markers, homepage, read in _TABLE
}


def open_transfer(name: str, root: Path, split: Split) -> ImageSet:
    """Open one split of a transfer dataset.

    CIFAR is read from the binary version (`cifar-10-batches-bin`, `cifar-100-binary`) or from class folders
    (`cifar10/train/CLASS/*.png`, `cifar10/test/...`), never from the Python version, which is pickle.

    Args:
        name: a key of `TRANSFER_SETS`.
        root: the folder under which the dataset is unpacked, or its own folder.
        split: "train" (with the validation part where the authors name one) or "test".

    Raises:
        DatasetError: there is no such dataset, or it is missing or damaged.
    """
    if name not in TRANSFER_SETS:
        raise DatasetError(f"no transfer dataset {name!r}", f"use one of {', '.join(TRANSFER_SETS)}")
    spec = TRANSFER_SETS[name]
    asked = str(DataSpec(kind="torchvision", name=name, root=str(root)))
    folder = next(
        (root / place for place in spec.folders if any((root / place / mark).exists() for mark in spec.markers)), None
    )
    if folder is None:
        raise DatasetError(f"{name} is not in {root}: no {spec.folders[0]}", spec.hint(root))
    try:
        listing = spec.read(folder, split)
    except DatasetError as error:
        raise DatasetError(f"{asked}: {error}", error.hint or spec.hint(root)) from None
    except FileNotFoundError as error:
        raise DatasetError(f"{asked}: {error.filename} is missing", spec.hint(root)) from None
    except (OSError, ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
        raise DatasetError(f"{asked}: its annotations cannot be read ({reason})", spec.hint(root)) from None
    if isinstance(listing, ArraySet):
        listing.name = f"{asked}/{split}"
        return listing
    return ListSet(asked, listing.classes, listing.files, listing.images, listing.note)
