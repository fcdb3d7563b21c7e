"""Cosine softmax with learned class weights (thesis eq. 4.1)."""

import torch
import torch.nn.functional as F
from torch import nn

from imagenet_sd.training.config import TrainConfig
from imagenet_sd.training.model import num_features
from imagenet_sd.training.objectives.base import Objective
from imagenet_sd.training.objectives.projector import Projector


def cosine_logits(z: torch.Tensor, weights: torch.Tensor, temperature: float) -> torch.Tensor:
    """z^T w_c / (|w_c| tau), the logits of eqs. 4.1 and 4.2.

    Args:
        z: unit-length embeddings [N, d_b].
        weights: class weights or prototypes [C, d_b]; a zero row (a class without a prototype) gives logit 0.
        temperature: tau.

    Returns:
        [N, C].
    """
    return z @ F.normalize(weights, dim=1).T / temperature


class CosineHead(nn.Module):
    """Projector and class weights: features [N, d] to logits [N, C].

    The weights are a parameter if `learned`, else a buffer that the objective fills (the prototypes of eq. 4.2).
    """

    weight: torch.Tensor

    def __init__(self, width: int, num_classes: int, config: TrainConfig, learned: bool = True):
        super().__init__()
        self.temperature = config.objective.temperature
        self.projector = Projector(width, config.model)
        weight = torch.zeros(num_classes, self.projector.dimension)
        if learned:
            self.weight = nn.Parameter(nn.init.trunc_normal_(weight, std=0.02))
        else:
            self.register_buffer("weight", weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, C]."""
        return cosine_logits(self.projector(x), self.weight, self.temperature)


class CosineSoftmax(Objective):
    """Eq. 4.1; see `Objective`."""

    def __init__(self, encoder: nn.Module, num_classes: int, config: TrainConfig):
        super().__init__(CosineHead(num_features(encoder), num_classes, config))
        self.label_smoothing = config.objective.label_smoothing
