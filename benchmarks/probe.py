"""The whole path of regularisations: our batched L-BFGS against scikit-learn's, at equal objective, in one run.

Real features: real training digits, pooled to 196 features. For every C scikit-learn gets the loosest tolerance of a
list whose objective is within 1e-4 of ours, from its default to 1e-7 and 3,000 iterations. Both run on the same
cores, in turn; median of several rounds. Prints JSON.
"""

import argparse
import json
import statistics
import time
import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression

from imagenet_sd.data.builtin import mnist_digits
from imagenet_sd.evaluation.probes.logreg import LogisticProblem, lambda_path

TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7)


def pooled(split) -> tuple[np.ndarray, np.ndarray]:
    """2x2 mean-pooled pixels float64 [N, 196] in [0, 1] and labels."""
    images, labels = mnist_digits(split)
    return images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196) / 255, labels


def objective(x: np.ndarray, y: np.ndarray, model: LogisticRegression, c: float) -> float:
    """scikit-learn's objective at its solution."""
    logits = x @ model.coef_.T + model.intercept_
    losses = np.logaddexp.reduce(logits, 1) - logits[np.arange(len(y)), y]
    return c * losses.sum() + 0.5 * (model.coef_**2).sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    x, y = pooled("train")
    rows = np.random.default_rng(0).permutation(len(x))[: args.images]  # the file is sorted by class
    x, y = x[rows], y[rows]
    test, _ = pooled("test")
    cs = np.sort(1 / lambda_path())
    ours = LogisticProblem(x, y, 10).solve(cs.tolist(), tolerance=1e-5)
    chosen, agreement, worst = [], [], 0.0
    for k, c in enumerate(cs):
        start = TOLERANCES.index(chosen[-1]) if chosen else 0  # weaker regularisation never wants a looser one
        for tolerance in TOLERANCES[start:]:
            model = LogisticRegression(C=c, tol=tolerance, max_iter=3000).fit(x, y)
            value = objective(x, y, model, c)
            if value <= ours.objectives[k] * (1 + 1e-4):
                break
        chosen.append(tolerance)
        worst = max(worst, (ours.objectives[k] - value) / value)
        agreement.append(float((ours.scores(test, k).argmax(1) == model.predict(test)).mean()))
    times: dict[str, list[float]] = {"ours": [], "sklearn": []}
    for _ in range(args.rounds):
        started = time.perf_counter()
        LogisticProblem(x, y, 10).solve(cs.tolist(), tolerance=1e-5)
        times["ours"].append(time.perf_counter() - started)
        started = time.perf_counter()
        for c, tolerance in zip(cs, chosen, strict=True):
            LogisticRegression(C=c, tol=tolerance, max_iter=3000).fit(x, y)
        times["sklearn"].append(time.perf_counter() - started)
    ratios = [s / o for s, o in zip(times["sklearn"], times["ours"], strict=True)]
    result = {"ratio": statistics.median(ratios), "worst_excess": worst, "agreement_with_loose_sklearn": min(agreement)}
    print(json.dumps(result | {"seconds": times, "sklearn_tolerances": chosen}, indent=2))


if __name__ == "__main__":
    main()
