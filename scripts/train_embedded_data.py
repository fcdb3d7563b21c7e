"""`make embedded`, the data: photographs and digits as latents, and what is measured in each picture.

A latent is linear in the pixels: each 4x4 patch is projected on the first principal components of all patches, and each
component is divided by the root of its standard deviation. The autoencoder (`train_embedded_vae.py`) learns to invert
this projection and to imitate it, so the diffusion model can be trained at the same time.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from imagenet_sd.data.builtin import mnist_digits
from imagenet_sd.data.colours import Appearance, measure, recolour
from imagenet_sd.data.photos import CIFAR10_WNIDS, cifar10

CHANNELS = 12
PATCH = 4
JITTERED_COPIES = 10
VEHICLES = ("n02958343", "n04490091")  # car, truck: what is recoloured
NEW_COLOURS = ("green", "yellow", "black", "white")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """Training pictures.

    Attributes:
        images: uint8 [N, 32, 32, 3].
        labels: int64 [N], rank in the class list.
        looks: what is measured in each picture.
        painted: how many of the last pictures are recoloured copies.
    """

    images: np.ndarray
    labels: np.ndarray
    looks: list[Appearance]
    painted: int = 0


def load_photos(folder: Path) -> Pictures:
    """The 50,000 training photographs, and after them copies of red and blue cars and trucks in rarer colours.

    What is measured in them is kept in `folder`: measuring takes minutes.
    """
    images, labels = cifar10("train")
    looks = _looks(images, folder / "looks.npy")
    vehicles = {CIFAR10_WNIDS.index(wnid) for wnid in VEHICLES}
    rows = [i for i, look in enumerate(looks) if look.object in ("red", "blue") and labels[i] in vehicles]
    copies, numbers, copied_looks = [], [], []
    for k, colour in enumerate(NEW_COLOURS):
        chosen = [row for n, row in enumerate(rows) if (n + k) % len(NEW_COLOURS) < 2]
        chosen = [row for row in chosen if looks[row].background != colour]
        copies.append(recolour(images[chosen], colour))
        numbers += chosen
        copied_looks += [
            Appearance(object=colour, background=looks[row].background, light=looks[row].light) for row in chosen
        ]
    return Pictures(
        images=np.concatenate([images, *copies]),
        labels=np.concatenate([labels, labels[numbers]]),
        looks=looks + copied_looks,
        painted=len(numbers),
    )


def _looks(images: np.ndarray, path: Path) -> list[Appearance]:
    if not path.exists():
        words = np.array([(look.object, look.background, look.light) for look in measure(images)])
        with open(path.with_suffix(".tmp"), "wb") as file:
            np.save(file, words)
        os.replace(path.with_suffix(".tmp"), path)
    stored = np.load(path, allow_pickle=False).tolist()
    return [Appearance(object=a, background=b, light=c) for a, b, c in stored]


def digits_32(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The digits as float32 [N, 1, 32, 32] in [-1, 1] (2 pixels of padding a side) and their labels int64 [N]."""
    images, labels = mnist_digits(split)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return torch.from_numpy(padded).float().div(127.5).sub(1)[:, None], torch.from_numpy(labels)


def jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A small random turn, zoom and shift of each image: a little more variety than 4,000 scans have."""
    n = len(images)
    angle = (torch.rand(n, generator=generator) - 0.5) * (16 * math.pi / 180)
    zoom = 1 + (torch.rand(n, generator=generator) - 0.5) * 0.12
    shift = (torch.rand(n, 2, generator=generator) - 0.5) * 0.12
    theta = torch.stack(
        [
            torch.stack([angle.cos() / zoom, -angle.sin() / zoom, shift[:, 0]], 1),
            torch.stack([angle.sin() / zoom, angle.cos() / zoom, shift[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, mode="bilinear", align_corners=False) - 1


def jittered_digits(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The training digits and jittered copies of them: float32 [copies, N, 1, 32, 32], labels int64 [N]."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = digits_32("train")
    copies = [images if copy == 0 else jitter(images, generator) for copy in range(JITTERED_COPIES)]
    return torch.stack(copies), labels


def slants_and_strokes(images: torch.Tensor, labels: torch.Tensor) -> list[str]:
    """Name what stands out among digits of the same class: ink ("bold"/"thin") and slant ("right/left leaning").

    Args:
        images: float [N, 1, 32, 32] in [-1, 1].
        labels: int64 [N].
    """
    ink = (images[:, 0] + 1) / 2
    mass = ink.sum((1, 2))
    axis = torch.arange(32.0)
    row = (ink.sum(2) * axis).sum(1) / mass
    column = (ink.sum(1) * axis).sum(1) / mass
    rows, columns = axis[None, :, None] - row[:, None, None], axis[None, None, :] - column[:, None, None]
    slant = -(ink * rows * columns).sum((1, 2)) / (ink * rows**2).sum((1, 2))
    words: list[list[str]] = [[] for _ in labels]
    for values, low, high in ((mass, "thin", "bold"), (slant, "left leaning", "right leaning")):
        for label in range(10):
            members = torch.nonzero(labels == label)[:, 0]
            few, many = torch.quantile(values[members], torch.tensor([0.25, 0.75]))
            for i in members.tolist():
                if values[i] < few or values[i] > many:
                    words[i].append(low if values[i] < few else high)
    return [" ".join(w) for w in words]


@dataclass(frozen=True, kw_only=True, slots=True)
class Projection:
    """Pixels to latents.

    Attributes:
        mean: float32 [48].
        basis: float32 [48, CHANNELS], orthonormal columns times the scale of each channel.
    """

    mean: torch.Tensor
    basis: torch.Tensor

    @classmethod
    def fit(cls, images: torch.Tensor) -> "Projection":
        """The principal components of the patches of float images [N, 3, 32, 32], scaled to one overall variance."""
        patches = F.unfold(images, PATCH, stride=PATCH).transpose(1, 2).reshape(-1, 3 * PATCH**2)
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(patches.T))
        order = values.argsort(descending=True)[:CHANNELS]
        deviation = values[order].sqrt()
        scale = deviation.rsqrt()
        scale = scale / (deviation * scale).square().mean().sqrt()
        return cls(mean=mean, basis=vectors[:, order] * scale)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Latents float32 [N, CHANNELS, 8, 8] of float images [N, 3, 32, 32] in [-1, 1]."""
        patches = F.unfold(images, PATCH, stride=PATCH).transpose(1, 2) - self.mean
        side = images.shape[-1] // PATCH
        return (patches @ self.basis).transpose(1, 2).reshape(len(images), -1, side, side)

    def back(self, latents: torch.Tensor) -> torch.Tensor:
        """The images that the components alone give: float32 [N, 3, 32, 32]."""
        flat = latents.flatten(2).transpose(1, 2) / self.basis.square().sum(0)
        patches = flat @ self.basis.T + self.mean
        return F.fold(patches.transpose(1, 2), latents.shape[-1] * PATCH, PATCH, stride=PATCH)


def to_float(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, 32, 32, 3] as float32 [N, 3, 32, 32] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def save_checkpoint(path: Path, content: dict) -> None:
    """Write a checkpoint all at once."""
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)
