"""Verification: read every byte of a dataset and name every fault."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from imagenet_sd.core import layout
from imagenet_sd.core.errors import DatasetError, one_line
from imagenet_sd.core.files import sha256_file
from imagenet_sd.core.types import ImageRequest, Shard
from imagenet_sd.storage.dataset import Dataset
from imagenet_sd.storage.schema import FLAG, arrow_schema, planned_columns, row_batches


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault: the shard's number in the plan (None for a stray file), its path under the dataset, what is wrong."""

    shard: int | None
    path: str
    message: str


def verify_dataset(dataset: Dataset, on_shard: Callable[[int], None] = lambda rows: None) -> list[Fault]:
    """Check every shard against its manifest and the plan.

    Read with page checksums; the rows' ids, labels, prompts and seeds are compared with the plan; every JPEG is
    decoded and its size compared.

    Args:
        dataset: what to verify.
        on_shard: called after each shard with its number of rows, for progress.

    Returns:
        The faults, in the order of the plan; empty for a sound and complete dataset.
    """
    faults = []
    shards = {dataset.shard_path(shard): shard for shard in dataset.plan.shards()}
    for i, (path, shard) in enumerate(shards.items()):
        if message := _check_shard(dataset, shard):
            faults.append(Fault(shard=i, path=dataset.relative(path), message=message))
        on_shard(shard.num_rows)
    for path in sorted((dataset.folder / layout.DATA).glob("*/*.parquet")):
        if path not in shards:
            faults.append(Fault(shard=None, path=dataset.relative(path), message="is not part of the plan"))
    return faults


def _check_shard(dataset: Dataset, shard: Shard) -> str:
    path = dataset.shard_path(shard)
    try:
        manifest = dataset.manifest(shard)
    except DatasetError as error:
        return f"manifest unreadable: {error}"
    if manifest is None:
        return "not finished: it has no manifest" if path.exists() else "missing"
    if not path.is_file():
        return f"missing, though {dataset.manifest_path(shard).name} says it is done"
    if manifest.fingerprint != dataset.fingerprint:
        return "belongs to another plan: the fingerprint in its manifest differs"
    digest_differs, message = sha256_file(path) != manifest.sha256, ""
    try:
        if (rows := pq.read_metadata(path).num_rows) != shard.num_rows:
            message = f"{rows} rows instead of {shard.num_rows}"
        else:
            for _ in read_rows(dataset, shard, partial(_check_row, size=dataset.image_size)):
                pass
    except DatasetError as error:
        message = str(error)
    except (pa.ArrowException, OSError, ValueError) as error:
        message = f"unreadable: {one_line(error)}"
    if digest_differs:
        return f"SHA-256 differs from its manifest ({message or 'every row is as planned'})"
    return message


def read_rows(
    dataset: Dataset, shard: Shard, check: Callable[[dict[str, Any], ImageRequest], str]
) -> Iterator[dict[str, Any]]:
    """The rows of a shard, one row group in memory; `check` says what is wrong with a row, "" for nothing.

    Raises:
        DatasetError: the file is unreadable, or its rows are not the plan's; the message leaves the path to the caller.
    """
    requests, done = dataset.plan.requests(shard), 0
    try:
        with pq.ParquetFile(dataset.shard_path(shard), page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            if not file.schema_arrow.equals(arrow_schema(dataset.wnids, flagged=FLAG in names)):
                raise DatasetError(f"columns are {names}, or of another type")
            for group in range(file.num_row_groups):
                for row in chain.from_iterable(batch.to_pylist() for batch in row_batches(file, group)):
                    if done == len(requests):
                        raise DatasetError(f"more rows than the {done} of the plan")
                    if message := check(row, requests[done]):
                        raise DatasetError(f"row {done}: {message}")
                    done += 1
                    yield row
    except DatasetError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DatasetError(f"unreadable after row {done}: {one_line(error)}") from None
    if done != len(requests):
        raise DatasetError(f"{done} rows instead of {len(requests)}")


def _check_row(row: dict[str, Any], request: ImageRequest, size: tuple[int, int]) -> str:
    for name, value in planned_columns(request).items():
        if row[name] != value:
            return f"{name} is {row[name]!r}, the plan says {value!r}"
    if not isinstance(row.get(FLAG, False), bool):
        return f"{FLAG} is {row[FLAG]!r}, neither true nor false"
    try:
        with Image.open(io.BytesIO(row["image"]["bytes"]), formats=["JPEG"]) as image:
            if image.size != size or image.mode != "RGB":
                return f"image {request.image_id} is {image.mode} {image.size}, not RGB {size}"
            image.load()
    except Exception as error:  # Pillow raises many kinds on hostile bytes; each of them is a fault to name
        return f"image {request.image_id} does not decode: {one_line(error)}"
    return ""
