"""How an image is shown to an encoder at test time, in training's validation and in evaluation alike."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

# Channel means and standard deviations of ImageNet in [0, 1], which pre-trained encoders expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """From an image to the input of an encoder: resize, take the central square, normalise.

    Attributes:
        resize_size: pixels of the shorter edge of the resized image, at least `crop_size`.
        crop_size: edge of the central square in pixels.
        interpolation: resampling filter.
        crop_mode: "squash" resizes both edges to `resize_size`, whatever the aspect ratio.
        mean: channel means in [0, 1] that are subtracted.
        std: standard deviations that are divided by.
    """

    resize_size: int
    crop_size: int
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    crop_mode: Literal["center", "squash"] = "center"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def crop(self, image: Image.Image) -> np.ndarray:
        """The resized central square, not normalised yet.

        Returns:
            uint8 [3, crop_size, crop_size].
        """
        width, height = size = image.size
        if self.crop_mode == "squash":
            size = (self.resize_size, self.resize_size)
        elif min(size) != self.resize_size:
            size = (self.resize_size * width // min(size), self.resize_size * height // min(size))
        if size != image.size:
            image = image.resize(size, Image.Resampling[self.interpolation.upper()])
        left, top = (round((edge - self.crop_size) / 2) for edge in size)
        square = np.asarray(image)[top : top + self.crop_size, left : left + self.crop_size]
        return np.ascontiguousarray(square.transpose(2, 0, 1))


def transfer_preprocessing(crop_size: int) -> Preprocessing:
    """Shorter edge to the size of the crop, bicubic: what features are extracted with (thesis 4.4 and 5.5.3)."""
    return Preprocessing(resize_size=crop_size, crop_size=crop_size)


def invariance_preprocessing(crop_size: int) -> Preprocessing:
    """Shorter edge to 256/224 of the crop, bilinear: the crop hides what a small shift brings in (Ericsson et al.)."""
    return Preprocessing(resize_size=round(crop_size * 256 / 224), crop_size=crop_size, interpolation="bilinear")


def imagenet_preprocessing(crop_size: int) -> Preprocessing:
    """Shorter edge to 256 pixels, bilinear, and a crop of 224: how classifiers are scored on ImageNet's test sets.

    The classifiers of thesis Tab. 5.2 were validated so by torchvision, and t-ReX by its authors. The margin belongs to
    crops of 224; another size, such as that of small images, has none and is as in `transfer_preprocessing`.
    """
    if crop_size != 224:
        return transfer_preprocessing(crop_size)
    return Preprocessing(resize_size=256, crop_size=crop_size, interpolation="bilinear")
