"""The whole path of regularisations: our batched L-BFGS against scikit-learn's, at equal objective, in one run.

Real features: real training digits, pooled to 196 features. For every C scikit-learn gets the loosest tolerance of a
list whose objective is within 1e-4 of ours, from its default to 1e-7 and 3,000 iterations. Both run on the same
cores, in turn; median of several rounds.
"""

import timeit
import warnings
from collections.abc import Sequence
from statistics import median
from typing import Any, Literal

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from imagenet_sd.data.builtin import mnist_digits
from imagenet_sd.evaluation.probes.logreg import LogisticProblem, lambda_path

TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7)


def bench_probe(rounds: int = 3, images: int = 1000) -> dict[str, Any]:
    """Time the solution of the whole path.

    Args:
        rounds: measured rounds.
        images: training images, at most 4,000.

    Returns:
        `ratio` (median seconds of scikit-learn over ours), `worst_excess` (of our objective over scikit-learn's,
        relative), `agreement_with_loose_sklearn` (smallest share of equal predictions), `seconds` (of each round),
        `sklearn_tolerances` (one per C).
    """
    x, y = _pooled_digits("train")
    rows = np.random.default_rng(0).permutation(len(x))[:images]  # the file is sorted by class
    x, y = x[rows], y[rows]
    cs = np.sort(1 / lambda_path()).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tolerances, agreement, worst = _match_tolerances(x, y, cs)

        def sklearn() -> None:
            for c, tolerance in zip(cs, tolerances, strict=True):
                LogisticRegression(C=c, tol=tolerance, max_iter=3000).fit(x, y)

        def ours() -> None:
            LogisticProblem(x, y, 10).solve(cs, tolerance=1e-5)

        seconds: dict[str, list[float]] = {"ours": [], "sklearn": []}
        for _ in range(rounds):
            for solve in (ours, sklearn):
                seconds[solve.__name__].append(timeit.timeit(solve, number=1))
    return {
        "ratio": median(s / o for s, o in zip(seconds["sklearn"], seconds["ours"], strict=True)),
        "worst_excess": worst,
        "agreement_with_loose_sklearn": agreement,
        "seconds": seconds,
        "sklearn_tolerances": tolerances,
    }


def _match_tolerances(x: np.ndarray, y: np.ndarray, cs: Sequence[float]) -> tuple[list[float], float, float]:
    """For every C the tolerance that scikit-learn needs; the smallest agreement; our largest excess."""
    test, _ = _pooled_digits("test")
    ours = LogisticProblem(x, y, 10).solve(cs, tolerance=1e-5)
    tolerances, agreements, worst, untried = [], [], 0.0, list(TOLERANCES)
    for k, c in enumerate(cs):  # weaker regularisation never needs a looser tolerance
        while True:
            model = LogisticRegression(C=c, tol=untried[0], max_iter=3000).fit(x, y)
            losses = log_loss(y, model.predict_proba(x), normalize=False)
            objective = float(c * losses + 0.5 * (model.coef_**2).sum())  # scikit-learn's
            if len(untried) == 1 or objective <= float(ours.objectives[k]) * (1 + 1e-4):
                break
            untried.pop(0)
        tolerances.append(untried[0])
        worst = max(worst, (float(ours.objectives[k]) - objective) / objective)
        agreements.append(float((ours.scores(test, k).argmax(1) == model.predict(test)).mean()))
    return tolerances, min(agreements), worst


def _pooled_digits(split: Literal["train", "test"]) -> tuple[np.ndarray, np.ndarray]:
    """2x2 mean-pooled pixels float64 [N, 196] in [0, 1] and labels."""
    images, labels = mnist_digits(split)
    return images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196) / 255, labels
