"""The columns of a shard, and the metadata that makes `datasets` read them as images and class labels."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.types import ImageRequest

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ROW_GROUP_LIMIT = 512 << 20
"""Bytes of the largest row group that is read, uncompressed; ours hold 100 images."""
_ROWS_LIMIT, _ROWS_AT_ONCE = 1_000_000, 100
FLAG = "nsfw"
"""A last column, of bool, where images were flagged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a shard; `jpeg` holds the encoded image, the other fields are the columns of the same name.

    `nsfw` is None in datasets whose images nobody flagged; these have no such column.
    """

    jpeg: bytes
    label: int
    wnid: str
    image_id: str
    prompt: str
    template: str
    background: str
    seed: int
    guidance_scale: float
    num_inference_steps: int
    model_id: str
    nsfw: bool | None = None


_DTYPES = {str: "string", int: "int64", float: "float64"}
_VALUES = {f.name: _DTYPES[f.type] for f in fields(Row) if f.name not in ("jpeg", "label", FLAG)}
COLUMNS = ("image", "label", *_VALUES)


def planned_columns(request: ImageRequest) -> dict[str, Any]:
    """What the plan decides of an image's row, by column."""
    prompt = request.prompt
    return {
        "image_id": request.image_id,
        "seed": request.seed,
        "label": prompt.class_index,
        "wnid": prompt.wnid,
        "prompt": prompt.text,
        "template": prompt.template,
        "background": prompt.background,
    }


def arrow_schema(wnids: Sequence[str], *, flagged: bool = False) -> pa.Schema:
    """The Arrow schema of a shard, with Hugging Face's features in its metadata.

    Args:
        wnids: class ids in label order; they become the names of the `ClassLabel`.
        flagged: whether there is a column `nsfw`.
    """
    values = _VALUES | ({FLAG: "bool"} if flagged else {})
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [pa.field("image", image), pa.field("label", pa.int64())]
    fields += [pa.field(name, pa.type_for_alias(dtype)) for name, dtype in values.items()]
    features: dict[str, object] = {"image": {"_type": "Image"}, "label": {"names": list(wnids), "_type": "ClassLabel"}}
    features |= {name: {"dtype": dtype, "_type": "Value"} for name, dtype in values.items()}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def to_table(rows: Sequence[Row], wnids: Sequence[str]) -> pa.Table:
    """Rows as an Arrow table; with a column `nsfw` when all of them are flagged or not, without when none is."""
    flagged = any(row.nsfw is not None for row in rows)
    assert not flagged or all(row.nsfw is not None for row in rows), "a shard is flagged whole or not at all"
    columns: dict[str, list] = {
        "image": [{"bytes": row.jpeg, "path": f"{row.image_id}.jpg"} for row in rows],
        "label": [row.label for row in rows],
    }
    columns |= {name: [getattr(row, name) for row in rows] for name in (*_VALUES, *[FLAG] * flagged)}
    return pa.table(columns, schema=arrow_schema(wnids, flagged=flagged))


def row_batches(file: "pq.ParquetFile", group: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a row group, in memory that is bounded however well they are compressed.

    A small file may hold a huge image, or say in a few bytes that one image fills many rows.

    Args:
        file: the open file.
        group: number of the row group.
        columns: names of the columns to read; None for all.

    Yields:
        Batches of at most 100 rows, together at most `ROW_GROUP_LIMIT` bytes.

    Raises:
        DatasetError: the row group is larger, or a column is missing.
        pa.ArrowException: it is damaged.
    """
    if missing := [name for name in columns or () if name not in file.schema_arrow.names]:
        raise DatasetError(f"there is no column {missing[0]!r}", "write the file again with this column")
    facts = file.metadata.row_group(group)
    size = max(1, facts.total_byte_size)
    at_once, read = min(_ROWS_AT_ONCE, max(1, ROW_GROUP_LIMIT // size)), 0
    if size <= ROW_GROUP_LIMIT and facts.num_rows <= _ROWS_LIMIT:
        for batch in file.iter_batches(batch_size=at_once, row_groups=[group], columns=columns):
            read += batch.nbytes
            if read > ROW_GROUP_LIMIT:
                break
            yield batch
        else:
            return
    raise DatasetError(
        f"row group {group} has {facts.num_rows:,} rows and {max(size, read):,} bytes or more; "
        f"up to {ROW_GROUP_LIMIT:,} bytes are read",
        "write the file again with fewer images a row group, or without the image that is so large",
    )
