"""StableRep's multi-positive contrastive loss (Tian et al., 2023)."""

import torch
import torch.nn.functional as F
from torch import nn

from imagenet_sd.training.config import TrainConfig
from imagenet_sd.training.model import num_features
from imagenet_sd.training.objectives.distributed import gather_rows, world
from imagenet_sd.training.objectives.self_supervised import (
    SelfSupervised,
    embedding_spread,
    num_global_crops,
    projection,
    similarity,
)
from imagenet_sd.training.views import Views


def contrastive_loss(
    anchors: torch.Tensor,
    candidates: torch.Tensor,
    positive: torch.Tensor,
    itself: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Cross-entropy between the softmax over the candidates and the uniform distribution over the positive ones.

    -1/N sum_i sum_j p_ij log softmax_j(a_i . c_j / tau), p_ij = 1 / |P_i| on the positives P_i. With one positive each
    it is SimCLR's NT-Xent (eq. 1 there), with several StableRep's loss.

    Args:
        anchors: unit-length embeddings [N, d].
        candidates: unit-length embeddings [K, d].
        positive: bool [N, K]; at least one in each row.
        itself: bool [N, K], where the candidate is the anchor itself and does not count.
        temperature: tau.
    """
    log_p = (similarity(anchors, candidates) / temperature).masked_fill(itself, float("-inf")).log_softmax(1)
    positive = positive & ~itself
    return -(log_p.masked_fill(~positive, 0.0).sum(1) / positive.sum(1)).mean()


class StableRep(SelfSupervised):
    """Pulls together the crops of all images that have equal `views.positives`: of one prompt, class or image.

    Every crop is an anchor; the candidates are the global crops of all processes' images. With accumulation they are
    those of a chunk.
    """

    def __init__(self, encoder: nn.Module, num_classes: int, config: TrainConfig):
        super().__init__(projection(num_features(encoder), config.model))
        self.temperature = config.objective.temperature

    def loss(self, outputs: torch.Tensor, views: Views) -> torch.Tensor:
        """See `contrastive_loss`; outputs [M * B, d_b]."""
        z = F.normalize(self.per_crop(outputs, views), dim=-1)
        num_global, batch = num_global_crops(views), len(views.labels)
        self.spread = embedding_spread(z[:num_global])
        candidates = gather_rows(z[:num_global].flatten(0, 1))
        owners = gather_rows(views.positives.repeat(num_global))
        positive = views.positives.repeat(len(z))[:, None] == owners[None]
        itself = torch.zeros_like(positive)
        own = torch.arange(num_global * batch, device=z.device)  # global crops come first among the anchors
        itself[own, own + world()[0] * len(own)] = True
        return contrastive_loss(z.flatten(0, 1), candidates, positive, itself, self.temperature)
