"""How far pictures are from each other, and whether that is what rounding explains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

EXACT = 3
"""Levels of 255 by which pictures of float32 may differ on a CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Between two lists of pictures, in levels of 255: the mean over all values, and the largest."""

    mean: float
    largest: int

    def __str__(self) -> str:
        return f"mean {self.mean:.2f}, largest {self.largest}"


Images = Sequence[np.ndarray] | np.ndarray


def difference(a: Images, b: Images) -> Difference:
    """The difference of two lists of pictures uint8 [N, height, width, 3]."""
    distances = np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int))
    return Difference(mean=float(distances.mean()), largest=int(distances.max()))


def shows_something(images: Images) -> bool:
    """Whether no picture has one single colour; values that are no numbers end as black."""
    return all(np.ptp(image.reshape(-1, 3), axis=0).max() >= 2 for image in images)


def parity(images: Images, eager: Images, exact: Images | None) -> tuple[bool, str, dict[str, Any]]:
    """Whether pictures differ from those of the plain way by no more than rounding does.

    Rounding is what the dtype costs the plain way. If another order of the same operations costs as much, then by the
    triangle inequality the two are at most twice that apart.

    Args:
        images: what is checked.
        eager: the same pictures in the plain way and the same dtype.
        exact: the same pictures in the plain way in float32; None: `eager` is in float32, and on a CPU.

    Returns:
        The verdict, a sentence, and figures.
    """
    apart = difference(images, eager)
    figures: dict[str, Any] = {"mean_difference": apart.mean, "largest_difference": apart.largest}
    if exact is None:
        return apart.largest <= EXACT, f"pixels differ by at most {apart.largest} (bound {EXACT})", figures
    rounding = difference(eager, exact)
    mean, largest = 2 * rounding.mean + 0.05, 2 * rounding.largest + 8
    figures |= {
        "mean_rounding": rounding.mean,
        "largest_rounding": rounding.largest,
        "mean_bound": mean,
        "largest_bound": largest,
    }
    remark = f"pixels differ by at most {apart.largest} (bound {largest}), {apart.mean:.2f} in the mean ({mean:.2f})"
    return apart.mean <= mean and apart.largest <= largest, remark, figures
