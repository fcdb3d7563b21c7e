"""Multi-crop in the data workers: random resized crops and flips, and the parameters of the operations that follow.

All random values of an image come from a generator seeded by (seed, epoch, image id): they do not depend on the worker,
the process or the batch the image falls into.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.training.config import CropsConfig, PhotometricConfig

# Columns of the photometric parameters of a crop. Factors of 1 and a shift, radius or flag of 0 mean "not applied".
PARAMETERS = ("brightness", "contrast", "saturation", "hue", "first", "second", "third", "fourth")
PARAMETERS += ("grayscale", "blur", "solarize")
# Columns of the geometry of a crop: its box in shares of the image, whether it is flipped, and its quarter turns.
GEOMETRY = ("centre_y", "centre_x", "height", "width", "flip", "turns")


@dataclass(frozen=True, kw_only=True, slots=True)
class Crops:
    """The crops of one image.

    Attributes:
        global_crops: uint8 [M_g, 3, S_g, S_g].
        local_crops: uint8 [M_l, 3, S_l, S_l].
        parameters: float32 [M_g + M_l, 11], columns as in `PARAMETERS`.
        geometry: float32 [M_g + M_l, 6], columns as in `GEOMETRY`.
    """

    global_crops: np.ndarray
    local_crops: np.ndarray
    parameters: np.ndarray
    geometry: np.ndarray


def sample_box(
    rng: np.random.Generator, width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A random box of a share `scale` of the area and an aspect ratio in `ratio`, both sampled as in torchvision.

    Returns:
        (left, top, right, bottom) in whole pixels; after ten failed tries the largest central box of a permitted ratio.
    """
    area = width * height
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        target = area * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < ratio[0]:
        h = min(height, round(w / ratio[0]))
    elif width / height > ratio[1]:
        w = min(width, round(h * ratio[1]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def sample_parameters(rng: np.random.Generator, config: PhotometricConfig, is_global: bool) -> np.ndarray:
    """Photometric parameters of one crop, float32 [11] (thesis 4.3; constants and sources in `PhotometricConfig`)."""
    values = np.zeros(len(PARAMETERS), np.float32)
    values[:3] = 1
    values[4:8] = rng.permutation(4)
    jitter = rng.random() < config.jitter_probability
    factors = [rng.uniform(1 - x, 1 + x) for x in (config.brightness, config.contrast, config.saturation)]
    hue = rng.uniform(-config.hue, config.hue)
    if jitter:
        values[:4] = (*factors, hue)
    values[8] = rng.random() < config.grayscale
    blur = rng.random() < (config.global_blur if is_global else config.local_blur)
    radius = rng.uniform(*config.blur_radius)
    values[9] = radius if blur else 0
    values[10] = is_global and rng.random() < config.solarize
    return values


class MultiCrop:
    """Cuts the crops of an image.

    Args:
        crops: numbers, sizes and scales.
        photometric: distributions of the parameters; None for no photometric operation at all.
        seed: seed of the run.
    """

    def __init__(self, crops: CropsConfig, photometric: PhotometricConfig | None, seed: int):
        self.crops, self.photometric, self.seed = crops, photometric, seed

    def __call__(self, image: Image.Image, epoch: int, image_id: str) -> Crops:
        """Cut and resize; RGB image in, see `Crops` out."""
        rng = np.random.default_rng(stable_hash("crops", self.seed, epoch, image_id))
        c = self.crops
        kinds = [(c.global_crop_size, c.global_crops_scale, True)] * c.global_crops_number
        kinds += [(c.local_crop_size, c.local_crops_scale, False)] * c.local_crops_number
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        cut, parameters, geometry = [], [], []
        for size, scale, is_global in kinds:
            left, top, right, bottom = sample_box(rng, *image.size, scale, c.aspect_ratio)
            region = pixels[:, :, top:bottom, left:right]
            # torch's vectorised kernel for uint8; within 2 levels of Pillow's, and 4 times as fast
            resized = F.interpolate(region, (size, size), mode=c.interpolation, antialias=True)[0].numpy()
            flip = rng.random() < c.horizontal_flip
            if flip:
                resized = resized[:, :, ::-1]
            turns = int(rng.integers(4)) if c.rotate else 0
            cut.append(np.rot90(resized, turns, (1, 2)) if turns else resized)
            geometry.append((*_relative(left, top, right, bottom, *image.size), flip, turns))
            if self.photometric is not None:
                parameters.append(sample_parameters(rng, self.photometric, is_global))
        n = c.global_crops_number
        return Crops(
            global_crops=np.array(cut[:n]),
            local_crops=np.array(cut[n:], np.uint8).reshape(-1, 3, c.local_crop_size, c.local_crop_size),
            parameters=np.array(parameters, np.float32).reshape(len(cut), -1),
            geometry=np.array(geometry, np.float32),
        )


def _relative(left: int, top: int, right: int, bottom: int, width: int, height: int) -> tuple[float, ...]:
    """Centre (y, x) and size (height, width) of a box, in shares of the image."""
    centre = ((top + bottom) / 2 / height, (left + right) / 2 / width)
    return (*centre, (bottom - top) / height, (right - left) / width)
