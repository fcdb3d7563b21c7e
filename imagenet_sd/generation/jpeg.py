"""The one way in which images are encoded: as the plan records it."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

JPEG = {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}
"""Part of the generation settings, and of their fingerprint."""


def encode_jpeg(image: "np.ndarray") -> bytes:
    """A JPEG file with the settings of `JPEG` from uint8 [height, width, 3]."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, JPEG["format"], quality=JPEG["quality"], subsampling=JPEG["subsampling"])
    return buffer.getvalue()
