"""The suite `analysis`: what features are like, on the images that thesis 5.5.5 takes of each data set."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from imagenet_sd.core.results import FeatureAnalysis
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.transfer import LONG_TAIL
from imagenet_sd.evaluation.analysis import analyse
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.features import Extracted


def analysed_splits(
    spec: DataSpec, classes: Sequence[str], encoders: Sequence[Encoder]
) -> tuple[Literal["test", "train"], ...]:
    """The splits that are analysed together: all images of the small transfer sets, else the test images.

    Test images alone count where an encoder was trained on these classes, for the two long-tailed sets of iNaturalist
    (460,000 images; the text leaves them open), and for folders, whose kind is not known.

    Args:
        spec: the data.
        classes: its class ids.
        encoders: what is evaluated.
    """
    small = spec.kind in ("torchvision", "builtin") and spec.name not in LONG_TAIL
    trained_on = any(encoder.classes and set(classes) <= set(encoder.classes) for encoder in encoders)
    return ("test", "train") if small and not trained_on else ("test",)


def analyse_dataset(name: str, parts: Sequence[Extracted]) -> FeatureAnalysis:
    """The measures of Fig. 5.6 over the images of one or two splits, their classes matched by id."""
    classes = sorted({class_id for part in parts for class_id in part.classes})
    number = {class_id: label for label, class_id in enumerate(classes)}
    labels = [np.array([number[class_id] for class_id in part.classes])[part.data.labels] for part in parts]
    features = np.concatenate([part.data.features for part in parts])
    return FeatureAnalysis(
        dataset=name,
        split="all" if len(parts) > 1 else "test",
        probe="analysis",
        **analyse(features, np.concatenate(labels)),
        num_test=len(features),
        num_classes=len(classes),
        cache_keys=tuple(part.cache_key for part in parts),
        unreadable=tuple(image for part in parts for image in part.unreadable),
    )
