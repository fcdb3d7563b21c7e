"""Known transformations of images on grids of strengths, to measure how far features move under them.

Ranges and grids are those of Ericsson et al. ("Why do self-supervised models transfer?", 2022) and of their code. All
work on batches of images of one size, on any device, with torchvision's functions; resizing and cropping come after.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
import torchvision.transforms.functional as TF
from torchvision.transforms import InterpolationMode

from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.data.preprocess import Preprocessing
from imagenet_sd.evaluation.config import EvaluationError

Family = Literal["spatial", "appearance"]
Strength = tuple[float, ...]
Apply = Callable[[torch.Tensor, Strength], torch.Tensor]
"""uint8 images [N, 3, H, W] and a strength to uint8 images [N, 3, H', W']."""

_PUBLISHED_EDGE = 256
"""Strengths in pixels are those of an image with this shorter edge or a longer one; on smaller images they shrink."""
_DEFORMATION = 0.02
"""Standard deviation of an elastic displacement, as a share of the image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transformation:
    """A transformation and its grid.

    Attributes:
        name: as on the command line.
        family: whether it moves pixels or changes their colours.
        axes: strengths along each axis of the grid; the grid is their product.
        apply: transforms images of one size by one strength.
    """

    name: str
    family: Family
    axes: tuple[Callable[[int], np.ndarray], ...]
    apply: Apply

    def grid(self, strengths: int) -> list[Strength]:
        """The grid with about that many points: the k-th root of it along each of k axes, and all of a short axis."""
        along = max(2, round(strengths ** (1 / len(self.axes))))
        return [tuple(map(float, point)) for point in product(*(axis(along) for axis in self.axes))]


def _linear(low: float, high: float) -> Callable[[int], np.ndarray]:
    return lambda n: np.linspace(low, high, n)


def _periodic(low: float, high: float) -> Callable[[int], np.ndarray]:
    """Without the last point; with 0 on it where the range is centred and n even."""
    return lambda n: np.linspace(low, high, n + 1)[:-1]


def _all_of(*values: float) -> Callable[[int], np.ndarray]:
    return lambda n: np.array(values)


def _small(images: torch.Tensor) -> float:
    """What strengths in pixels are multiplied by."""
    return min(1.0, min(images.shape[-2:]) / _PUBLISHED_EDGE)


def _affine(
    images: torch.Tensor,
    angle: float = 0.0,
    translate: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    shear: tuple[float, float] = (0.0, 0.0),
) -> torch.Tensor:
    if (angle, *translate, scale, *shear) == (0, 0, 0, 1, 0, 0):
        return images  # bilinear sampling on the same grid would still round some values
    return TF.affine(images, angle, list(translate), scale, list(shear), InterpolationMode.BILINEAR)  # pyright: ignore[reportArgumentType]


def _translation(images: torch.Tensor, strength: Strength) -> torch.Tensor:
    height, width = images.shape[-2:]
    return _affine(images, translate=(strength[0] * width, strength[1] * height))


def _resized_crop(images: torch.Tensor, strength: Strength) -> torch.Tensor:
    height, width = images.shape[-2:]
    top, left, tall, wide = (round(share * edge) for share, edge in zip(strength, (height, width) * 2, strict=True))
    size = [min(height, width)] * 2
    return TF.resized_crop(images, top, left, max(1, tall), max(1, wide), size, InterpolationMode.BILINEAR)


def _elastic(images: torch.Tensor, strength: Strength) -> torch.Tensor:
    """Noise, blurred by sigma and scaled to `_DEFORMATION`, moves the pixels; one field per strength and image size."""
    seed = stable_hash("elastic", *images.shape[-2:], repr(strength)) % (1 << 63)
    noise = torch.rand(2, *images.shape[-2:], generator=torch.Generator().manual_seed(seed)) * 2 - 1
    smooth = _smoothed(noise, strength[0] * _small(images))
    field = smooth * (2 * _DEFORMATION / smooth.std())  # the image spans 2 in the coordinates of the field
    shift = field.permute(1, 2, 0)[None].to(images.device)
    return TF.elastic_transform(images, shift, InterpolationMode.BILINEAR, [0.0])


