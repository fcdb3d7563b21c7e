"""Softmax cross-entropy on a linear classifier."""

import torch
from torch import nn

from imagenet_sd.training.config import ModelConfig, TrainConfig
from imagenet_sd.training.model import num_features
from imagenet_sd.training.objectives.base import Objective
from imagenet_sd.training.objectives.projector import Projector


class LinearHead(nn.Module):
    """A linear layer, on the projector's output if there is one: features [N, d] to logits [N, C]."""

    def __init__(self, width: int, num_classes: int, model: ModelConfig):
        super().__init__()
        self.projector = Projector(width, model) if model.projector_layers else nn.Identity()
        self.linear = nn.Linear(model.projector_bottleneck if model.projector_layers else width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, C]."""
        return self.linear(self.projector(x))


class CrossEntropy(Objective):
    """Plain classification; see `Objective`."""

    def __init__(self, encoder: nn.Module, num_classes: int, config: TrainConfig):
        super().__init__(LinearHead(num_features(encoder), num_classes, config.model))
        self.label_smoothing = config.objective.label_smoothing
