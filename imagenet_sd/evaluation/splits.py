"""Training and test images must be different ones: a held-out part where a set has no test split, and what both hold.

Images are told apart by their content: the split is the same whatever they are called, and wherever they are stored.
"""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from imagenet_sd.core import progress
from imagenet_sd.core.results import AnyResult
from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.core.types import FeatureSet
from imagenet_sd.data.images import ChosenImages, ImageSet
from imagenet_sd.data.open import has_test_images, open_images
from imagenet_sd.evaluation.config import EvaluationError
from imagenet_sd.evaluation.features import Extracted, write_rows

R = TypeVar("R", bound=AnyResult)

TEST_SHARE, SPLIT_SEED = 0.2, 0
_BLOCK = 2048


def check_classes(images: ImageSet) -> None:
    """Refuse a set in which there is nothing to tell apart: every classifier would be right.

    Raises:
        EvaluationError: it has fewer than two classes.
    """
    if len(images.classes) < 2:
        raise EvaluationError(
            f"{images.name} has one class, {', '.join(images.classes)}: there is nothing to tell apart",
            "give a folder with one subfolder per class; a table targets:TSV is for --suite readout",
        )


def hold_out(whole: Extracted, name: str) -> tuple[Extracted, Extracted, str]:
    """Split a set without a test split: of every class a fifth of the images, by a seeded hash of their content.

    Images of one class with equal content stay together.

    Args:
        whole: features of all images.
        name: of the set, for messages.

    Returns:
        Training part, test part, and a note on the split for the results.

    Raises:
        EvaluationError: no class has two different images.
    """
    is_test, note = _held_out(whole.digests, whole.data.labels, name)
    return replace(_rows(whole, ~is_test, "train"), unreadable=()), _rows(whole, is_test, "test"), note


def open_apart(name: str, spec: DataSpec) -> tuple[ImageSet, ImageSet, str]:
    """Open training and test images; those of a set without a test split are split as by `hold_out`.

    Images that cannot be read count as images here.

    Returns:
        Training images, test images, and a note on the split for the results.

    Raises:
        DatasetError: there is no such set.
        EvaluationError: see `hold_out`.
    """
    images = open_images(spec, "test")
    if has_test_images(spec):
        return open_images(spec, "train"), images, getattr(images, "note", "")
    digests, labels = [], []
    for group in range(len(images.group_sizes)):
        for record in images.read_group(group):
            try:
                digests.append(record.digest())
            except OSError:
                digests.append(0)
            labels.append(record.label)
    is_test, note = _held_out(np.array(digests, np.uint64), np.array(labels), name)
    return ChosenImages(images, ~is_test), ChosenImages(images, is_test), note


def _held_out(digests: np.ndarray, labels: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    """Which images are test images, bool [N], and the note that says so."""
    keys = np.array([stable_hash("hold-out", SPLIT_SEED, int(digest)) for digest in digests], np.int64)
    is_test = np.zeros(len(keys), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        different = np.unique(keys[rows])
        wanted = max(1, round(TEST_SHARE * len(different))) if len(different) > 1 else 0
        is_test[rows] = np.isin(keys[rows], different[:wanted])
    if not is_test.any():
        raise EvaluationError(
            f"{name} has no test split, and too few images to hold some out", "give at least two images per class"
        )
    note = (
        f"no test split: {is_test.sum():,} of {len(keys):,} images held out for the test, stratified, seed {SPLIT_SEED}"
    )
    return is_test, note


def overlap(train: Extracted, test: Extracted) -> str:
    """A note that counts the test images that are training images too, by their content; "" for none."""
    shared = _shared(train, test)
    return f"{shared:,} of {len(test.digests):,} test images are training images too" if shared else ""


def check_apart(train: Extracted, test: Extracted, name: str) -> str:
    """See `overlap`; for suites that must not test on training images.

    Raises:
        EvaluationError: half of the test images or more are training images.
    """
    note = overlap(train, test)
    if note and 2 * _shared(train, test) >= len(test.digests):
        raise EvaluationError(
            f"{name}: {note}", "give other test images, or one folder without splits, of which a part is held out"
        )
    return note


def whole_note(spec: DataSpec) -> str:
    """A note for suites that take all images where there is no test split."""
    return "" if has_test_images(spec) else "all images: there is no test split"


def noted(result: R, note: str, *, said: bool = False) -> R:
    """A result with its note, which goes to standard error too unless it was said before."""
    if not note:
        return result
    if not said:
        progress.note(f"note: {result.dataset}: {note}")
    return result.model_copy(update={"note": note})


def _shared(train: Extracted, test: Extracted) -> int:
    return int(np.isin(test.digests, train.digests).sum())


def _rows(whole: Extracted, chosen: np.ndarray, part: str) -> Extracted:
    """Some rows; those of a memory map are written to a file beside it."""
    features, rows = whole.data.features, np.flatnonzero(chosen)
    if isinstance(features, np.memmap) and features.filename:
        path = Path(features.filename)
        blocks = (features[rows[start : start + _BLOCK]] for start in range(0, len(rows), _BLOCK))
        kept = write_rows(path.with_name(f"{path.stem}-{part}.npy"), blocks, (len(rows), features.shape[1]))
    else:
        kept = features[rows]
    return replace(whole, data=FeatureSet(features=kept, labels=whole.data.labels[rows]), digests=whole.digests[rows])