def _smoothed(noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur by a product in the frequency domain: exact for any sigma, periodic at the edges."""
    rows, columns = (torch.fft.fftfreq(size, device=noise.device) for size in noise.shape[-2:])
    response = torch.exp(-2 * (torch.pi * sigma) ** 2 * (rows[:, None] ** 2 + columns[None] ** 2))
    return torch.fft.ifft2(torch.fft.fft2(noise) * response).real


def _blur(images: torch.Tensor, strength: Strength) -> torch.Tensor:
    small = _small(images)
    size = min(2 * round(11 * small) + 1, 2 * min(images.shape[-2:]) - 1)
    sigma = strength[0] * small
    return TF.gaussian_blur(images, [size, size], [sigma, sigma]) if size > 1 and sigma > 1e-4 else images


def _when(change: Callable[[torch.Tensor], torch.Tensor]) -> Apply:
    """Strength 0 leaves the images, 1 changes them."""
    return lambda images, strength: change(images) if strength[0] else images


_SHIFT = (1 - 224 / 256) / 2
_OFF_ON = (_all_of(0, 1),)
_FACTOR = (_linear(0.25, 5),)
_ALL: tuple[tuple[str, Family, tuple[Callable[[int], np.ndarray], ...], Apply], ...] = (
    ("rotation", "spatial", (_periodic(0, 360),), lambda x, s: _affine(x, angle=-s[0])),
    ("translation", "spatial", (_periodic(-_SHIFT, _SHIFT),) * 2, _translation),
    ("scale", "spatial", (_linear(0.25, 2),), lambda x, s: _affine(x, scale=s[0])),
    ("shear", "spatial", (_periodic(-160, 160),) * 2, lambda x, s: _affine(x, shear=(s[0], s[1]))),
    ("resized_crop", "spatial", (_linear(0, 0.25),) * 2 + (_linear(0.75, 0.25),) * 2, _resized_crop),
    ("h_flip", "spatial", _OFF_ON, _when(TF.hflip)),
    ("v_flip", "spatial", _OFF_ON, _when(TF.vflip)),
    ("deform", "spatial", (_linear(10, 50),), _elastic),
    ("grayscale", "appearance", _OFF_ON, _when(lambda x: TF.rgb_to_grayscale(x, 3))),
    ("brightness", "appearance", _FACTOR, lambda x, s: TF.adjust_brightness(x, s[0])),
    ("contrast", "appearance", _FACTOR, lambda x, s: TF.adjust_contrast(x, s[0])),
    ("saturation", "appearance", _FACTOR, lambda x, s: TF.adjust_saturation(x, s[0])),
    ("hue", "appearance", (_linear(-0.5, 0.5),), lambda x, s: TF.adjust_hue(x, s[0])),
    ("blur", "appearance", (_linear(1e-5, 20),), _blur),
    ("sharpness", "appearance", (_linear(1, 30),), lambda x, s: TF.adjust_sharpness(x, s[0])),
    ("invert", "appearance", _OFF_ON, _when(TF.invert)),
    ("equalize", "appearance", _OFF_ON, _when(TF.equalize)),
    ("posterize", "appearance", (_all_of(*range(1, 8)),), lambda x, s: TF.posterize(x, int(s[0]))),
)
TRANSFORMATIONS = {row[0]: Transformation(name=row[0], family=row[1], axes=row[2], apply=row[3]) for row in _ALL}
"""By name, the spatial ones first."""
VARIANTS = "variants"
"""Stands for no transformation of ours: images of one object, named `OBJECT_VARIANT`, are compared in pairs."""


def named(text: str) -> list[str]:
    """The transformations of a list with commas, in its order; all for an empty one.

    Raises:
        EvaluationError: there is no such transformation.
    """
    names = list(dict.fromkeys(filter(None, (part.strip() for part in text.split(","))))) or list(TRANSFORMATIONS)
    for name in names:
        if name not in TRANSFORMATIONS and name != VARIANTS:
            raise EvaluationError(
                f"no transformation {name!r}", f"use some of {', '.join((*TRANSFORMATIONS, VARIANTS))}, with commas"
            )
    return names


def to_network(images: torch.Tensor, how: Preprocessing) -> torch.Tensor:
    """What an encoder sees: `Preprocessing.crop` for a batch, on its device and without rounding; normalised.

    Args:
        images: uint8 [N, 3, H, W].
        how: resize, crop, mean and standard deviation.

    Returns:
        float32 [N, 3, crop_size, crop_size].
    """
    size = [how.resize_size] * (2 if how.crop_mode == "squash" else 1)
    resized = TF.resize(images.float(), size, InterpolationMode(how.interpolation), antialias=True)
    cropped = TF.center_crop(resized, [how.crop_size, how.crop_size]).clamp(0, 255) / 255
    return TF.normalize(cropped, list(how.mean), list(how.std))
