"""SeA: semantic adversarial augmentation of fixed deep features (Qian et al., 2022), and what it is compared with.

All features and directions have unit length. The linear model has no bias.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from imagenet_sd.evaluation.config import Augmentation
from imagenet_sd.evaluation.probes.rows import FeatureRows


@dataclass(frozen=True, kw_only=True, slots=True)
class SeaConfig:
    """One point of the search; the defaults are those of the official code."""

    augmentation: Augmentation = "sea"
    """See `augment` and `isda_logits`."""
    alpha: float = 0.01
    """Weight of the entropy of q (eq. 7)."""
    eta: float = 0.8
    """Step size (eq. 11); `adv` and `me_ada` want about 0.02. The strength of `isda`."""
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


def entropy_gradient(x: torch.Tensor, w: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Gradient with respect to the features [N, D] of smoothing * H(softmax(x^T w / smoothing)), H the entropy.

    Args:
        x: features [N, D].
        w: class weights [C, D].
        smoothing: lambda.
    """
    log_p = torch.log_softmax(x @ w.T / smoothing, 1)
    entropy = -(log_p.exp() * log_p).sum(1, keepdim=True)
    return -(log_p.exp() * (log_p + entropy)) @ w


def isda_logits(
    logits: torch.Tensor, w: torch.Tensor, labels: torch.Tensor, variances: torch.Tensor, strength: float
) -> torch.Tensor:
    """Logits [N, C] of implicit semantic data augmentation (Wang et al., 2019): x^T w_c + strength / 2 * v_c.

    v_c = (w_c - w_y)^T Sigma_y (w_c - w_y), with Sigma_y the covariance within the class of the image; cross-entropy on
    them bounds its mean over features sampled from N(x, strength Sigma_y). Only the diagonal of Sigma is kept, as
    the authors do where classes are many.

    Args:
        logits: x^T w_c, [N, C].
        w: class weights [C, D].
        labels: int64 [N].
        variances: diagonals of the covariances of all classes [C, D].
        strength: at least 0.
    """
    sigma, w_y = variances[labels], w[labels]
    quadratic = sigma @ (w**2).T - 2 * (sigma * w_y) @ w.T + (sigma * w_y**2).sum(1, keepdim=True)
    return logits + 0.5 * strength * quadratic


def class_variances(x: FeatureRows, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Variance of every feature within every class, float32 [C, D] on the device of `x`; 0 for a class of one image."""
    sums = torch.zeros(2, num_classes, x.features.shape[1], device=x.device)
    first = 0
    for part in x.chunks():
        members = F.one_hot(labels[first : first + len(part)].to(x.device), num_classes).T.to(part)
        sums += torch.stack([members @ part, members @ part**2])  # index_add_ would be another sum in each GPU run
        first += len(part)
    counts = torch.bincount(labels, minlength=num_classes).clamp(min=1).to(x.device)[:, None]
    return (sums[1] / counts - (sums[0] / counts) ** 2).clamp_(min=0)


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
    """Augmented features of a mini-batch [N, D], of unit length (eq. 11; for `adv` and `me_ada` eq. 5).

    `me_ada` is one step of maximum-entropy adversarial augmentation (Zhao et al., 2020): the gradient of the loss plus
    the entropy of the prediction. `isda` changes logits instead, and `none` nothing.

    Args:
        x: unit-length features [N, D].
        w: class weights [C, D].
        labels: int64 [N].
        config: direction, step size and the rest.
        generator: randomness of `rand` and `mixup`.
    """
    kind = config.augmentation
    if kind in ("none", "isda") or config.eta == 0 or len(x) < 2:
        return x
    if kind in ("sea", "sea_neg", "adv", "me_ada"):
        gradient = feature_gradient(x, w, labels, config.smoothing, config.margin, keep_target=kind != "sea_neg")
        if kind == "me_ada":
            gradient = gradient + entropy_gradient(x, w, config.smoothing)
        if kind in ("adv", "me_ada"):
            return F.normalize(x + config.eta * gradient, dim=1)
        direction = semantic_weights(x, F.normalize(gradient, dim=1), config.alpha) @ x
    elif kind == "rand":  # uniform on the simplex of the other images
        q = -torch.rand(len(x), len(x), generator=generator, dtype=x.dtype).clamp(min=1e-12).log()
        q = q.fill_diagonal_(0).to(x.device)
        direction = (q / q.sum(1, keepdim=True)) @ x
    else:  # manifold mixup: towards one other image
        direction = x[torch.randperm(len(x), generator=generator).to(x.device)]
    return F.normalize(x + config.eta * F.normalize(direction, dim=1), dim=1)


def train_sea(
    features: np.ndarray | FeatureRows, labels: np.ndarray, num_classes: int, config: SeaConfig, seed: int = 0
) -> torch.Tensor:
    """Algorithm 1: SGD with momentum 0.9 on augmented l2-normalised features, zero initial weights.

    Args:
        features: float [N, D], which may be a memory map of any size; or rows of features on the device that computes.
        labels: int64 [N].
        num_classes: C.
        config: settings.
        seed: of the order and the random directions.

    Returns:
        Class weights float32 [C, D] on the device.
    """
    generator = torch.Generator().manual_seed(seed)
    x = features if isinstance(features, FeatureRows) else FeatureRows(features)
    y = torch.as_tensor(labels)
    w = torch.zeros(num_classes, x.features.shape[1], device=x.device, requires_grad=True)
    variances = class_variances(x, y, num_classes) if config.augmentation == "isda" else None
    optimizer = torch.optim.SGD([w], lr=config.learning_rate, momentum=0.9, weight_decay=config.weight_decay)
    for _ in range(config.epochs):
        for batch, positions in x.batches(config.batch_size, generator):
            target = y[positions].to(x.device)
            with torch.no_grad():
                shown = augment(batch, w, target, config, generator)
            logits = shown @ w.T
            if variances is not None:
                logits = isda_logits(logits, w, target, variances, config.eta)
            loss = smoothed_hinge(logits, target, config.smoothing, config.margin).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return w.detach()
