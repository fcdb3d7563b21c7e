"""The gallery: one static HTML page and a contact sheet of a dataset. Reads result files only; works while it grows."""

import base64
import io
from collections import defaultdict
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw

from imagenet_sd.core.errors import DatasetError, one_line
from imagenet_sd.core.files import atomic_write
from imagenet_sd.data.images import LabelledImage
from imagenet_sd.report.text import template
from imagenet_sd.storage.dataset import REPAIR, Dataset

_THUMBNAIL = 160
_COLUMNS = ["image", "wnid", "image_id", "prompt", "seed"]
_EMBED_LIMIT = 20_000  # bytes up to which an image is put into the page as it is


def write_gallery(dataset: Dataset, page: Path, sheet: Path, images_per_class: int) -> int:
    """Write the page and the contact sheet.

    Args:
        dataset: finished or not.
        page: HTML file to write. It holds its pictures and needs no network and no other file.
        sheet: PNG file to write: a row of pictures per class.
        images_per_class: how many pictures a class gets at most; the first in the order of the shards.

    Returns:
        Number of pictures shown.

    Raises:
        DatasetError: no shard is finished yet.
    """
    chosen = choose_images(dataset, dataset.wnids, images_per_class)
    shown = sum(map(len, chosen.values()))
    if not shown:
        raise DatasetError(f"{dataset.folder} has no finished shard to show", "run `imagenet-sd generate` first")
    html = template("gallery.html.j2").render(
        classes=dataset.document["classes"],
        chosen=chosen,
        data_uri=data_uri,
        settings=dataset.settings,
        shown=shown,
        images=dataset.plan.num_images,
        small=dataset.image_size[0] < 96,
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(page, lambda path: path.write_text(html, encoding="utf-8"))
    _write_sheet(dataset, chosen, sheet, images_per_class)
    return shown


def choose_images(
    dataset: Dataset, wnids: list[str], images_per_class: int, most_groups: int | None = None
) -> dict[str, list[dict]]:
    """The first pictures of every class: wnid -> rows of the shards. Reads no further than needed.

    Args:
        dataset: finished or not.
        wnids: the classes.
        images_per_class: pictures a class gets at most.
        most_groups: row groups (of about 100 images) that are read at most; None: all.

    Raises:
        DatasetError: a shard is damaged.
    """
    chosen: dict[str, list[dict]] = defaultdict(list)
    open_classes = set(wnids)
    for group in islice(dataset.row_groups(_COLUMNS), most_groups):
        ids = group.column("wnid").to_pylist()
        for number, wnid in enumerate(ids):
            if wnid in open_classes:
                row = {name: group.column(name)[number].as_py() for name in _COLUMNS}
                if not isinstance((row["image"] or {}).get("bytes"), bytes):
                    raise DatasetError(f"{row['image_id']} of {dataset.folder} holds no image", REPAIR)
                chosen[wnid].append(row)
                if len(chosen[wnid]) >= images_per_class:
                    open_classes.discard(wnid)
        if not open_classes:
            break
    return chosen


def data_uri(jpeg: bytes) -> str:
    """A JPEG as a `data:` address; large ones are made smaller first."""
    if len(jpeg) > _EMBED_LIMIT:
        image = _decoded(jpeg)
        image.thumbnail((2 * _THUMBNAIL, 2 * _THUMBNAIL))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        jpeg = buffer.getvalue()
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _decoded(jpeg: bytes, name: str = "an image") -> Image.Image:
    try:
        return LabelledImage(image_id=name, label=0, data=jpeg).decode()
    except OSError as error:
        raise DatasetError(f"{name} cannot be decoded: {one_line(error)}", REPAIR) from None


def _write_sheet(dataset: Dataset, chosen: dict[str, list[dict]], sheet: Path, columns: int) -> None:
    """A PNG with one row a class: its name, then its pictures."""
    width, height = dataset.image_size
    scale = min(1.0, 96 / max(width, height)) if max(width, height) > 96 else max(1, 64 // max(width, height))
    cell = (max(1, round(width * scale)), max(1, round(height * scale)))
    gap, label, classes = 2, 150, dataset.document["classes"][:200]
    canvas = Image.new(
        "RGB", (label + columns * (cell[0] + gap), max(1, len(classes)) * (cell[1] + gap)), (250, 250, 250)
    )
    draw = ImageDraw.Draw(canvas)
    resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    for line, entry in enumerate(classes):
        top = line * (cell[1] + gap)
        name = entry["lemmas"][0].encode("latin-1", "replace").decode("latin-1")
        draw.text((6, top + cell[1] // 2 - 6), name[:24], fill=(20, 20, 20))
        for column, row in enumerate(chosen[entry["wnid"]]):
            image = _decoded(row["image"]["bytes"], row["image_id"])
            canvas.paste(image.resize(cell, resample), (label + column * (cell[0] + gap), top))
    atomic_write(sheet, lambda path: canvas.save(path, "PNG"))
