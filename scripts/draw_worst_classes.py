"""Draw the classes that encoders of the photograph study know worst: generated images above real test photographs.

Call it with the file to write: `python scripts/draw_worst_classes.py docs/findings/photos-worst.png`. The classes are
those with the lowest accuracy in `docs/findings/photos.json`, the generated images the first ones of the base dataset.
"""

import itertools
import json
import sys
from pathlib import Path
from statistics import mean

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imagenet_sd.data.open import open_images
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import identify
from imagenet_sd.generation.plan import make_plan
from imagenet_sd.generation.worker import make_worker
from imagenet_sd.storage.dataset import Dataset

STUDY = Path(__file__).parent.parent / "docs" / "findings" / "photos.json"
COLUMNS, CLASSES, PIXELS, GAP, TEXT = 12, 2, 80, 4, 20


def worst_classes() -> list[str]:
    """The wnids of lowest accuracy on real test photographs, for encoders trained on generated ones."""
    cells = json.loads(STUDY.read_text(encoding="utf-8"))["cells"]
    cells = [cell["per_class"] for cell in cells if cell["factors"]["data"] == "synthetic"]
    return sorted(cells[0], key=lambda wnid: mean(cell[wnid] for cell in cells))[:CLASSES]


def generated(wnid: str) -> tuple[str, list[np.ndarray]]:
    """The name of a class, and its first images with the settings of the study's base."""
    config = GenerationConfig(
        model="embedded", classes="photos-10", prompt="c", guidance_scale=2, num_inference_steps=10,
        images_per_class=COLUMNS, batch_size=COLUMNS,
    )  # fmt: skip
    plan, document = make_plan(config, identify(config))
    requests = [request for request in plan.requests(plan.shard(0)) if request.prompt.wnid == wnid]
    requests.sort(key=lambda request: request.image_id)
    name = next(spec.lemmas[0] for spec in plan.classes if spec.wnid == wnid)
    return name, list(make_worker(Dataset.from_document(Path("unused"), document)).generator.generate(requests))


def real(wnid: str) -> list[np.ndarray]:
    """The first test photographs of a class."""
    images = open_images("builtin:cifar10", "test")
    label = images.classes.index(wnid)
    every = (image for group in range(len(images.group_sizes)) for image in images.read_group(group))
    found = itertools.islice((image for image in every if image.label == label), COLUMNS)
    return [np.asarray(image.decode()) for image in found]


def main() -> None:
    rows = []
    for wnid in worst_classes():
        name, images = generated(wnid)
        rows += [(f"{name}, generated", images), (f"{name}, real test photographs", real(wnid))]
    sheet = Image.new("RGB", (COLUMNS * (PIXELS + GAP) - GAP, len(rows) * (PIXELS + TEXT + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for y, (title, images) in enumerate(rows):
        top = y * (PIXELS + TEXT + GAP)
        draw.text((0, top), title, "black", font)
        for x, pixels in enumerate(images):
            image = Image.fromarray(pixels).resize((PIXELS, PIXELS), Image.Resampling.NEAREST)
            sheet.paste(image, (x * (PIXELS + GAP), top + TEXT))
    sheet.save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()
