"""Export: the finished shards of a dataset as an image folder, or as WebDataset tar files.

JPEG bytes are copied, never encoded again. The shard is the unit of work and of resume: a hidden marker in the target,
written last, says that a shard is there, from which Parquet file (its SHA-256) it came, and how large its files are.
Files that are gone or have another size since are written again.

```
imagefolder   {wnid}/{image_id}.jpg, and metadata.jsonl: `file_name` and the other columns, one line for each image
webdataset    one tar for each shard: {key}.jpg, {key}.cls (the label), {key}.json (the columns)
```

`core/layout.py` names the files of an export.

WebDataset ends a key at the first dot, so the key is the image id with `%2E` for every dot; ids hold no `%`, so
`urllib.parse.unquote(key)` gives the id back and no two ids share a key.
"""

import io
import json
import math
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from imagenet_sd.core import layout
from imagenet_sd.core.errors import DatasetError, ImagenetSDError
from imagenet_sd.core.files import atomic_write, check_safe_name, name_file, read_json, sha256_file, write_json
from imagenet_sd.core.process import exclusive
from imagenet_sd.core.types import ImageRequest, Shard
from imagenet_sd.storage.dataset import Dataset
from imagenet_sd.storage.schema import COLUMNS, FLAG, planned_columns
from imagenet_sd.storage.verify import read_rows

FORMATS = ("imagefolder", "webdataset")
_REPAIR = "run `imagenet-sd verify --repair`, then export again; what is exported stays"


