"""Probes without a search of their own: SGD logistic regression for large sets, and k-NN for a quick look."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from imagenet_sd.evaluation.probes.rows import FeatureRows


@dataclass(frozen=True, kw_only=True, slots=True)
class SgdConfig:
    """SGD of thesis 4.4: momentum 0.9, batch 1024, 100 epochs, cosine decay, on l2-normalised features."""

    learning_rate: float
    """At the first step."""
    weight_decay: float
    """l2 penalty."""
    epochs: int = 100
    """Passes over the features."""
    batch_size: int = 1024
    """Mini-batch."""


def train_sgd(
    features: np.ndarray | FeatureRows, labels: np.ndarray, num_classes: int, config: SgdConfig, seed: int = 0
) -> torch.nn.Linear:
    """Train a linear classifier in float32 on l2-normalised features, which may be a memory map of any size.

    Args:
        features: float [N, D], or rows of features on the device that computes.
        labels: int64 [N].
        num_classes: C.
        config: settings.
        seed: of the initial weights and the order.
    """
    generator = torch.Generator().manual_seed(seed)
    x = features if isinstance(features, FeatureRows) else FeatureRows(features)
    y = torch.as_tensor(labels)
    linear = torch.nn.Linear(x.features.shape[1], num_classes)
    torch.nn.init.normal_(linear.weight, std=0.01, generator=generator)
    torch.nn.init.zeros_(linear.bias)
    linear.to(x.device)
    optimizer = torch.optim.SGD(
        linear.parameters(), lr=config.learning_rate, momentum=0.9, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * x.steps(config.batch_size))
    for _ in range(config.epochs):
        for batch, positions in x.batches(config.batch_size, generator):
            optimizer.zero_grad()
            F.cross_entropy(linear(batch), y[positions].to(x.device)).backward()
            optimizer.step()
            schedule.step()
    return linear


@torch.no_grad()
def linear_scores(weight: torch.Tensor, bias: torch.Tensor | None, features: np.ndarray) -> np.ndarray:
    """Logits float32 [M, C] of l2-normalised features.

    Args:
        weight: float32 [C, D] on the device that computes.
        bias: float32 [C], or None.
        features: float [M, D].
    """
    scores = np.empty((len(features), len(weight)), np.float32)
    start = 0
    for x in FeatureRows(features, device=weight.device).chunks():
        scores[start : start + len(x)] = F.linear(x, weight, bias).cpu().numpy()
        start += len(x)
    return scores


def knn_scores(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    device: torch.device | None = None,
) -> np.ndarray:
    """Weighted k-nearest-neighbour votes by cosine similarity, exp(similarity / temperature) (Wu et al., 2018).

    Args:
        train: float [N, D], l2-normalised here.
        labels: int64 [N].
        test: float [M, D], likewise.
        num_classes: C.
        k: neighbours, at most N.
        temperature: of the weights.
        device: where to compute; None: the accelerator where there is one.

    Returns:
        float32 [M, C].
    """
    rows, k = FeatureRows(train, device=device), min(k, len(train))
    y, votes = torch.as_tensor(labels, device=rows.device), []
    for x in (part for chunk in FeatureRows(test, device=rows.device).chunks() for part in chunk.split(1024)):
        best, found = torch.empty(len(x), 0, device=rows.device), torch.empty(len(x), 0, device=rows.device).long()
        first = 0
        for neighbours in rows.chunks():  # the k best so far, of equal ones the first
            similarity = torch.cat([best, x @ neighbours.T], 1)
            index = torch.arange(first, first + len(neighbours), device=rows.device).expand(len(x), -1)
            best, order = similarity.sort(dim=1, descending=True, stable=True)
            best = best[:, :k]
            found = torch.cat([found, index], 1).gather(1, order[:, :k])
            first += len(neighbours)
        vote = torch.zeros(len(x), num_classes, device=rows.device)
        votes.append(vote.scatter_add_(1, y[found], torch.exp(best / temperature)).cpu().numpy())
    return np.concatenate(votes)
