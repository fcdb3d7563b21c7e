"""BYOL (Grill et al., 2020): predict what a momentum encoder makes of the other crop, without negatives."""

import math

import torch
from torch import nn

from imagenet_sd.training.config import TrainConfig
from imagenet_sd.training.model import num_features
from imagenet_sd.training.objectives.self_supervised import (
    MomentumNetworks,
    PredictionHead,
    SelfSupervised,
    embedding_spread,
    mlp,
    prediction_loss,
    projection,
)
from imagenet_sd.training.views import Views


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
