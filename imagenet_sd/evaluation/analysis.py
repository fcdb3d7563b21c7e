"""Four numbers about features, and their singular values (thesis Fig. 5.6 and section 4.4.2).

Every one of them scales the features to unit length first, as section 5.5.5 does.
"""

from typing import Any

import numpy as np


def unit(features: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length, float64 [N, D]; zero rows stay zero."""
    features = np.asarray(features, np.float64)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms == 0, 1, norms)


def sparsity(features: np.ndarray, threshold: float = 1e-5) -> float:
    """Share of entries of the l2-normalised features whose size is below `threshold`; in [0, 1]."""
    return float((np.abs(unit(features)) < threshold).mean())


def intra_class_distance(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean l2 distance between two images of a class, of l2-normalised features; averaged over classes; in [0, 2]."""
    features, means = unit(features), []
    for label in np.unique(labels):
        x = features[labels == label]
        n = len(x)
        if n > 1:
            squares = (x**2).sum(1)
            squared = np.maximum(squares[:, None] + squares[None] - 2 * x @ x.T, 0)
            np.fill_diagonal(squared, 0)
            means.append(np.sqrt(squared).sum() / (n * (n - 1)))
    return float(np.mean(means)) if means else 0.0


def redundancy(features: np.ndarray) -> float:
    """R = (1 / d^2) sum_ij |rho(X_i, X_j)| over pairs of dimensions (Wang et al., 2022; Fig. 5.6c); in [0, 1].

    Of l2-normalised features; a constant dimension has no correlation with any other and counts as 0.
    """
    x = unit(features)
    x -= x.mean(0)
    spread = np.sqrt((x**2).sum(0))
    constant = spread <= 1e-12 * max(1.0, float(spread.max()))
    x = np.where(constant, 0, x / np.where(constant, 1, spread))
    return float(np.abs(x.T @ x).sum() / x.shape[1] ** 2)


def coding_length(features: np.ndarray, epsilon_squared: float = 0.5) -> float:
    """R(X, eps) = 1/2 log det(I + d / (N eps^2) X^T X) in nats (Yu et al., 2020; Fig. 5.6d), of normalised features.

    It is an average over images as it stands, since X^T X is divided by their number N: more images of one
    distribution give the same value.
    """
    x = unit(features)
    n, d = x.shape
    gram = x.T @ x if d <= n else x @ x.T  # det(I + a X^T X) = det(I + a X X^T)
    return float(0.5 * np.linalg.slogdet(np.eye(len(gram)) + d / (n * epsilon_squared) * gram)[1])


def singular_values(features: np.ndarray) -> np.ndarray:
    """Singular values of the centred, l2-normalised features, largest first, as shares of their sum (Fig. 4.6b).

    Returns:
        float64 [min(N, D)] that sum to 1; zeros where all features are equal.
    """
    x = unit(features)
    x -= x.mean(0)
    gram = x.T @ x if x.shape[1] <= len(x) else x @ x.T  # its eigenvalues are the squares, and it is small
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0))
    return values / (values.sum() or 1.0)


def analyse(features: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """All of the above for one data set."""
    return {
        "sparsity": sparsity(features),
        "intra_class_distance": intra_class_distance(features, labels),
        "redundancy": redundancy(features),
        "coding_length": coding_length(features),
        "singular_values": [float(value) for value in singular_values(features)],
    }
