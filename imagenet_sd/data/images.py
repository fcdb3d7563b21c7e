"""Sets of labelled images: what a set is, and the sets that are arrays, folders and lists of files.

A set is a list of groups that are read whole (a Parquet row group, or a single file); reading starts at any group.
Knows nothing of specs, splits or particular datasets.
"""

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.files import IMAGE_BYTES_LIMIT, IMAGE_PIXELS_LIMIT, image_files
from imagenet_sd.core.specs import DataSpec

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")  # files of data sets have wrong suffixes at times


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledImage:
    """One labelled image, not decoded yet.

    Attributes:
        image_id: name of the image, unique within its set.
        label: index into the set's classes.
        data: an encoded image file, a path to one, or uint8 pixels [H, W, 3].
        prompt: the prompt that it was generated from; "" where the set does not say.
    """

    image_id: str
    label: int
    data: "bytes | Path | np.ndarray"
    prompt: str = ""

    def loaded(self) -> "LabelledImage":
        """The same with its content in memory: a path is read.

        Raises:
            OSError: it cannot be read, or is larger than `IMAGE_BYTES_LIMIT`.
        """
        if not isinstance(self.data, Path):
            return self
        with open(self.data, "rb") as file:
            return replace(self, data=file.read(IMAGE_BYTES_LIMIT + 1))

    def digest(self) -> int:
        """A hash of the content, in [0, 2**64): equal for equal files, or equal pixels in memory.

        Raises:
            OSError: see `loaded`.
        """
        data = self.loaded().data
        assert not isinstance(data, Path)
        content = data.tobytes() if isinstance(data, np.ndarray) else data
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")

    def decode(self) -> "Image":
        """The image, in RGB.

        Raises:
            OSError: it cannot be read or decoded, or is larger than `IMAGE_BYTES_LIMIT` or `IMAGE_PIXELS_LIMIT`.
        """
        from PIL import Image

        data = self.loaded().data
        if isinstance(data, np.ndarray):
            return Image.fromarray(data)
        assert isinstance(data, bytes)
        if len(data) > IMAGE_BYTES_LIMIT:
            raise OSError(f"{self.image_id}: more than {IMAGE_BYTES_LIMIT:,} bytes")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd metadata, and of sizes that are checked here
                image = Image.open(io.BytesIO(data), formats=_FORMATS)
                if image.width * image.height > IMAGE_PIXELS_LIMIT:
                    raise OSError(f"{self.image_id}: {image.width} x {image.height} pixels are too many")
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

    def read_group(self, group: int) -> list[LabelledImage]:
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

    def read_group(self, group: int) -> list[LabelledImage]:
        """See `ImageSet`."""
        return [LabelledImage(image_id=f"{self.name}/{group}", label=int(self.labels[group]), data=self.images[group])]


class FolderSet:
    """An ImageFolder: one folder of image files per class; labels follow the sorted folder names.

    Args:
        folder: the folder of class folders.

    Raises:
        DatasetError: there is no such folder, or it holds no images.
    """

    def __init__(self, folder: Path):
        self.name = str(DataSpec(kind="imagefolder", root=str(folder)))
        if not folder.is_dir():
            raise DatasetError(f"{folder} is no folder", "name an ImageFolder: one folder of images per class")
        folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
        by_class = {path.name: files for path in folders if (files := image_files(path))}
        self.classes = tuple(by_class)
        self.files = [(file, label) for label, files in enumerate(by_class.values()) for file in files]
        if not self.files:
            raise DatasetError(f"{folder} holds no class folders with images", "one folder of images per class")
        self.folder = folder
        self.group_sizes = [1] * len(self.files)

    def read_group(self, group: int) -> list[LabelledImage]:
        """See `ImageSet`."""
        file, label = self.files[group]
        return [LabelledImage(image_id=str(file.relative_to(self.folder)), label=label, data=file)]


class ListSet:
    """Images named by a list, each a group of its own; they are opened when they are read.

    Args:
        name: see `ImageSet`.
        classes: class names in label order, all different.
        files: (path relative to `root`, label) of each image.
        root: the folder of all images; a path that would leave it is refused.
        note: what a reader of the results should know about this split; "" for an official one.

    Raises:
        DatasetError: the list is empty, contradicts the classes, repeats an image, or names a path outside of `root`
            or (first and last entry) a file that is not there.
    """

    def __init__(self, name: str, classes: Sequence[str], files: list[tuple[str, int]], root: Path, note: str = ""):
        self.name, self.classes, self.files, self.root, self.note = name, tuple(classes), files, root, note
        hint = "its annotation files are damaged: unpack them again"
        if not files:
            raise DatasetError(f"{name} lists no images", hint)
        if len(set(self.classes)) != len(self.classes):
            raise DatasetError(f"{name} has two classes of one name", hint)
        if len({path for path, _ in files}) != len(files):
            raise DatasetError(f"{name} lists an image twice", hint)
        for path, label in files:
            if path.startswith("/") or path[1:2] == ":" or "\\" in path or "\0" in path or ".." in path.split("/"):
                raise DatasetError(f"{name} lists {path!r}, which is outside of {root}", hint)
            if not 0 <= label < len(self.classes):
                raise DatasetError(f"{name}: {path!r} has label {label} of {len(self.classes)} classes", hint)
        for path, _ in (files[0], files[-1]):
            if not (root / path).is_file():
                raise DatasetError(f"{name}: {path!r} is missing in {root}", "unpack its images beside its annotations")
        self.group_sizes = [1] * len(files)

    def read_group(self, group: int) -> list[LabelledImage]:
        """See `ImageSet`."""
        path, label = self.files[group]
        return [LabelledImage(image_id=path, label=label, data=self.root / path)]


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

    def read_group(self, group: int) -> list[LabelledImage]:
        """See `ImageSet`."""
        return self.images.read_group(self.groups[group])


class ChosenImages:
    """Some images of a set, in its order.

    Args:
        images: the whole set.
        chosen: bool [N], one for each image of it.
    """

    def __init__(self, images: ImageSet, chosen: np.ndarray):
        self.images, self.name, self.classes = images, images.name, images.classes
        parts = np.split(chosen, np.cumsum(images.group_sizes)[:-1])
        self.rows = [(group, np.flatnonzero(part).tolist()) for group, part in enumerate(parts) if part.any()]
        self.group_sizes = [len(rows) for _, rows in self.rows]

    def read_group(self, group: int) -> list[LabelledImage]:
        """See `ImageSet`."""
        number, rows = self.rows[group]
        records = self.images.read_group(number)
        return [records[row] for row in rows]


class JoinedSet:
    """Two sets of the same classes as one; ids of the second set's images begin with its name, so that all differ.

    Raises:
        DatasetError: their classes differ.
    """

    def __init__(self, first: ImageSet, second: ImageSet):
        if first.classes != second.classes:
            only = sorted(set(first.classes) ^ set(second.classes))[:3]
            raise DatasetError(
                f"{first.name} and {second.name} have different classes ({', '.join(only)} ...)",
                "join sets of the same classes",
            )
        self.parts, self.name, self.classes = (first, second), f"{first.name} + {second.name}", first.classes
        self.group_sizes = [*first.group_sizes, *second.group_sizes]

    def read_group(self, group: int) -> list[LabelledImage]:
        """See `ImageSet`."""
        first, second = self.parts
        own = len(first.group_sizes)
        if group < own:
            return first.read_group(group)
        return [replace(x, image_id=f"{second.name}/{x.image_id}") for x in second.read_group(group - own)]
