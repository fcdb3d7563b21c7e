"""What the objectives without labels have in common: heads, pairs of crops, the momentum encoder, signs of collapse."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from imagenet_sd.training.config import ModelConfig
from imagenet_sd.training.objectives.base import Objective
from imagenet_sd.training.optim import ema_update
from imagenet_sd.training.views import Views


class SelfSupervised(Objective):
    """An objective that learns from two or more crops of an image, and gives no logits."""

    global_crops = 2
    classifies = False

    def per_crop(self, outputs: torch.Tensor, views: Views) -> torch.Tensor:
        """Outputs [M * B, D] as float32 [M, B, D]."""
        return outputs.float().unflatten(0, (-1, len(views.labels)))


def num_global_crops(views: Views) -> int:
    """M_g."""
    return len(views.crops[0]) // len(views.labels)


def pairs(num_global: int, num_crops: int) -> list[tuple[int, int]]:
    """Which crop is predicted from which: (global crop, any other crop), as SwAV and DINO pair a multi-crop."""
    return [(target, crop) for target in range(num_global) for crop in range(num_crops) if crop != target]


def mlp(width: int, hidden: int, out: int, layers: int, *, last_norm: bool = False) -> nn.Sequential:
    """A head of the usual kind: `layers` of linear, batch norm, ReLU, then a linear layer.

    Linear layers before a batch norm have no bias. With `last_norm` a batch norm closes the head (SimSiam).
    """
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        width = hidden
    parts.append(nn.Linear(width, out, bias=not last_norm))
    return nn.Sequential(*parts, *([nn.BatchNorm1d(out)] if last_norm else []))


def projection(width: int, config: ModelConfig, *, last_norm: bool = False) -> nn.Sequential:
    """The projector of the recipe: features [N, d] to embeddings [N, d_b]."""
    return mlp(
        width, config.projector_hidden, config.projector_bottleneck, config.projector_layers, last_norm=last_norm
    )


def similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Dot products [N, K] of rows [N, d] and [K, d], in their own precision: mixed precision is too coarse here."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.T


@torch.no_grad()
def embedding_spread(z: torch.Tensor) -> torch.Tensor:
    """Mean over the dimensions of the standard deviation of z / |z|, times sqrt(d); a scalar in [0, 1].

    1 where the directions are uniform, 0 where all embeddings [N, d] are the same: a collapse (Chen and He, 2021,
    section 4.1).
    """
    return F.normalize(z.float(), dim=-1).flatten(0, -2).std(0, unbiased=False).mean() * z.shape[-1] ** 0.5


class MomentumNetworks(nn.Module):
    """Encoder and projector that follow the trained ones as an exponential moving average, without gradients."""

    def __init__(self, encoder: nn.Module, projector: nn.Module):
        super().__init__()
        self.encoder, self.projector = copy.deepcopy(encoder), copy.deepcopy(projector)
        self.requires_grad_(False)

    def update(self, encoder: nn.Module, projector: nn.Module, momentum: float) -> None:
        """One step of the average, over parameters; batch-norm statistics are the networks' own."""
        ema_update(self.encoder, encoder, momentum)
        ema_update(self.projector, projector, momentum)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [N, d] and embeddings [N, d_b] of images [N, 3, H, W]."""
        features = self.encoder(images)
        return features, self.projector(features)


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
