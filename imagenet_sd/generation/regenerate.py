"""One image again, alone, compared with the stored one."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from imagenet_sd.core.errors import DatasetError, one_line
from imagenet_sd.generation.diffusion.batches import encode_jpeg
from imagenet_sd.generation.diffusion.options import Offload
from imagenet_sd.generation.worker import make_worker
from imagenet_sd.storage.dataset import Dataset
from imagenet_sd.storage.schema import row_batches
from imagenet_sd.storage.writer import ROW_GROUP


def regenerate_image(dataset: Dataset, image_id: str, offload: Offload = "none") -> dict[str, Any]:
    """Generate `image_id` in a batch that holds nothing else; see `pipeline.regenerate` for what is returned.

    Raises:
        DatasetError: the plan has no such image, or its shard is not done or not readable.
    """
    plan = dataset.plan
    try:
        i, row = plan.locate(image_id)
    except KeyError:
        last = plan.classes[0].wnid + "_000000"
        raise DatasetError(f"{dataset.folder} has no image {image_id!r}", f"ids look like {last}") from None
    shard = plan.shard(i)
    path = dataset.shard_path(shard)
    if not dataset.is_done(shard):
        raise DatasetError(f"{image_id} is in {path}, which is not done", "run `imagenet-sd generate` first")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = pa.Table.from_batches(row_batches(file, row // ROW_GROUP))
        stored = table.slice(row % ROW_GROUP, 1).to_pylist()[0]
    except (OSError, ValueError, IndexError) as error:
        raise DatasetError(f"{path} is unreadable: {one_line(error)}", "run `verify --repair`") from None
    if stored["image_id"] != image_id:
        raise DatasetError(f"{path} holds {stored['image_id']} in the place of {image_id}", "run `verify --repair`")
    request = plan.requests(shard)[row]
    generated = encode_jpeg(make_worker(dataset, offload=offload).generator.generate([request])[0])
    old, new = (_pixels(data) for data in (stored["image"]["bytes"], generated))
    difference = int(np.abs(old - new).max()) if old.shape == new.shape else 255
    return {
        "image_id": image_id,
        "shard": dataset.relative(path),
        "row": row,
        "prompt": request.prompt.text,
        "seed": request.seed,
        "identical": difference == 0,
        "largest_difference": difference,
        "identical_bytes": stored["image"]["bytes"] == generated,
    }


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return np.asarray(image.convert("RGB")).astype(np.int16)