class ExportTarget:
    """The folder that an export goes to; it is written to within `claimed`.

    Args:
        dataset: what to export.
        kind: "imagefolder" or "webdataset".
        target: folder to write; it is made where it does not exist.

    Raises:
        ImagenetSDError: `kind` is unknown, or a class id is no harmless name.
        DatasetError: the plan's classes are not sorted and distinct, so that no folder could give their labels.
    """

    def __init__(self, dataset: Dataset, kind: str, target: Path):
        if kind not in FORMATS:
            raise ImagenetSDError(f"there is no export format {kind!r}", f"choose one of: {', '.join(FORMATS)}")
        wnids = [check_safe_name(spec.wnid, "class id") for spec in dataset.plan.classes]
        if wnids != sorted(set(wnids)):
            path = dataset.folder / layout.DESCRIPTION
            raise DatasetError(f"{path} lists a class twice or out of order", "restore it from a copy")
        if layout.EXPORT_METADATA in wnids and kind == "imagefolder":
            raise ImagenetSDError(
                f"the class id {layout.EXPORT_METADATA!r} is taken in an image folder", "export to webdataset"
            )
        self.dataset, self.plan, self.kind, self.target = dataset, dataset.plan, kind, target

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, lock it for this process, and claim it for this dataset.

        Raises:
            ImagenetSDError: it holds something else, or another export is writing there; nothing was changed.
        """
        if self.target.exists() and not self.target.is_dir():
            raise ImagenetSDError(f"{self.target} is no folder", "give --out a folder")
        self.target.mkdir(parents=True, exist_ok=True)
        busy = ImagenetSDError(f"another export is writing to {self.target}", "wait until it has ended")
        with exclusive(self.target, busy):
            self._claim()
            for temporary in self.target.glob(".*.tmp"):
                temporary.unlink(missing_ok=True)
            if self.kind == "imagefolder":
                self._make_class_folders()
            yield

    def survey(self, *, verify: bool = False) -> dict[str, list[Shard]]:
        """The shards of the dataset, in the order of the plan, by what there is to do with them.

        Args:
            verify: compare the exported files with the shards byte by byte, not by their sizes alone.

        Returns:
            `todo` (finished, not exported yet or generated again since, with other bytes), `done` (exported, and every
            file is there), `damaged` (exported, but a file is gone or another), `missing` (not generated yet).

        Raises:
            DatasetError: a manifest is garbled or belongs to another plan, or, to verify, a shard is damaged.
        """
        by_state: dict[str, list[Shard]] = {"todo": [], "done": [], "damaged": [], "missing": []}
        for shard in self.plan.shards():
            manifest = self.dataset.manifest(shard)
            if manifest is None:
                by_state["missing"].append(shard)
                continue
            if manifest.fingerprint != self.plan.fingerprint:
                raise self._fault(shard, "belongs to another plan")
            said = self._marked(shard)
            if said.get("sha256") != manifest.sha256 or not {"sizes", "bytes"} & said.keys():  # none in older markers
                by_state["todo"].append(shard)
            elif self._sizes_agree(shard, said) and (not verify or self._bytes_agree(shard)):
                by_state["done"].append(shard)
            else:
                by_state["damaged"].append(shard)
        return by_state

    def export(self, shard: Shard) -> None:
        """Write one finished shard; its marker comes last.

        Raises:
            DatasetError: the shard is damaged, or its rows are not those of the plan.
            OSError: the disk is full or the folder cannot be written.
        """
        manifest = self.dataset.manifest(shard)
        if manifest is None:
            raise self._fault(shard, "not finished: it has no manifest")
        try:
            digest = sha256_file(self.dataset.shard_path(shard))
        except OSError as error:
            raise self._fault(shard, f"unreadable: {error.strerror}") from None
        if digest != manifest.sha256:
            raise self._fault(shard, "is damaged: its SHA-256 differs from its manifest")
        if self.kind == "imagefolder":
            (self.target / layout.EXPORT_METADATA).unlink(missing_ok=True)  # finish() writes it, with this shard in it
            atomic_write(self._marker(shard), lambda path: self._write_images(path, shard, digest))
        else:
            tar = layout.export_tar(self.target, shard)
            atomic_write(tar, lambda path: self._write_tar_file(path, shard))
            said = {"sha256": digest, "images": shard.num_rows, "bytes": tar.stat().st_size}
            atomic_write(self._marker(shard), lambda path: path.write_text(json.dumps(said) + "\n", encoding="utf-8"))

    def finish(self, *, verify: bool = False) -> None:
        """Write `metadata.jsonl` of an image folder: the lines of all exported shards in the order of the plan.

        One of the right size is taken for it, unless `verify`.
        """
        metadata = self.target / layout.EXPORT_METADATA
        markers = [marker for marker in map(self._marker, self.plan.shards()) if marker.exists()]
        if self.kind != "imagefolder" or not markers:
            return
        if self._metadata_size(markers) == _size(metadata) and not (verify and self._differs(metadata, markers)):
            return

        def join(path: Path) -> None:
            with open(path, "wb") as joined:
                joined.writelines(_metadata(markers))

        atomic_write(metadata, join)

    @staticmethod
    def _differs(path: Path, markers: list[Path]) -> bool:
        with open(path, "rb") as there:
            return any(block != there.read(len(block)) for block in _metadata(markers))

    def _metadata_size(self, markers: list[Path]) -> int:
        """Bytes of the metadata of these shards: of their markers without the first line of each."""
        total = 0
        for marker in markers:
            with open(marker, "rb") as lines:
                total += marker.stat().st_size - len(lines.readline())
        return total

    def _claim(self) -> None:
        path = self.target / layout.EXPORT_DESCRIPTION
        settings = self.dataset.settings
        name = "{class_list}, {prompt}, scale {guidance_scale:g}, seed {seed}".format(**settings)
        ours = {"format": self.kind, "fingerprint": self.plan.fingerprint, "dataset": name}
        if not path.exists():
            crashed = self.target.glob(f".{layout.EXPORT_DESCRIPTION}.*.tmp")  # left by a crash that came this early
            if foreign := sorted({*self.target.iterdir()} - {*crashed}):
                raise ImagenetSDError(
                    f"{self.target} is not empty and holds no export: it has {foreign[0].name!r}",
                    "give --out a new or an empty folder",
                )
            return write_json(path, ours)
        there = read_json(path)
        there = there if isinstance(there, dict) else {}
        different = [key for key in ("format", "fingerprint") if there.get(key) != ours[key]]
        if different:
            raise ImagenetSDError(
                f"{self.target} holds another export: "
                f"{_describe(there)} there, {_describe(ours)} asked for; nothing was written",
                "give --out a new or an empty folder",
            )

    def _make_class_folders(self) -> None:
        """All of them, empty ones too: a class without a folder would shift the labels that ImageFolder gives."""
        for wnid in self.dataset.wnids:
            (self.target / wnid).mkdir(exist_ok=True)
        if not set(self.dataset.wnids) <= {entry.name for entry in os.scandir(self.target)}:
            raise ImagenetSDError(
                f"the file system of {self.target} confuses class ids that differ in capitals only",
                "export to webdataset, or to another file system",
            )

    def _marker(self, shard: Shard) -> Path:
        return layout.export_marker(self.target, shard)

    def _marked(self, shard: Shard) -> dict[str, Any]:
        """What the marker of a shard says; {} without one, or where it is garbled."""
        with suppress(OSError, ValueError, RecursionError), open(self._marker(shard), encoding="utf-8") as marker:
            said = json.loads(marker.readline())
            return said if isinstance(said, dict) else {}
        return {}

    def _sizes_agree(self, shard: Shard, said: dict[str, Any]) -> bool:
        """Whether the files of a shard are there, each with the size that its marker gives."""
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            if self.kind == "webdataset":
                return layout.export_tar(self.target, shard).stat().st_size == said["bytes"]
            with open(self._marker(shard), encoding="utf-8") as marker:
                names = [json.loads(line)["file_name"] for line in marker.readlines()[1:]]
            paths = [self._image(request) for request in self.plan.requests(shard)]
            as_planned = names == [path.relative_to(self.target).as_posix() for path in paths]
            return as_planned and [path.stat().st_size for path in paths] == said["sizes"]
        return False

    def _bytes_agree(self, shard: Shard) -> bool:
        """Whether the files of a shard hold what the shard gives now."""
        if self.kind == "webdataset":
            with tempfile.TemporaryFile() as fresh, open(layout.export_tar(self.target, shard), "rb") as there:
                self._write_tar(fresh, shard)
                fresh.seek(0)
                return all(block == there.read(len(block)) for block in iter(lambda: fresh.read(1 << 20), b""))
        with open(self._marker(shard), "rb") as marker:
            marker.readline()
            rows = zip(self._rows(shard), self.plan.requests(shard), strict=True)
            same = all(
                marker.readline() == f"{self._line(row, request)}\n".encode()
                and self._image(request).read_bytes() == row["image"]["bytes"]
                for row, request in rows
            )
            return same and not marker.read(1)

    def _line(self, row: dict[str, Any], request: ImageRequest) -> str:
        """What `metadata.jsonl` says of an image."""
        file_name = self._image(request).relative_to(self.target).as_posix()
        return json.dumps({"file_name": file_name, **_columns(row)}, ensure_ascii=False)

    def _image(self, request: ImageRequest) -> Path:
        return self.target / request.prompt.wnid / f"{request.image_id}.jpg"

    def _fault(self, shard: Shard, message: str) -> DatasetError:
        return DatasetError(f"{self.dataset.shard_path(shard)}: {message}", _REPAIR)

    def _rows(self, shard: Shard) -> Iterator[dict[str, Any]]:
        """The rows of a shard, each compared with the plan: no other id becomes a path."""
        try:
            yield from read_rows(self.dataset, shard, _check_row)
        except DatasetError as error:
            raise self._fault(shard, str(error)) from None

    def _write_images(self, path: Path, shard: Shard, digest: str) -> None:
        """Write the images of a shard, and to `path` its marker: a line of its own, then the lines of the metadata."""
        lines, sizes = [], []
        for row, request in zip(self._rows(shard), self.plan.requests(shard), strict=True):
            image = self._image(request)
            temporary = image.with_name(f".{image.name}.tmp")  # no image to a reader; the next run writes it again
            try:
                temporary.write_bytes(row["image"]["bytes"])
            except OSError as error:
                name_file(error, image)
                raise
            os.replace(temporary, image)
            lines.append(self._line(row, request))
            sizes.append(len(row["image"]["bytes"]))
        said = {"sha256": digest, "images": shard.num_rows, "sizes": sizes}
        path.write_text("".join(f"{line}\n" for line in (json.dumps(said), *lines)), encoding="utf-8")
        os.sync()  # once a shard instead of an fsync per image: the images must outlive a power cut if the marker does

    def _write_tar_file(self, path: Path, shard: Shard) -> None:
        with open(path, "wb") as file:
            self._write_tar(file, shard)

    def _write_tar(self, file: IO[bytes], shard: Shard) -> None:
        """The same rows give the same bytes: `TarInfo` starts with time 0, user 0 and mode 0644."""
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for row in self._rows(shard):
                key = row["image_id"].replace(".", "%2E")
                texts = {"cls": str(row["label"]), "json": json.dumps(_columns(row), ensure_ascii=False)}
                contents = {"jpg": row["image"]["bytes"]} | {kind: text.encode() for kind, text in texts.items()}
                for suffix, content in contents.items():
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in (*COLUMNS, FLAG) if name in row and name != "image"}


def _metadata(markers: list[Path]) -> Iterator[bytes]:
    """The metadata in the markers of an image folder: all but the first line of each."""
    for marker in markers:
        with open(marker, "rb") as lines:
            lines.readline()
            yield from iter(lambda: lines.read(1 << 20), b"")  # read before the next file is opened


def _size(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    return path.stat().st_size if path.is_file() else -1


def _describe(description: dict[str, Any]) -> str:
    return f"{description.get('dataset')} as {description.get('format')} ({str(description.get('fingerprint'))[:12]})"


def _check_row(row: dict[str, Any], request: ImageRequest) -> str:
    """What is wrong with a row; "" when its names and label are those of the plan and it can be written."""
    planned = planned_columns(request)
    for name in ("image_id", "wnid", "label"):
        if row[name] != planned[name]:
            return f"{name} is {row[name]!r}, the plan says {planned[name]!r}"
    if not ((row["image"] or {}).get("bytes") or b"").startswith(b"\xff\xd8\xff"):
        return f"image {request.image_id} is no JPEG"
    if row["guidance_scale"] is None or not math.isfinite(row["guidance_scale"]):
        return f"guidance_scale is {row['guidance_scale']}"  # JSON has no such number
    return ""
