"""Labelled images in Parquet shards: those of a dataset made by `generate`, of any folder, or of a Hub repository."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imagenet_sd.core.errors import DatasetError, one_line
from imagenet_sd.core.layout import holds_dataset
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.images import LabelledImage
from imagenet_sd.storage.dataset import REPAIR, Dataset

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Split = Literal["train", "test"]
TEST_NAMES = ("test", "val", "validation", "valid")
"""What files and folders of test images are called, the first that is there."""
_SPLIT_NAME = re.compile(rf"(train|{'|'.join(TEST_NAMES)})(?:[-_.]|$)", re.IGNORECASE)


class ParquetSet:
    """Parquet shards with Hugging Face's image and class-label features, read with page checksums.

    The images are in the column `image`, else in the first that is described as one, whatever it is called.

    Args:
        name: see `ImageSet`.
        files: the shards, in their order; paths, or files that fsspec opens.
        opener: opens one of `files` for pyarrow; None for local paths.
        versions: of files that are no local paths, what changes with the content of each; else empty.

    Raises:
        DatasetError: a file cannot be read, or lacks the features.
    """

    def __init__(self, name: str, files: Sequence[str], opener=None, versions: Sequence[str] = ()):
        self.name, self.files, self._opener, self.versions = name, list(files), opener, tuple(versions)
        if not self.files:
            raise DatasetError(f"{name} holds no Parquet shards", "name a dataset made by `generate`")
        self.groups: list[tuple[int, int]] = []
        self.group_sizes: list[int] = []
        self._open: tuple[int, pq.ParquetFile] | None = None
        for number in range(len(self.files)):
            with self._parquet(number) as file:
                if number == 0:
                    self.classes, self._label, self.image_column = _described(file, name)
                with _damage_named(self.files[number]):
                    _check_columns(file, self._label, self.image_column)
                sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
            self.groups += [(number, g) for g in range(len(sizes))]
            self.group_sizes += sizes

    def _parquet(self, number: int) -> "pq.ParquetFile":
        import pyarrow.parquet as pq

        with _damage_named(self.files[number]):
            source = self._opener(self.files[number]) if self._opener else self.files[number]
            return pq.ParquetFile(source, page_checksum_verification=True)

    def read_group(self, group: int) -> list[LabelledImage]:
        """See `ImageSet`.

        Raises:
            DatasetError: the row group is damaged; page checksums notice.
        """
        from imagenet_sd.storage.schema import row_batches

        number, row_group = self.groups[group]
        if self._open is None or self._open[0] != number:
            if self._open is not None:
                self._open[1].close()
            self._open = (number, self._parquet(number))
        file = self._open[1]
        known = set(file.schema_arrow.names)
        columns = [self.image_column, self._label, *(name for name in ("image_id", "prompt") if name in known)]
        with _damage_named(self.files[number]):
            rows = [row for batch in row_batches(file, row_group, columns) for row in batch.to_pylist()]
            if len(rows) != self.group_sizes[group]:
                raise DatasetError(f"row group {row_group} has {len(rows)} rows, not {self.group_sizes[group]}")
            return [self._record(row, f"{number}/{row_group}/{i}") for i, row in enumerate(rows)]

    def _record(self, row: dict[str, Any], place: str) -> LabelledImage:
        image, label = row[self.image_column], row[self._label]
        name = str(row.get("image_id") or place)
        if image is None or image["bytes"] is None:
            raise DatasetError(f"image {name!r} has no bytes", "embed the images in the Parquet files")
        if label is None or not 0 <= label < len(self.classes):
            raise DatasetError(
                f"image {name!r} has label {label}, and there are {len(self.classes)} classes",
                "leave out images without a label; labels are positions in the names of the class-label feature",
            )
        return LabelledImage(image_id=name, label=label, data=image["bytes"], prompt=str(row.get("prompt") or ""))

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": None}


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"{name}: {error}", error.hint or REPAIR) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{name}: {one_line(error)}", REPAIR) from None


def _check_columns(file: "pq.ParquetFile", label: str, image: str) -> None:
    import pyarrow as pa

    types = {field.name: field.type for field in file.schema_arrow}
    kind: Any = types.get(image)
    fields = {kind[i].name: kind[i].type for i in range(kind.num_fields)} if isinstance(kind, pa.StructType) else {}
    if not any(test(fields.get("bytes", pa.null())) for test in (pa.types.is_binary, pa.types.is_large_binary)):
        raise DatasetError(
            f"its column {image!r} is {kind}, no struct with `bytes`", "write it with HF's Image feature"
        )
    if not pa.types.is_integer(types.get(label, pa.null())):
        raise DatasetError(f"its column {label!r} is {types.get(label)}, no integers", "use HF's ClassLabel feature")


def _described(file: "pq.ParquetFile", name: str) -> tuple[tuple[str, ...], str, str]:
    """The class names, the label column, and the image column: `image`, or else the first that is described so."""
    try:
        features = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
        kinds = {key: feature.get("_type") for key, feature in features.items() if isinstance(feature, dict)}
        label = next(key for key, kind in kinds.items() if kind == "ClassLabel")
        names = features[label]["names"]
        if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            raise TypeError("names")
        if len(set(names)) != len(names):
            raise ValueError("a name twice")
        images = [key for key, kind in kinds.items() if kind == "Image"]
        return tuple(names), label, images[0] if images and "image" not in images else "image"
    except (KeyError, ValueError, StopIteration, AttributeError, TypeError, RecursionError):
        raise DatasetError(
            f"{name} has no class-label feature in its metadata", "use shards with HF features"
        ) from None


def parquet_folder(folder: Path, rounds: int = 0, split: Split = "train") -> ParquetSet:
    """The finished shards of a dataset folder (of ours: those with a manifest), or any folder of Parquet files.

    Args:
        folder: the folder.
        rounds: of a dataset of ours, only the first so many rounds; 0 for all.
        split: which files, where their names tell; see `files_of_split`. A dataset of ours has one split.

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
        files = [folder / path for path in files_of_split(parquet_files(folder), split)]
    return ParquetSet(str(DataSpec(kind="parquet", root=str(folder))), [str(path) for path in files])


