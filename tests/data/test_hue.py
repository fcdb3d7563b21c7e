import colorsys

import numpy as np
import pytest

from imagenet_sd.data.hue import HUES, hue_labels


@pytest.mark.parametrize(("name", "pixel"), zip(HUES, [(200, 0, 0), (200, 200, 0), (0, 200, 0), (0, 200, 200),
                                                       (0, 0, 200), (200, 0, 200)], strict=True))  # fmt: skip
def test_pure_colours_have_their_names(name: str, pixel: tuple[int, int, int]):
    image = np.full((1, 4, 4, 3), 30, np.uint8)
    image[0, 1, 1] = pixel  # one coloured pixel among grey ones decides
    assert HUES[hue_labels(image)[0]] == name


def test_one_colour_against_colorsys():
    """Away from the edges of the six sectors, where chroma weighting does not matter: an image of one colour."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 3), dtype=np.uint8)
    for pixel, label in zip(pixels, hue_labels(pixels[:, None, None]), strict=True):
        sector = colorsys.rgb_to_hsv(*(pixel / 255))[0] * 6
        if abs(sector % 1 - 0.5) > 0.05:
            assert label == round(sector) % 6
