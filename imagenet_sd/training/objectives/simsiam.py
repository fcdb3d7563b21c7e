"""SimSiam (Chen and He, 2021): predict the other crop's embedding, without negatives or a momentum encoder."""

import torch
from torch import nn

from imagenet_sd.training.config import TrainConfig
from imagenet_sd.training.model import num_features
from imagenet_sd.training.objectives.self_supervised import (
    PredictionHead,
    SelfSupervised,
    embedding_spread,
    mlp,
    num_global_crops,
    prediction_loss,
    projection,
)
from imagenet_sd.training.views import Views


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
