"""Draw families of a generated dataset: each row shows the first images of one prompt.

Call it with a dataset and the file to write: `python scripts/draw_families.py DATASET families.png`.
"""

import io
import sys
from collections import defaultdict

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from imagenet_sd.data.open import open_images
from imagenet_sd.data.parquet import ParquetSet

ROWS, COLUMNS, SIDE, GAP, TEXT = 4, 12, 64, 2, 20


def main() -> None:
    images = open_images(sys.argv[1])
    assert isinstance(images, ParquetSet)
    families: dict[str, list[bytes]] = defaultdict(list)
    for row in pq.read_table(images.files[0], columns=["prompt", "image"]).to_pylist():
        families[row["prompt"]].append(row["image"]["bytes"])
    step = len(families) // ROWS
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP), ROWS * (SIDE + TEXT + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, prompt in enumerate(sorted(families)[::step][:ROWS]):
        top = number * (SIDE + TEXT + GAP)
        draw.text((2, top + 2), prompt, "black", font)
        for column, data in enumerate(families[prompt][:COLUMNS]):
            large = Image.open(io.BytesIO(data)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(large, (column * (SIDE + GAP), top + TEXT))
    sheet.save(sys.argv[2], optimize=True)


if __name__ == "__main__":
    main()
