"""One image again, alone, compared with the stored one."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.types import GenerationPlan
from imagenet_sd.generation.diffusion.generator import encode_jpeg
from imagenet_sd.generation.worker import make_worker
from imagenet_sd.storage.writer import ROW_GROUP, is_done, shard_path


def regenerate_image(out: Path, plan: GenerationPlan, document: dict[str, Any], image_id: str) -> dict[str, Any]:
    """Draw `image_id` in a batch that holds nothing else; see `pipeline.regenerate` for what is returned.

    Raises:
        DatasetError: the plan has no such image, or its shard is not done or not readable.
    """
    try:
        i, row = plan.locate(image_id)
    except KeyError:
        last = plan.classes[0].wnid + "_000000"
        raise DatasetError(f"{out} has no image {image_id!r}", f"ids look like {last}") from None
    shard = plan.shard(i)
    path = shard_path(out, shard)
    if not is_done(out, shard, plan.fingerprint):
        raise DatasetError(f"{image_id} lies in {path}, which is not done", "run `imagenet-sd generate` first")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            stored = file.read_row_group(row // ROW_GROUP).slice(row % ROW_GROUP, 1).to_pylist()[0]
    except (OSError, ValueError, IndexError) as error:
        raise DatasetError(f"{path} is unreadable: {' '.join(str(error).split())}", "run `verify --repair`") from None
    if stored["image_id"] != image_id:
        raise DatasetError(f"{path} holds {stored['image_id']} in the place of {image_id}", "run `verify --repair`")
    request = plan.requests(shard)[row]
    drawn = encode_jpeg(make_worker(out, plan, document).generator.generate([request])[0])
    old, new = (_pixels(data) for data in (stored["image"]["bytes"], drawn))
    difference = int(np.abs(old - new).max()) if old.shape == new.shape else 255
    return {
        "image_id": image_id,
        "shard": str(path.relative_to(out)),
        "row": row,
        "prompt": request.prompt.text,
        "seed": request.seed,
        "identical": difference == 0,
        "largest_difference": difference,
        "identical_bytes": stored["image"]["bytes"] == drawn,
    }


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return np.asarray(image.convert("RGB")).astype(np.int16)
