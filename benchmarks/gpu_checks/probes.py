"""Checks of probes: the device finds what the CPU finds."""

from typing import Any

import numpy as np
import torch

from gpu_checks.check import Check, Outcome, Setting, passed_if
from imagenet_sd.data.builtin import mnist_digits
from imagenet_sd.evaluation.probes.logreg import LogisticPath, LogisticProblem
from imagenet_sd.evaluation.probes.rows import FeatureRows
from imagenet_sd.evaluation.probes.simple import SgdConfig, linear_scores, train_sgd

CS = (1e-2, 1.0)
POINTS = 0.2
"""Percentage points by which accuracies may differ."""
SGD_POINTS = 0.5
"""The same for SGD, which computes in float32."""


def probe(setting: Setting) -> Outcome:
    """Logistic regression and SGD on real digits, on the device and by a reference.

    The reference is the same probe on the CPU; on a CPU it is scikit-learn for logistic regression, and there is none
    for SGD. Both solutions of logistic regression are near the optimum: the objective f is 1-strongly convex in the
    weights, so those of a solution whose relative gap is g are at most sqrt(2 g f) from it; twice that is allowed,
    since the intercept's share of the gap is an estimate.
    """
    images = 400 if setting.reduced else 4000
    (x, y), (test, labels) = _digits("train", images), _digits("test", images)
    ours = LogisticProblem(x, y, 10, device=setting.device).solve(CS)
    if setting.on_gpu:
        reference = LogisticProblem(x, y, 10, device=torch.device("cpu")).solve(CS)
    else:
        reference = _scikit_learn(x, y)
    distances = np.linalg.norm((ours.weights - reference.weights).reshape(len(CS), -1), axis=1)
    bounds = np.sum([2 * np.sqrt(2 * path.gaps * path.objectives) for path in (ours, reference)], axis=0)
    apart = max(
        abs(_accuracy(ours.scores(test, k), labels) - _accuracy(reference.scores(test, k), labels))
        for k in range(len(CS))
    )
    figures: dict[str, Any] = {
        "points_apart": apart,
        "weights_apart": distances.tolist(),
        "bounds": bounds.tolist(),
        "accuracy": [_accuracy(ours.scores(test, k), labels) for k in range(len(CS))],
    }
    good = apart <= POINTS and bool((distances <= bounds).all())
    remark = f"L-BFGS {apart:.2f} points apart, weights {distances.max():.1e} (bounds {POINTS}, {bounds.max():.1e})"
    if setting.on_gpu:
        sgd = [_sgd_accuracy(device, x, y, test, labels) for device in (setting.device, torch.device("cpu"))]
        figures["sgd_accuracy"] = sgd
        good = good and abs(sgd[0] - sgd[1]) <= SGD_POINTS
        remark += f"; SGD {abs(sgd[0] - sgd[1]):.2f} points apart (bound {SGD_POINTS})"
    return passed_if(good, f"{remark}; against {'the CPU' if setting.on_gpu else 'scikit-learn'}", figures)


def _digits(split: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to `count` digits as 2x2 mean-pooled pixels float64 [N, 196] in [0, 1], and labels."""
    images, labels = mnist_digits(split)
    rows = np.random.default_rng(0).permutation(len(images))[:count]  # the file is sorted by class
    return images[rows].reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196) / 255, labels[rows]


def _scikit_learn(x: np.ndarray, y: np.ndarray) -> LogisticPath:
    """Its solutions in our form; their gaps from their gradients, as ours are."""
    from sklearn.linear_model import LogisticRegression

    models = [LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(x, y) for c in CS]
    weights, intercepts = np.stack([m.coef_.T for m in models]), np.stack([m.intercept_ for m in models])
    objectives, gaps = [], []
    for k, c in enumerate(CS):
        p, hot = models[k].predict_proba(x), np.eye(10)[y]
        objective = -c * np.log(p[hot == 1]).sum() + 0.5 * (weights[k] ** 2).sum()
        gradient = c * x.T @ (p - hot) + weights[k]
        objectives.append(objective)
        gaps.append(0.5 * (gradient**2).sum() / objective)
    return LogisticPath(
        cs=np.array(CS), weights=weights, intercepts=intercepts, objectives=np.array(objectives), gaps=np.array(gaps),
        iterations=0,
    )  # fmt: skip


def _sgd_accuracy(device: torch.device, x: np.ndarray, y: np.ndarray, test: np.ndarray, labels: np.ndarray) -> float:
    rows = FeatureRows(x.astype(np.float32), device=device)
    linear = train_sgd(rows, y, 10, SgdConfig(learning_rate=10.0, weight_decay=1e-6, epochs=5))
    weight, bias = linear.weight.detach(), linear.bias
    return _accuracy(linear_scores(weight, None if bias is None else bias.detach(), test.astype(np.float32)), labels)


def _accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """In percent."""
    return 100 * float((scores.argmax(1) == labels).mean())


CHECKS = [Check(name="probe", about="logistic regression and SGD on the device", seconds=60, run=probe)]
