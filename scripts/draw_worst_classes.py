"""Draw the classes that encoders are worst at: generated training images above real test photographs.

Call it with a dataset, the results of `evaluate --suite imagenet` on `builtin:cifar10` of encoders trained on it, and
the file to write: `python scripts/draw_worst_classes.py DATASET results.json ... worst.png`.
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imagenet_sd.core.documents import read_document
from imagenet_sd.core.results import EvaluationResults
from imagenet_sd.data.builtin import builtin_images
from imagenet_sd.report.gallery import choose_images
from imagenet_sd.storage.dataset import Dataset

CLASSES, COLUMNS, SIDE, GAP, TEXT = 4, 12, 64, 2, 130


def main() -> None:
    dataset = Dataset.open(Path(sys.argv[1]))
    accuracies = [read_document(EvaluationResults, Path(path)).scores[0].per_class for path in sys.argv[2:-1]]
    means = {wnid: sum(each[wnid] for each in accuracies) / len(accuracies) for wnid in accuracies[0]}
    worst = sorted(means, key=means.__getitem__)[:CLASSES]
    names = {entry["wnid"]: entry["lemmas"][0] for entry in dataset.document["classes"]}
    generated = choose_images(dataset, worst, COLUMNS)
    real = builtin_images("cifar10", "test")

    sheet = Image.new("RGB", (TEXT + COLUMNS * (SIDE + GAP), CLASSES * (2 * (SIDE + GAP) + 5 * GAP)), "white")
    draw, font, bold = ImageDraw.Draw(sheet), ImageFont.load_default(12), ImageFont.load_default(15)
    for number, wnid in enumerate(worst):
        top = number * (2 * (SIDE + GAP) + 5 * GAP)
        draw.text((4, top + 4), f"{names[wnid]}: {means[wnid]:.0%} right", "black", bold)
        draw.text((4, top + SIDE // 2), "generated", "black", font)
        draw.text((4, top + SIDE + GAP + SIDE // 2), "real", "black", font)
        rows = np.flatnonzero(real.labels == real.classes.index(wnid))[:COLUMNS]
        lines = [
            [Image.open(io.BytesIO(row["image"]["bytes"])) for row in generated[wnid]],
            [Image.fromarray(real.images[row]) for row in rows],
        ]
        for line, pictures in enumerate(lines):
            for column, picture in enumerate(pictures):
                large = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
                sheet.paste(large, (TEXT + column * (SIDE + GAP), top + line * (SIDE + GAP)))
    sheet.save(sys.argv[-1], optimize=True)


if __name__ == "__main__":
    main()
