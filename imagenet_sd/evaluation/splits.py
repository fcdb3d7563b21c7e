"""Training and test images must be different ones: a held-out part where a set has no test split, and what both hold.

Works on what was extracted, after the content of the images: the split is the same whatever they are called, and
wherever they are stored.
"""

from dataclasses import replace

import numpy as np

from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.core.types import FeatureSet
from imagenet_sd.evaluation.config import EvaluationError
from imagenet_sd.evaluation.features import Extracted

TEST_SHARE, SPLIT_SEED = 0.2, 0


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
    keys = np.array([stable_hash("hold-out", SPLIT_SEED, int(digest)) for digest in whole.digests], np.int64)
    labels, is_test = whole.data.labels, np.zeros(len(keys), bool)
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
    return replace(_rows(whole, ~is_test), unreadable=()), _rows(whole, is_test), note


def check_apart(train: Extracted, test: Extracted, name: str) -> str:
    """Look for test images that are training images too, by the content of their files.

    Returns:
        A note for the results that counts them; "" for none.

    Raises:
        EvaluationError: half of the test images or more are.
    """
    shared = int(np.isin(test.digests, train.digests).sum())
    if not shared:
        return ""
    note = f"{shared:,} of {len(test.digests):,} test images are training images too"
    if 2 * shared >= len(test.digests):
        raise EvaluationError(
            f"{name}: {note}", "give other test images, or one folder without splits, of which a part is held out"
        )
    return note


def _rows(whole: Extracted, chosen: np.ndarray) -> Extracted:
    data = FeatureSet(features=whole.data.features[chosen], labels=whole.data.labels[chosen])
    return replace(whole, data=data, digests=whole.digests[chosen])
