"""Labelled images from wherever they lie: Parquet shards, folders, the Hub, small sets inside packages.

A set is a list of groups that are read whole (a Parquet row group, or a single file); reading starts at any group.
Training and evaluation both read through this one door, so that only the data differs. See `open_images` for the
specs.
"""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.layout import holds_dataset
from imagenet_sd.storage.dataset import Dataset

if TYPE_CHECKING:
    import pyarrow.parquet as pq
    from PIL.Image import Image

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
_LIMIT = re.compile(r"(.+)@(rounds|per_class)=(\d{1,9})")
_SPECS = "imagefolder:DIR, parquet:DIR, hf:REPO, builtin:NAME, or the folder of a dataset made by `generate`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One labelled image, not decoded yet.

    Attributes:
        image_id: name of the image, unique within its set.
        label: index into the set's classes.
        data: an encoded image file, a path to one, or uint8 pixels [H, W, 3].
    """

    image_id: str
    label: int
    data: "bytes | Path | np.ndarray"

    def decode(self) -> "Image":
        """The image, in RGB.

        Raises:
            OSError: it cannot be read or decoded.
        """
        from PIL import Image

        if isinstance(self.data, np.ndarray):
            return Image.fromarray(self.data)
        try:
            image = Image.open(io.BytesIO(self.data) if isinstance(self.data, bytes) else self.data)
            if image.mode != "RGB":
                return image.convert("RGB")
            image.load()
            return image
        except OSError:
            raise
        except Exception as error:  # Pillow raises many kinds on damaged bytes; they all mean one thing here
            raise OSError(f"{self.image_id}: {error}") from None


class ImageSet(Protocol):
    """A set of labelled images.

    Attributes:
        name: what the user asked for.
        classes: class ids in label order; wnids where WordNet has the classes.
        group_sizes: number of images of each group.
    """

    name: str
    classes: tuple[str, ...]

    @property
    def group_sizes(self) -> Sequence[int]: ...  # noqa: D102

    def read_group(self, group: int) -> list[Record]:
        """All images of a group, in a fixed order."""
        ...


class ArraySet:
    """Images held in memory, each a group of its own.

    Args:
        name: see `ImageSet`.
        images: uint8 [N, H, W, 3].
        labels: int64 [N].
        classes: class ids.
    """

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]):
        self.name, self.classes = name, tuple(classes)
        self.images, self.labels = images, labels
        self.group_sizes = [1] * len(images)

    def read_group(self, group: int) -> list[Record]:
        """See `ImageSet`."""
        return [Record(image_id=f"{self.name}/{group}", label=int(self.labels[group]), data=self.images[group])]


class FolderSet:
    """An ImageFolder: one folder of image files per class; labels follow the sorted folder names.

    Args:
        folder: the folder of class folders.

    Raises:
        DatasetError: there is no such folder, or it holds no images.
    """

    def __init__(self, folder: Path):
        self.name = f"imagefolder:{folder}"
        if not folder.is_dir():
            raise DatasetError(f"{folder} is no folder", "name an ImageFolder: one folder of images per class")
        found = [
            (path.name, sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES))
            for path in sorted(folder.iterdir())
            if path.is_dir() and not path.name.startswith(".")
        ]
        self.classes = tuple(name for name, files in found if files)
        self.files = [(file, label) for label, (_, files) in enumerate(f for f in found if f[1]) for file in files]
        if not self.files:
            raise DatasetError(f"{folder} holds no class folders with images", "one folder of images per class")
        self.folder = folder
        self.group_sizes = [1] * len(self.files)

    def read_group(self, group: int) -> list[Record]:
        """See `ImageSet`."""
        file, label = self.files[group]
        return [Record(image_id=str(file.relative_to(self.folder)), label=label, data=file)]


class FirstOfEach:
    """The first images of every class of a set whose groups are single images.

    Args:
        images: the whole set.
        per_class: number of images to keep of each class, at least 1; a class that has fewer keeps all.

    Raises:
        DatasetError: the set comes in larger groups.
    """

    def __init__(self, images: ImageSet, per_class: int):
        if any(size != 1 for size in images.group_sizes):
            raise DatasetError(
                f"{images.name} comes in groups of images and cannot be limited per class",
                "for a generated dataset, give @rounds=K, or generate a smaller multiple",
            )
        self.images, self.name, self.classes = images, f"{images.name}@per_class={per_class}", images.classes
        self.groups: list[int] = []
        counts = [0] * len(images.classes)
        for group in range(len(images.group_sizes)):
            label = images.read_group(group)[0].label
            counts[label] += 1
            if counts[label] <= per_class:
                self.groups.append(group)
        self.group_sizes = [1] * len(self.groups)

    def read_group(self, group: int) -> list[Record]:
        """See `ImageSet`."""
        return self.images.read_group(self.groups[group])


class ParquetSet:
    """Parquet shards with Hugging Face's image and class-label features, read with page checksums.

    Args:
        name: see `ImageSet`.
        files: the shards, in their order; paths, or files that fsspec opens.
        opener: opens one of `files` for pyarrow; None for local paths.

    Raises:
        DatasetError: a file cannot be read, or lacks the features.
    """

    def __init__(self, name: str, files: Sequence[str], opener=None):
        self.name, self.files, self._opener = name, list(files), opener
        if not self.files:
            raise DatasetError(f"{name} holds no Parquet shards", "name a dataset made by `generate`")
        self.groups: list[tuple[int, int]] = []
        self.group_sizes: list[int] = []
        self._open: tuple[int, pq.ParquetFile] | None = None
        for number in range(len(self.files)):
            with self._parquet(number) as file:
                if number == 0:
                    self.classes, self._label = _class_names(file, name)
                sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
            self.groups += [(number, g) for g in range(len(sizes))]
            self.group_sizes += sizes

    def _parquet(self, number: int) -> "pq.ParquetFile":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            source = self._opener(self.files[number]) if self._opener else self.files[number]
            return pq.ParquetFile(source, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise DatasetError(f"{self.files[number]}: {reason}", "run `imagenet-sd verify --repair`") from None

    def read_group(self, group: int) -> list[Record]:
        """See `ImageSet`.

        Raises:
            DatasetError: the row group is damaged; page checksums notice.
        """
        import pyarrow as pa

        number, row_group = self.groups[group]
        if self._open is None or self._open[0] != number:
            if self._open is not None:
                self._open[1].close()
            self._open = (number, self._parquet(number))
        file = self._open[1]
        columns = ["image", self._label] + (["image_id"] if "image_id" in file.schema_arrow.names else [])
        try:
            rows = file.read_row_group(row_group, columns=columns).to_pylist()
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise DatasetError(f"{self.files[number]}: {reason}", "run `imagenet-sd verify --repair`") from None
        return [
            Record(
                image_id=row.get("image_id") or f"{number}/{row_group}/{i}",
                label=row[self._label],
                data=row["image"]["bytes"],
            )
            for i, row in enumerate(rows)
        ]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": None}


def _class_names(file: "pq.ParquetFile", name: str) -> tuple[tuple[str, ...], str]:
    try:
        features = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
        label = next(key for key, feature in features.items() if feature.get("_type") == "ClassLabel")
        return tuple(features[label]["names"]), label
    except (KeyError, ValueError, StopIteration, AttributeError, TypeError):
        raise DatasetError(
            f"{name} has no class-label feature in its metadata", "use shards with HF features"
        ) from None


def parquet_folder(folder: Path, rounds: int = 0) -> ParquetSet:
    """The finished shards of a dataset folder (of ours: those with a manifest), or any folder of Parquet files.

    Args:
        folder: the folder.
        rounds: of a dataset of ours, only the first so many rounds; 0 for all.

    Raises:
        DatasetError: there are no such shards, or fewer rounds than asked for.
    """
    if holds_dataset(folder):
        files = Dataset.open(folder).finished_files(rounds)
        begun = len({path.parent for path in files})
        if begun < rounds:
            raise DatasetError(
                f"{folder} holds {begun} rounds, fewer than {rounds}", "generate a larger --multiple first"
            )
    elif rounds:
        raise DatasetError(f"{folder} has no rounds: it has no dataset.json", "leave out @rounds")
    else:
        files = sorted(folder.rglob("*.parquet"))
    return ParquetSet(f"parquet:{folder}", [str(path) for path in files])


def hub_parquet(repository: str, split: str) -> ParquetSet:
    """The Parquet shards of a Hub dataset in the order of their names, read over the network as they are needed."""
    from huggingface_hub import HfFileSystem

    files = HfFileSystem()
    try:
        names = sorted(files.glob(f"datasets/{repository}/**/*.parquet"))
    except Exception as error:  # the hub client raises many kinds; each means that the data cannot be had
        reason = " ".join(str(error).split())[:200]
        raise DatasetError(f"hf:{repository} cannot be read: {reason}", "check the name and the network") from None
    of_split = [name for name in names if Path(str(name)).name.startswith(split)] or names
    return ParquetSet(f"hf:{repository}", [str(name) for name in of_split], partial(files.open, mode="rb"))


def open_images(spec: str, split: str = "train") -> ImageSet:
    """Open a set of labelled images.

    Args:
        spec: `imagefolder:DIR`, `parquet:DIR`, `hf:REPO`, `builtin:mnist|digits|faces`, or the folder of a dataset.
            For folders, a subfolder named after the split is used when there is one. At the end of a spec,
            `@per_class=N` keeps the first N images of each class, and `@rounds=K` the first K rounds of a dataset.
        split: "train" or "test" ("val" counts as "test").

    Raises:
        DatasetError: there is no such set.
    """
    spec, limit, number = split_limit(spec)
    if limit and not number:
        raise DatasetError(f"{spec}@{limit}={number} keeps nothing", "give a number of at least 1")
    if limit == "per_class":
        return FirstOfEach(open_images(spec, split), number)
    kind, _, rest = spec.partition(":")
    if limit and kind != "parquet" and not (Path(spec) / "dataset.json").is_file():
        raise DatasetError(f"{spec} has no rounds", "@rounds is for the folder of a dataset made by `generate`")
    if kind == "builtin" and rest:
        from imagenet_sd.data.builtin import builtin_images

        return builtin_images(rest, "train" if split == "train" else "test")
    if kind == "hf" and rest:
        return hub_parquet(rest, split)
    if kind in ("imagefolder", "parquet") and rest:
        folder = _split_folder(Path(rest), split)
        return FolderSet(folder) if kind == "imagefolder" else parquet_folder(folder, number)
    folder = Path(spec)
    if (folder / "dataset.json").is_file():
        return parquet_folder(folder, number)
    raise DatasetError(f"no data {spec!r}", f"give {_SPECS}")


def split_limit(spec: str) -> tuple[str, str, int]:
    """A data spec without its limit; the limit ("", "per_class" or "rounds"); its number (0 without a limit)."""
    found = _LIMIT.fullmatch(spec)
    return (found[1], found[2], int(found[3])) if found else (spec, "", 0)


def _split_folder(folder: Path, split: str) -> Path:
    names = ("train",) if split == "train" else ("val", "test", "validation")
    return next((folder / name for name in names if (folder / name).is_dir()), folder)
