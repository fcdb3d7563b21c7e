"""Probes without a search of their own: SGD logistic regression for large sets, and k-NN for a quick look."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


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
    features: np.ndarray, labels: np.ndarray, num_classes: int, config: SgdConfig, seed: int = 0
) -> torch.nn.Linear:
    """Train a linear classifier.

    Args:
        features: unit-length float [N, D].
        labels: int64 [N].
        num_classes: C.
        config: settings.
        seed: of the initial weights and the order.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.as_tensor(np.asarray(features, np.float32)), torch.as_tensor(labels)
    linear = torch.nn.Linear(x.shape[1], num_classes)
    torch.nn.init.normal_(linear.weight, std=0.01, generator=generator)
    torch.nn.init.zeros_(linear.bias)
    optimizer = torch.optim.SGD(
        linear.parameters(), lr=config.learning_rate, momentum=0.9, weight_decay=config.weight_decay
    )
    steps = config.epochs * -(-len(x) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(config.epochs):
        for rows in torch.randperm(len(x), generator=generator).split(config.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(linear(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return linear


def knn_scores(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> np.ndarray:
    """Weighted k-nearest-neighbour votes by cosine similarity, exp(similarity / temperature) (Wu et al., 2018).

    Args:
        train: unit-length float [N, D].
        labels: int64 [N].
        test: unit-length float [M, D].
        num_classes: C.
        k: neighbours, at most N.
        temperature: of the weights.

    Returns:
        float64 [M, C].
    """
    votes = np.zeros((len(test), num_classes))
    for start in range(0, len(test), 1024):
        similarity = np.asarray(test[start : start + 1024]) @ np.asarray(train).T
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(k, len(train))]
        weights = np.exp(np.take_along_axis(similarity, nearest, 1) / temperature)
        rows = np.arange(start, start + len(similarity))[:, None]
        np.add.at(votes, (rows, labels[nearest]), weights)
    return votes
