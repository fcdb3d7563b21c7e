"""SwAV (Caron et al., 2020): predict the cluster that the other crop is assigned to."""

import torch
import torch.nn.functional as F
from torch import nn

from imagenet_sd.training.config import TrainConfig
from imagenet_sd.training.model import num_features
from imagenet_sd.training.objectives.distributed import gather_rows, own_rows
from imagenet_sd.training.objectives.self_supervised import (
    SelfSupervised,
    embedding_spread,
    num_global_crops,
    pairs,
    projection,
    similarity,
)
from imagenet_sd.training.views import Views


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """Codes that use all prototypes equally: the optimal transport of eq. 3 there, by Sinkhorn's iterations.

    Starts at exp(scores / epsilon); each iteration scales the prototypes to an equal share of all images, then the
    images to an equal share.

    Args:
        scores: [B, K].
        epsilon: weight of the entropy; small is hard.
        iterations: at least 1.

    Returns:
        [B, K]; rows sum to 1, columns to B / K as far as the iterations have converged.
    """
    codes = torch.exp((scores - scores.max()) / epsilon)
    for _ in range(iterations):
        codes = codes / codes.sum(0, keepdim=True).clamp(min=torch.finfo(codes.dtype).tiny)
        codes = codes / codes.sum(1, keepdim=True)
    return codes


class SwavHead(nn.Module):
    """Projector and prototypes: features [N, d] to unit-length embeddings z [N, d_b] and scores z C^T [N, K]."""

    def __init__(self, projector: nn.Module, dimension: int, prototypes: int):
        super().__init__()
        self.projector, self.prototypes = projector, nn.Linear(dimension, prototypes, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(z, scores)."""
        z = F.normalize(self.projector(x).float(), dim=1)
        return z, similarity(z, self.prototypes.weight)


class Swav(SelfSupervised):
    """Sum over the global crops g of the mean over the other crops v of CE(code of g, softmax(scores of v / tau)).

    With two crops it is eq. 1 there. Codes come from the global crops of all processes; with accumulation, of a chunk.
    Prototypes have unit length, and stand still at the start of training.
    """

    head: SwavHead

    def __init__(self, encoder: nn.Module, num_classes: int, config: TrainConfig):
        self.config = config.objective
        projector = projection(num_features(encoder), config.model)
        super().__init__(SwavHead(projector, config.model.projector_bottleneck, self.config.prototypes))

    @torch.no_grad()
    def before_step(self, encoder: nn.Module) -> None:
        """Scale the prototypes to unit length."""
        weight = self.head.prototypes.weight
        weight.copy_(F.normalize(weight, dim=1))

    def loss(self, outputs: tuple[torch.Tensor, torch.Tensor], views: Views) -> torch.Tensor:
        """See `swav_loss`; outputs z [M * B, d_b] and scores [M * B, K]."""
        z, scores = (self.per_crop(x, views) for x in outputs)
        self.spread = embedding_spread(z)
        codes = [
            own_rows(sinkhorn(gather_rows(x), self.config.sinkhorn_epsilon, self.config.sinkhorn_iterations))
            for x in scores[: num_global_crops(views)].detach()
        ]
        return swav_loss(torch.stack(codes), scores, self.config.temperature)

    def after_backward(self) -> None:
        """Hold the prototypes still at the start."""
        if self.progress < self.config.frozen_prototypes:
            self.head.prototypes.weight.grad = None


def swav_loss(codes: torch.Tensor, scores: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy of codes [M_g, B, K] and scores [M, B, K], see `Swav`."""
    log_p = (scores / temperature).log_softmax(-1)
    chosen = pairs(len(codes), len(scores))
    losses = torch.stack([-(codes[g] * log_p[v]).sum(-1).mean() for g, v in chosen])
    return len(codes) * losses.mean()
