"""Labelled images in Parquet shards: those of a dataset made by `generate`, of any folder, or of a Hub repository."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imagenet_sd.core.errors import DatasetError, one_line
from imagenet_sd.core.layout import holds_dataset
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.images import LabelledImage
from imagenet_sd.storage.dataset import Dataset

if TYPE_CHECKING:
    import pyarrow.parquet as pq


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
        import pyarrow.parquet as pq

        with _damage_named(self.files[number]):
            source = self._opener(self.files[number]) if self._opener else self.files[number]
            return pq.ParquetFile(source, page_checksum_verification=True)

    def read_group(self, group: int) -> list[LabelledImage]:
        """See `ImageSet`.

        Raises:
            DatasetError: the row group is damaged; page checksums notice.
        """
        number, row_group = self.groups[group]
        if self._open is None or self._open[0] != number:
            if self._open is not None:
                self._open[1].close()
            self._open = (number, self._parquet(number))
        file = self._open[1]
        known = set(file.schema_arrow.names)
        columns = ["image", self._label, *(name for name in ("image_id", "prompt") if name in known)]
        with _damage_named(self.files[number]):
            rows = file.read_row_group(row_group, columns=columns).to_pylist()
        return [
            LabelledImage(
                image_id=row.get("image_id") or f"{number}/{row_group}/{i}",
                label=row[self._label],
                data=row["image"]["bytes"],
                prompt=str(row.get("prompt") or ""),
            )
            for i, row in enumerate(rows)
        ]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": None}


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{name}: {one_line(error)}", "run `imagenet-sd verify --repair`") from None


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
    return ParquetSet(str(DataSpec(kind="parquet", root=str(folder))), [str(path) for path in files])


def hub_parquet(repository: str, split: str) -> ParquetSet:
    """The Parquet shards of a Hub dataset in the order of their names, read over the network as they are needed."""
    from huggingface_hub import HfFileSystem

    files, name = HfFileSystem(), str(DataSpec(kind="hf", name=repository))
    try:
        paths = sorted(files.glob(f"datasets/{repository}/**/*.parquet"))
    except Exception as error:  # the hub client raises many kinds; each means that the data cannot be read
        raise DatasetError(f"{name} cannot be read: {one_line(error)}", "check the name and the network") from None
    of_split = [path for path in paths if Path(str(path)).name.startswith(split)] or paths
    return ParquetSet(name, [str(path) for path in of_split], partial(files.open, mode="rb"))
