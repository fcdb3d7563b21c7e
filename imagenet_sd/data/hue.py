"""A task that needs colour: the main hue of a photograph, as one of six classes."""

import numpy as np

HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")


def hue_labels(images: np.ndarray) -> np.ndarray:
    """The sixth of the hue circle that holds the mean hue of each image, every pixel weighted by its chroma.

    With r, g, b at 0, 120 and 240 degrees the weighted sum of the pixels' hues is the vector
    (r - (g + b) / 2, sqrt(3) / 2 (g - b)), summed over the image; red is the sixth around 0 degrees.

    Args:
        images: uint8 [N, H, W, 3].

    Returns:
        int64 [N] in 0 .. 5, places in `HUES`; 0 for an image without any colour.
    """
    r, g, b = images.reshape(len(images), -1, 3).mean(1, dtype=np.float64).T
    degrees = np.degrees(np.arctan2(np.sqrt(3) / 2 * (g - b), r - (g + b) / 2))
    return (np.floor((degrees + 30) / 60) % 6).astype(np.int64)
