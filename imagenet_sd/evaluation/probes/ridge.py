"""Ridge regression from features to continuous targets, for a whole path of penalties at once, by cross-validation.

Minimises scikit-learn's objective, ||Y - X W - b||^2 + lambda ||W||^2 with b free. One eigendecomposition of the
smaller Gram matrix of the centred features solves it for every lambda.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.evaluation.probes.rows import probe_device


@dataclass(frozen=True, kw_only=True, slots=True)
class RidgePath:
    """Solutions for K penalties: weights float64 [K, D, T] and intercepts float64 [K, T]."""

    penalties: np.ndarray
    weights: np.ndarray
    intercepts: np.ndarray

    def predict(self, features: np.ndarray, k: int) -> np.ndarray:
        """Predictions float64 [N, T] of solution k."""
        return np.asarray(features, np.float64) @ self.weights[k] + self.intercepts[k]


def solve_ridge(features: np.ndarray, targets: np.ndarray, penalties: Sequence[float]) -> RidgePath:
    """Fit every penalty.

    Args:
        features: float [N, D].
        targets: float [N, T].
        penalties: lambda > 0.

    Everything is float64, on the accelerator where there is one.
    """
    device = probe_device(double=True)
    x, y = (torch.as_tensor(np.asarray(each, np.float64), device=device) for each in (features, targets))
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    n, d = x.shape
    values, vectors = torch.linalg.eigh(x.T @ x if d <= n else x @ x.T)
    kept = values > values[-1].clamp(min=1e-300) * 1e-13
    values, vectors = values[kept], vectors[:, kept]
    axes = vectors if d <= n else x.T @ vectors / values.sqrt()
    projected = (x @ axes).T @ y
    weights = torch.stack([axes @ (projected / (values + penalty)[:, None]) for penalty in penalties])
    intercepts = y_mean - torch.einsum("d,kdt->kt", x_mean, weights)
    return RidgePath(
        penalties=np.asarray(penalties, float), weights=weights.cpu().numpy(), intercepts=intercepts.cpu().numpy()
    )


def r_squared(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """1 - residual over total sum of squares, per target, float64 [T]; 0 where a target does not vary.

    Args:
        predictions: float [N, T].
        targets: float [N, T].
    """
    total = ((targets - targets.mean(0)) ** 2).sum(0)
    residual = ((targets - predictions) ** 2).sum(0)
    return np.where(total > 0, 1 - residual / np.where(total > 0, total, 1), 0.0)


def folds(count: int, number: int, *key: str | int) -> list[np.ndarray]:
    """`number` seeded parts of about equal size of 0 ... count - 1, each sorted."""
    order = np.random.default_rng(stable_hash("folds", *key)).permutation(count)
    return [np.sort(part) for part in np.array_split(order, number)]


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossValidated:
    """The penalty with the best mean over folds: that mean, the deviation over folds, and the refit on all."""

    penalty: float
    mean: float
    sd: float
    solution: RidgePath


def cross_validate_ridge(
    features: np.ndarray, targets: np.ndarray, penalties: Sequence[float], parts: list[np.ndarray]
) -> CrossValidated:
    """Choose the penalty by R^2, averaged over targets and folds, and refit on all.

    Args:
        features: float [N, D].
        targets: float [N, T].
        penalties: lambda > 0.
        parts: validation rows of each fold.
    """
    scores = np.zeros((len(parts), len(penalties)))
    for number, held in enumerate(parts):
        rows = np.delete(np.arange(len(features)), held)
        path = solve_ridge(features[rows], targets[rows], penalties)
        for k in range(len(penalties)):
            scores[number, k] = r_squared(path.predict(features[held], k), targets[held]).mean()
    best = int(scores.mean(0).argmax())
    return CrossValidated(
        penalty=float(penalties[best]),
        mean=float(scores[:, best].mean()),
        sd=float(scores[:, best].std()),
        solution=solve_ridge(features, targets, [penalties[best]]),
    )