def parquet_files(folder: Path) -> list[str]:
    """The Parquet files below a folder, relative to it, in the order of their names."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))


def hub_parquet(repository: str, split: Split) -> ParquetSet:
    """The Parquet shards of a Hub dataset in the order of their names, read over the network as they are needed."""
    from huggingface_hub import HfFileSystem

    name, root, hub = str(DataSpec(kind="hf", name=repository)), f"datasets/{repository}/", HfFileSystem()
    files = [root + path for path in files_of_split(hub_files(repository), split)]
    facts = [hub.info(path) for path in files]  # of the listing that `hub_files` asked for
    versions = [f"{each.get('blob_id')} {each.get('size')}" for each in facts]
    return ParquetSet(name, files, partial(hub.open, mode="rb"), versions)


def hub_files(repository: str) -> list[str]:
    """The Parquet files of a Hub dataset, relative to it, in the order of their names.

    Raises:
        DatasetError: the repository cannot be listed.
    """
    from huggingface_hub import HfFileSystem

    root = f"datasets/{repository}/"
    try:
        return sorted(str(path).removeprefix(root) for path in HfFileSystem().glob(f"{root}**/*.parquet"))
    except Exception as error:  # the hub client raises many kinds; each means that the data cannot be read
        name = DataSpec(kind="hf", name=repository)
        raise DatasetError(f"{name} cannot be read: {one_line(error)}", "check the name and the network") from None


def files_of_split(files: Sequence[str], split: Split) -> list[str]:
    """The files of a split, by the names that `datasets` gives: a file or a folder called after the split.

    Test files are those with the first of `TEST_NAMES` that occurs. Files that are not called after any split are
    training files. Where there are neither test nor validation files, both splits are the same files: see
    `has_test_files`.

    Raises:
        DatasetError: there are test files only, and training images are asked for.
    """
    if split == "test" and has_test_files(files):
        named = [[path for path in files if _split_of(path) == part] for part in TEST_NAMES]
        return next(filter(None, named))
    training = [path for path in files if _split_of(path) not in TEST_NAMES]
    if files and not training:
        raise DatasetError(f"{files[0]} and {len(files) - 1} more are test files; there are no training files")
    return training


def has_test_files(files: Sequence[str]) -> bool:
    """Whether any of the files is called after a test or validation split."""
    return any(_split_of(path) in TEST_NAMES for path in files)


def _split_of(path: str) -> str:
    """What the file's name says, "train" or one of `TEST_NAMES`, else the nearest folder's; "" when none tells."""
    found = (match[1].lower() for part in reversed(path.split("/")) if (match := _SPLIT_NAME.match(part)))
    return next(found, "")
