"""Accuracies, log odds and their uncertainty. All accuracies are fractions in [0, 1]."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from imagenet_sd.core.results import AVERAGED, Accuracies


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether the true class is among the k highest scores, bool [N]; of equal scores the lower class comes first.

    Args:
        scores: float [N, C]; -inf masks a class.
        labels: int64 [N].
        k: at least 1.
    """
    correct = np.zeros(len(labels), bool)
    for start in range(0, len(labels), 4096):  # of thousands of classes and images the order alone takes gigabytes
        part = slice(start, start + 4096)
        order = np.argsort(-scores[part], axis=1, kind="stable")[:, :k]
        correct[part] = (order == labels[part, None]).any(1)
    return correct


def mean_per_class(correct: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur of the share of correct images."""
    return float(np.mean(list(class_accuracies(correct, labels).values())))


def class_accuracies(correct: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """The share of correct images of every class that occurs, by label."""
    return {int(label): float(correct[labels == label].mean()) for label in np.unique(labels)}


def log_odds(num_correct: int, num_incorrect: int) -> float:
    """log(p / (1 - p)) with p the accuracy (eq. 4.3), natural logarithm.

    Where all or no images are correct the odds are not finite; half an image is then added to both counts.
    """
    if not num_correct or not num_incorrect:
        num_correct, num_incorrect = num_correct + 0.5, num_incorrect + 0.5  # pyright: ignore[reportAssignmentType]
    return math.log(num_correct / num_incorrect)


def bootstrap_interval(correct: np.ndarray, seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """95% percentile bootstrap interval of the accuracy over test images.

    Args:
        correct: bool or float [N] (a mean over seeds is fine).
        seed: of the resampling.
        resamples: number of resamples.
    """
    rng = np.random.default_rng(seed)
    values = np.asarray(correct, float)
    if set(np.unique(values)) <= {0.0, 1.0}:  # a bootstrap of yes/no answers is a binomial
        means = rng.binomial(len(values), values.mean(), resamples) / len(values)
    else:
        means = np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def score(scores: np.ndarray, labels: np.ndarray, seed: int = 0) -> Accuracies:
    """All metrics of one classifier but the deviation over seeds.

    Args:
        scores: float [N, C].
        labels: int64 [N].
        seed: of the bootstrap.
    """
    correct = top_k(scores, labels, 1)
    hits = int(correct.sum())
    return Accuracies(
        top1=hits / len(labels),
        top5=float(top_k(scores, labels, min(5, scores.shape[1])).mean()),
        mean_per_class_accuracy=mean_per_class(correct, labels),
        log_odds=log_odds(hits, len(labels) - hits),
        num_test=len(labels),
        top1_interval=bootstrap_interval(correct, seed),
    )


def combine(results: Sequence[Accuracies]) -> dict[str, Any]:
    """Mean over seeds (or test sets) of the metrics, with the population standard deviation of top-1 beside it.

    Returns:
        Fields of `Accuracies`; `num_test` is that of the first result.
    """

    def mean(values: Iterable[float | None]) -> float:
        return float(np.mean(list(values)))  # pyright: ignore[reportArgumentType, reportCallIssue]

    merged: dict[str, Any] = {name: mean(getattr(result, name) for result in results) for name in AVERAGED}
    intervals = [result.top1_interval for result in results if result.top1_interval]
    merged["top1_sd"] = float(np.std([result.top1 for result in results]))
    merged["num_test"] = results[0].num_test
    merged["top1_interval"] = tuple(map(mean, zip(*intervals, strict=True)))
    return merged
