"""The ImageNet family: an encoder with the classifier it was trained with, classes matched by wnid."""

import numpy as np
import torch

from imagenet_sd.core.results import Masked, ProbeResult
from imagenet_sd.evaluation.config import EvaluationError
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.features import Extracted
from imagenet_sd.evaluation.metrics import class_accuracies, combine, score, top_k


def classify(encoder: Encoder, name: str, test: Extracted) -> ProbeResult:
    """Score the encoder's own classifier on the classes that it and the data have in common.

    Images of other classes are left out and the logits of other classes are masked; the result says so: `masked`
    holds the number of classes on both sides and, where it is a proper subset, the ids that count.

    Raises:
        EvaluationError: the encoder has no classifier, or there are not two common classes to tell apart.
    """
    if encoder.head is None:
        raise EvaluationError(f"{encoder.name} has no classifier", "use --suite transfer")
    present = {test.classes[label] for label in np.unique(test.data.labels)}
    common = [wnid for wnid in encoder.classes if wnid in present]
    if len(common) < 2:
        shared = f"one class, {common[0]!r}," if common else "no class"
        raise EvaluationError(
            f"{name} and the classifier have {shared} in common", "the folders must be named by the wnids of training"
        )
    number = {wnid: i for i, wnid in enumerate(common)}
    lookup = np.array([number.get(wnid, -1) for wnid in test.classes])
    labels = lookup[test.data.labels]
    rows = labels >= 0
    columns = [encoder.classes.index(wnid) for wnid in common]
    with torch.inference_mode():
        logits = encoder.head.cpu()(torch.from_numpy(test.data.features[rows])).float().numpy()[:, columns]
    if not np.isfinite(logits).all():
        raise EvaluationError(
            f"{encoder.name}: its classifier gives scores that are not finite for {name}", "train it again"
        )
    correct = top_k(logits, labels[rows], 1)
    return ProbeResult(
        dataset=name,
        split="test",
        probe="classifier",
        **score(logits, labels[rows]).to_json(),
        top1_sd=0.0,
        per_class={common[label]: value for label, value in class_accuracies(correct, labels[rows]).items()},
        num_classes=len(common),
        masked=Masked(
            classifier_classes=len(encoder.classes),
            data_classes=len(present),
            scored_classes=len(common),
            scored=tuple(common) if len(common) < len(encoder.classes) else "all",
            images_left_out=int((~rows).sum()),
        ),
        seeds=(),
        hyper_parameters=(),
        cache_keys=(test.cache_key,),
        unreadable=tuple(test.unreadable),
    )


def mean_of(results: list[ProbeResult], name: str) -> ProbeResult:
    """The mean of several results under a new name; ImageNet-v2 is reported so over its three test sets."""
    wnids = dict.fromkeys(wnid for result in results for wnid in result.per_class)
    changes = combine(results) | {
        "dataset": name,
        "top1_sd": results[0].top1_sd,
        "num_test": sum(result.num_test or 0 for result in results),
        "per_class": {
            wnid: float(np.mean([result.per_class[wnid] for result in results if wnid in result.per_class]))
            for wnid in wnids
        },
        "mean_of": tuple(result.dataset for result in results),
        "cache_keys": tuple(key for result in results for key in result.cache_keys),
        "unreadable": tuple(image for result in results for image in result.unreadable),
    }
    return results[0].model_copy(update=changes)
