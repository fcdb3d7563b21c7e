"""MoCo v2 (He et al., 2020; Chen et al., 2020): contrast with a queue of a momentum encoder's embeddings."""

import torch
import torch.nn.functional as F
from accelerate.utils import gather
from torch import nn

from imagenet_sd.training.config import TrainConfig
from imagenet_sd.training.model import num_features
from imagenet_sd.training.objectives.online_class_means import Memory
from imagenet_sd.training.objectives.self_supervised import (
    MomentumNetworks,
    SelfSupervised,
    embedding_spread,
    projection,
    similarity,
)
from imagenet_sd.training.views import Views


class MoCoV2(SelfSupervised):
    """InfoNCE (eq. 1 there): -log exp(q . k+ / tau) / (exp(q . k+ / tau) + sum over the queue of exp(q . k / tau)).

    The key is the second global crop, which the momentum networks alone see; every other crop is a query. The keys of a
    batch, of all processes, enter the queue after its own step. Batches are not shuffled between processes: batch-norm
    statistics are those of the whole batch on GPUs (`sync_batchnorm`).
    """

    def __init__(self, encoder: nn.Module, num_classes: int, config: TrainConfig):
        self.config = config.objective
        head = projection(num_features(encoder), config.model)
        self.momentum = MomentumNetworks(encoder, head)
        dimension = config.model.projector_bottleneck
        self.queue = Memory(self.config.memory_size, dimension, num_classes=1)
        self.queue.enqueue(torch.randn(self.config.memory_size, dimension), torch.zeros(self.config.memory_size).long())
        super().__init__(head, nn.ModuleDict({"momentum": self.momentum, "queue": self.queue}))
        self._keys: list[torch.Tensor] = []

    def before_step(self, encoder: nn.Module) -> None:
        """Update the momentum networks."""
        self.momentum.update(encoder, self.head, self.config.ema_momentum)

    def encoded_crops(self, views: Views) -> list[torch.Tensor]:
        """All but the key."""
        batch, (crops, *local) = len(views.labels), views.crops
        return [torch.cat([crops[:batch], crops[2 * batch :]]), *local]

    def loss(self, outputs: torch.Tensor, views: Views) -> torch.Tensor:
        """See `info_nce`; outputs [(M - 1) * B, d_b], those of the queries."""
        batch = len(views.labels)
        self.second_features, keys = self.momentum(views.crops[0][batch : 2 * batch])
        keys = F.normalize(keys.float(), dim=1)
        self._keys.append(keys)
        queries = F.normalize(outputs.float(), dim=1)
        self.spread = embedding_spread(queries)
        positives = keys.repeat(len(queries) // batch, 1)
        return info_nce(queries, positives, self.queue.embeddings.clone(), self.config.temperature)

    def after_step(self) -> None:
        """Put the keys of all processes into the queue."""
        for keys in self._keys:
            keys = torch.as_tensor(gather(keys))
            self.queue.enqueue(keys, torch.zeros(len(keys), dtype=torch.long, device=keys.device))
        self._keys.clear()


def info_nce(queries: torch.Tensor, keys: torch.Tensor, queue: torch.Tensor, temperature: float) -> torch.Tensor:
    """The mean over the queries [N, d] of the cross-entropy that picks its key [N, d] among it and the queue [K, d]."""
    logits = torch.cat([(queries * keys).sum(1, keepdim=True), similarity(queries, queue)], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.long, device=queries.device))
