"""SeA: semantic adversarial augmentation of fixed deep features (Qian et al., 2022), and its rivals in the paper.

All features and directions have unit length. The linear model has no bias.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

Augmentation = Literal["none", "sea", "sea_neg", "adv", "rand", "mixup"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SeaConfig:
    """Settings; the defaults are those of the official code."""

    augmentation: Augmentation = "sea"
    """Direction of the augmentation (section 4.1 of the paper)."""
    alpha: float = 0.01
    """Weight of the entropy of q (eq. 7)."""
    eta: float = 0.8
    """Step size (eq. 11); `adv` wants about 0.02."""
    smoothing: float = 0.1
    """lambda of eq. 15."""
    margin: float = 0.0
    """delta of eq. 15."""
    learning_rate: float = 1.6
    """Constant."""
    weight_decay: float = 0.0
    """tau of eq. 2."""
    batch_size: int = 256
    """Mini-batch, which also spans the semantic directions."""
    epochs: int = 100
    """Passes over the features."""


def _margins(logits: torch.Tensor, labels: torch.Tensor, margin: float) -> torch.Tensor:
    return logits + margin * (1 - F.one_hot(labels, logits.shape[1]).to(logits.dtype))


def smoothed_hinge(logits: torch.Tensor, labels: torch.Tensor, smoothing: float, margin: float) -> torch.Tensor:
    """Eq. 15, one loss per image [N]; smoothing 1 and margin 0 is cross-entropy, smoothing towards 0 the hinge loss.

    Args:
        logits: x^T w_c, [N, C].
        labels: int64 [N].
        smoothing: lambda > 0.
        margin: delta >= 0.
    """
    return smoothing * F.cross_entropy(_margins(logits, labels, margin) / smoothing, labels, reduction="none")


def feature_gradient(
    x: torch.Tensor, w: torch.Tensor, labels: torch.Tensor, smoothing: float, margin: float, keep_target: bool = True
) -> torch.Tensor:
    """Eq. 16: sum_c p_c w_c - w_y, the gradient of eq. 15 with respect to the features [N, D].

    Args:
        x: features [N, D].
        w: class weights [C, D].
        labels: int64 [N].
        smoothing: lambda.
        margin: delta.
        keep_target: False leaves out - w_y (the paper's SeA_Neg).
    """
    p = torch.softmax(_margins(x @ w.T, labels, margin) / smoothing, 1)
    return p @ w - w[labels] if keep_target else p @ w


def semantic_weights(x: torch.Tensor, gradient: torch.Tensor, alpha: float) -> torch.Tensor:
    """Eq. 10: q_ij = exp(x_j^T g_i / alpha) / Z over j != i, the optimum of eq. 9; rows sum to 1, the diagonal is 0.

    Args:
        x: unit-length features of the mini-batch [N, D], N >= 2.
        gradient: unit-length gradients [N, D].
        alpha: weight of the entropy.
    """
    affinity = gradient @ x.T / alpha
    return torch.softmax(affinity.fill_diagonal_(float("-inf")), 1)


def augment(
    x: torch.Tensor, w: torch.Tensor, labels: torch.Tensor, config: SeaConfig, generator: torch.Generator
) -> torch.Tensor:
    """Augmented features of a mini-batch [N, D], of unit length (eq. 11; for `adv` eq. 5).

    Args:
        x: unit-length features [N, D].
        w: class weights [C, D].
        labels: int64 [N].
        config: direction, step size and the rest.
        generator: randomness of `rand` and `mixup`.
    """
    kind = config.augmentation
    if kind == "none" or config.eta == 0 or len(x) < 2:
        return x
    if kind in ("sea", "sea_neg", "adv"):
        gradient = feature_gradient(x, w, labels, config.smoothing, config.margin, keep_target=kind != "sea_neg")
        if kind == "adv":
            return F.normalize(x + config.eta * gradient, dim=1)
        direction = semantic_weights(x, F.normalize(gradient, dim=1), config.alpha) @ x
    elif kind == "rand":  # uniform on the simplex of the other images
        q = -torch.rand(len(x), len(x), generator=generator, dtype=x.dtype).clamp(min=1e-12).log()
        q.fill_diagonal_(0)
        direction = (q / q.sum(1, keepdim=True)) @ x
    else:  # manifold mixup: towards one other image
        direction = x[torch.randperm(len(x), generator=generator)]
    return F.normalize(x + config.eta * F.normalize(direction, dim=1), dim=1)


def train_sea(
    features: np.ndarray, labels: np.ndarray, num_classes: int, config: SeaConfig, seed: int = 0
) -> np.ndarray:
    """Algorithm 1: SGD with momentum 0.9 on augmented features, zero initial weights.

    Args:
        features: unit-length float [N, D].
        labels: int64 [N].
        num_classes: C.
        config: settings.
        seed: of the order and the random directions.

    Returns:
        Class weights float32 [C, D].
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.as_tensor(np.asarray(features, np.float32))
    y = torch.as_tensor(labels)
    w = torch.zeros(num_classes, x.shape[1], requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=config.learning_rate, momentum=0.9, weight_decay=config.weight_decay)
    for _ in range(config.epochs):
        for rows in torch.randperm(len(x), generator=generator).split(config.batch_size):
            with torch.no_grad():
                shown = augment(x[rows], w, y[rows], config, generator)
            loss = smoothed_hinge(shown @ w.T, y[rows], config.smoothing, config.margin).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return w.detach().numpy()
