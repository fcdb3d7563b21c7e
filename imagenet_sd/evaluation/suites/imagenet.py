"""The ImageNet family: an encoder with the classifier it was trained with, classes matched by wnid."""

from typing import Any

import numpy as np
import torch

from imagenet_sd.evaluation.config import EvaluationError
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.features import Extracted
from imagenet_sd.evaluation.metrics import class_accuracies, score, top_k


def classify(encoder: Encoder, name: str, test: Extracted) -> dict[str, Any]:
    """Score the encoder's own classifier on the classes that it and the data have in common.

    Images of other classes are left out and the logits of other classes are masked; the result says so: `masked`
    holds the number of classes on both sides and, where it is a proper subset, the ids that count.

    Raises:
        EvaluationError: the encoder has no classifier, or there is no common class.
    """
    if encoder.head is None:
        raise EvaluationError(
            f"{encoder.name} has no classifier", "the imagenet suite needs a run folder; use --suite transfer"
        )
    present = {test.classes[label] for label in np.unique(test.data.labels)}
    common = [wnid for wnid in encoder.classes if wnid in present]
    if not common:
        raise EvaluationError(
            f"{name} and the classifier have no class in common", "the folders must be named by the wnids of training"
        )
    number = {wnid: i for i, wnid in enumerate(common)}
    lookup = np.array([number.get(wnid, -1) for wnid in test.classes])
    labels = lookup[test.data.labels]
    rows = labels >= 0
    columns = [encoder.classes.index(wnid) for wnid in common]
    with torch.inference_mode():
        logits = encoder.head.cpu()(torch.from_numpy(test.data.features[rows])).float().numpy()[:, columns]
    correct = top_k(logits, labels[rows], 1)
    proper = len(common) < len(encoder.classes)
    return {
        "dataset": name,
        "split": "test",
        "probe": "classifier",
        **score(logits, labels[rows]),
        "top1_sd": 0.0,
        "per_class": {common[label]: value for label, value in class_accuracies(correct, labels[rows]).items()},
        "num_classes": len(common),
        "masked": {
            "classifier_classes": len(encoder.classes),
            "data_classes": len(present),
            "scored_classes": len(common),
            "scored": common if proper else "all",
            "images_left_out": int((~rows).sum()),
        },
        "seeds": [],
        "hyper_parameters": [],
        "cache_keys": [test.cache_key],
        "unreadable": list(test.unreadable),
    }


def mean_of(results: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The mean of several results under a new name; ImageNet-v2 is reported so over its three test sets."""
    keys = ("top1", "top5", "mean_per_class_accuracy", "log_odds")
    merged: dict[str, Any] = {key: float(np.mean([r[key] for r in results])) for key in keys}
    wnids = dict.fromkeys(wnid for r in results for wnid in r["per_class"])
    merged["per_class"] = {
        wnid: float(np.mean([r["per_class"][wnid] for r in results if wnid in r["per_class"]])) for wnid in wnids
    }
    interval = [float(np.mean([r["top1_interval"][side] for r in results])) for side in (0, 1)]
    return {
        **results[0],
        **merged,
        "dataset": name,
        "top1_interval": interval,
        "num_test": sum(r["num_test"] for r in results),
        "mean_of": [r["dataset"] for r in results],
        "cache_keys": [key for r in results for key in r["cache_keys"]],
        "unreadable": [x for r in results for x in r["unreadable"]],
    }
