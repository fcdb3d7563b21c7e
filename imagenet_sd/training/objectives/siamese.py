"""BYOL (Grill et al., 2020) and SimSiam (Chen and He, 2021): predict the other crop's embedding, without negatives."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from imagenet_sd.training.config import TrainConfig
from imagenet_sd.training.model import num_features
from imagenet_sd.training.objectives.self_supervised import (
    MomentumNetworks,
    SelfSupervised,
    embedding_spread,
    mlp,
    num_global_crops,
    pairs,
    projection,
)
from imagenet_sd.training.views import Views


class PredictionHead(nn.Module):
    """Projector and predictor: features [N, d] to embeddings z and predictions p, both [N, d_b]."""

    def __init__(self, projector: nn.Module, predictor: nn.Module):
        super().__init__()
        self.projector, self.predictor = projector, predictor

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(z, p)."""
        z = self.projector(x)
        return z, self.predictor(z)


def prediction_loss(targets: torch.Tensor, predictions: torch.Tensor) -> torch.Tensor:
    """Mean over the global crops g and the other crops v of an image, and over the images, of -cos(p_v, z_g).

    Args:
        targets: embeddings [M_g, B, d], without gradient.
        predictions: [M, B, d].
    """
    chosen = pairs(len(targets), len(predictions))
    return -torch.stack([F.cosine_similarity(predictions[v], targets[g], dim=-1) for g, v in chosen]).mean()


class SimSiam(SelfSupervised):
    """-1/2 cos(p_1, z_2) - 1/2 cos(p_2, z_1), no gradient through z (eq. 4 there). The predictor's rate is constant."""

    head: PredictionHead

    def __init__(self, encoder: nn.Module, num_classes: int, config: TrainConfig):
        projector = projection(num_features(encoder), config.model, last_norm=True)
        out = config.model.projector_bottleneck
        super().__init__(PredictionHead(projector, mlp(out, config.objective.predictor_hidden, out, 1)))

    @property
    def constant_rate(self) -> list[nn.Parameter]:
        """The predictor (section 4.2 there)."""
        return list(self.head.predictor.parameters())

    def loss(self, outputs: tuple[torch.Tensor, torch.Tensor], views: Views) -> torch.Tensor:
        """See `prediction_loss`; outputs z and p, [M * B, d_b] each."""
        z, p = (self.per_crop(x, views) for x in outputs)
        self.spread = embedding_spread(z)
        return prediction_loss(z[: num_global_crops(views)].detach(), p)


class Byol(SelfSupervised):
    """|p_1 - z'_2|^2 + |p_2 - z'_1|^2 of unit-length vectors (eq. 2 there), z' of a momentum encoder.

    Its momentum goes from `ema_momentum` to 1: 1 - (1 - m) (cos(pi k / K) + 1) / 2 at step k of K.
    """

    head: PredictionHead

    def __init__(self, encoder: nn.Module, num_classes: int, config: TrainConfig):
        self.start = config.objective.ema_momentum
        projector = projection(num_features(encoder), config.model)
        out = config.model.projector_bottleneck
        head = PredictionHead(projector, mlp(out, config.objective.predictor_hidden, out, 1))
        self.networks = MomentumNetworks(encoder, projector)
        super().__init__(head, nn.ModuleDict({"momentum": self.networks}))

    @property
    def momentum(self) -> float:
        """The momentum of this step."""
        return 1 - (1 - self.start) * (math.cos(math.pi * self.progress) + 1) / 2

    def before_step(self, encoder: nn.Module) -> None:
        """Update the momentum networks."""
        self.networks.update(encoder, self.head.projector, self.momentum)

    def loss(self, outputs: tuple[torch.Tensor, torch.Tensor], views: Views) -> torch.Tensor:
        """2 - 2 cos, summed over the global crops, see `prediction_loss`; outputs z and p, [M * B, d_b] each."""
        z, p = (self.per_crop(x, views) for x in outputs)
        self.spread = embedding_spread(z)
        _, targets = self.networks(views.crops[0])
        targets = self.per_crop(targets, views)
        return len(targets) * (2 + 2 * prediction_loss(targets, p))
