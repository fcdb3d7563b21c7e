"""Draw the README's first picture: the ten classes of `photos-10`, and a row of prompts with colour words.

Call it with the file to write: `python scripts/draw_readme_picture.py docs/embedded.png`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.core.types import ImageRequest, Prompt
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.loading import load_pipeline
from imagenet_sd.generation.models import EMBEDDED_FOLDER
from imagenet_sd.prompts.classes import load_classes

ROWS, SIDE, GAP, TEXT = 4, 96, 4, 18
COLOUR_WORDS = (
    "a red car",
    "a blue car",
    "a white car",
    "a green truck",
    "a red truck",
    "a blue truck",
    "a dog on a white background",
    "a dog on a green background",
    "a cat on a black background",
    "a brown horse",
)


def images_of(texts: list[str], guidance_scale: float) -> np.ndarray:
    """uint8 [len(texts), 32, 32, 3], with 20 steps."""
    generator = ImageGenerator(
        load_pipeline(EMBEDDED_FOLDER, torch.float32, torch.device("cpu")),
        guidance_scale=guidance_scale,
        num_inference_steps=20,
        width=32,
        height=32,
        batch_size=len(texts),
    )
    requests = []
    for number, text in enumerate(texts):
        prompt = Prompt(prompt_id="", wnid="", class_index=0, template="", background="", text=text)
        seed = stable_hash("readme", text, number)
        requests.append(ImageRequest(image_id=str(number), prompt=prompt, seed=seed))
    return generator.generate(requests)


def main() -> None:
    out = Path(sys.argv[1])
    classes = load_classes("photos-10")
    names = [spec.lemmas[0] for spec in classes]
    rows = [(names, images_of([", ".join(spec.lemmas) for spec in classes] * ROWS, 3).reshape(ROWS, 10, 32, 32, 3))]
    rows.append((list(COLOUR_WORDS), images_of(list(COLOUR_WORDS), 4)[None]))
    height = sum(len(images) * (SIDE + GAP) + 2 * TEXT for _, images in rows)
    sheet = Image.new("RGB", (10 * (SIDE + GAP) - GAP, height), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(12), 0
    for words, images in rows:
        for line in images:
            for column, pixels in enumerate(line):
                picture = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)
                sheet.paste(picture, (column * (SIDE + GAP), top))
            top += SIDE + GAP
        for column, text in enumerate(words):
            middle = column * (SIDE + GAP) + SIDE // 2
            for line, part in enumerate(text.replace(" background", "\nbackground").split("\n")):
                draw.text((middle, top + 15 * line), part, "black", font, anchor="ma")
        top += 2 * TEXT
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main()
