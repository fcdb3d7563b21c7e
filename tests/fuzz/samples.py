"""What the formats share: a small image, writing a file, reading a set of images."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.data.images import ImageSet


def encoded(kind: str, **options: Any) -> bytes:
    """A small image file."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Makes one file."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def each(*reads: Callable[[], object]) -> None:
    """Call all; the first refusal is raised at the end."""
    refusals = []
    for read in reads:
        try:
            read()
        except ImagenetSDError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def read_all(images: ImageSet, groups: int = 3) -> None:
    """Decode the first groups of a set, as training and evaluation do: what cannot be decoded is counted there."""
    for group in range(min(groups, len(images.group_sizes))):
        for record in images.read_group(group):
            assert 0 <= record.label < len(images.classes)
            try:
                record.decode()
            except OSError:
                continue
