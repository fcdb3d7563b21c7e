"""The columns of a shard, and the metadata that makes `datasets` read them as images and class labels."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa

from imagenet_sd.core.types import ImageRequest

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
