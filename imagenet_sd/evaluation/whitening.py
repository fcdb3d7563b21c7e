"""How far a feature moves, in the metric of all features: cosine and Mahalanobis distance under their covariance."""

from dataclasses import dataclass

import torch

_RIDGE = 1e-10
"""Added to the diagonal of a singular covariance, as the official code does."""


class Moments:
    """Mean and covariance of features that come in batches, float64 (Chan et al., 1979).

    Attributes:
        count: features so far.
        mean: float64 [D].
        scatter: float64 [D, D], the sum of outer products of what differs from the mean.
    """

    def __init__(self):
        self.count = 0
        self.mean = self.scatter = torch.zeros(())

    def add(self, features: torch.Tensor) -> None:
        """Take a batch [N, D] in."""
        x = features.double()
        n, mean = len(x), x.mean(0)
        centred = x - mean
        scatter = centred.T @ centred
        if not self.count:
            self.count, self.mean, self.scatter = n, mean, scatter
            return
        total, gap = self.count + n, mean - self.mean
        self.scatter = self.scatter + scatter + torch.outer(gap, gap) * (self.count * n / total)
        self.mean = self.mean + gap * (n / total)
        self.count = total

    @property
    def covariance(self) -> torch.Tensor:
        """With n - 1 in the denominator, as `numpy.cov`; float64 [D, D]."""
        return self.scatter / max(1, self.count - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """Features in coordinates in which all of them have mean 0 and unit covariance.

    Attributes:
        mean: mu, float64 [D].
        factor: L with L L^T = Sigma^-1, float64 [D, D].
        rank: directions in which the features vary; with fewer than D, 1e-10 I is added to Sigma.
    """

    mean: torch.Tensor
    factor: torch.Tensor
    rank: int

    @classmethod
    def of(cls, mean: torch.Tensor, covariance: torch.Tensor) -> "Whitening":
        """From mean [D] and covariance [D, D]."""
        values, vectors = torch.linalg.eigh(covariance.double())
        varying = values > values[-1].clamp(min=1e-300) * len(values) * torch.finfo(torch.float64).eps
        rank = int(varying.sum())
        if rank < len(values):
            values = torch.where(varying, values, torch.zeros_like(values)) + _RIDGE
        return cls(mean.double(), vectors / values.sqrt(), rank)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(f - mu) L, float64 [N, D]."""
        return (features.double() - self.mean) @ self.factor

    def cosine(self, clean: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        """Cosine of the whitened features, float64 [N]; 1 where they agree."""
        return torch.nn.functional.cosine_similarity(self(clean), self(moved), dim=1)

    def distance(self, clean: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        """Mahalanobis distance sqrt((f - g)^T Sigma^-1 (f - g)), float64 [N]; 0 where they agree."""
        return torch.linalg.vector_norm((clean.double() - moved.double()) @ self.factor, dim=1)
