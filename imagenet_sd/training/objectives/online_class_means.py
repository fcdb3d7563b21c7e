"""Online Class Means (thesis eq. 4.2): prototypes are the class means of a memory bank of embeddings."""

import copy

import torch
import torch.nn.functional as F
from accelerate.utils import gather
from torch import nn

from imagenet_sd.training.config import TrainConfig
from imagenet_sd.training.model import num_features
from imagenet_sd.training.objectives.base import Objective
from imagenet_sd.training.objectives.cosine_softmax import CosineHead
from imagenet_sd.training.optim import ema_update
from imagenet_sd.training.views import Views


class Memory(nn.Module):
    """The memory bank Q of Online Class Means (eq. 4.2): a queue of the last embeddings and their labels.

    Args:
        size: |Q|.
        dimension: d_b.
        num_classes: C.
        normalized: store unit-length embeddings (the text), or what it is given (the official code).
    """

    embeddings: torch.Tensor
    labels: torch.Tensor
    position: torch.Tensor

    def __init__(self, size: int, dimension: int, num_classes: int, normalized: bool = True):
        super().__init__()
        self.num_classes, self.normalized = num_classes, normalized
        self.register_buffer("embeddings", torch.zeros(size, dimension))
        self.register_buffer("labels", torch.full((size,), -1, dtype=torch.long))  # -1: an empty place
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def prototypes(self) -> torch.Tensor:
        """The class means u_c [C, d_b]; zero for a class that is not in the queue."""
        filled = self.labels >= 0
        labels = self.labels[filled]
        sums = torch.zeros(self.num_classes, self.embeddings.shape[1], device=self.embeddings.device)
        sums.index_add_(0, labels, self.embeddings[filled])
        counts = torch.bincount(labels, minlength=self.num_classes).clamp(min=1)
        return sums / counts[:, None]

    @torch.no_grad()
    def enqueue(self, z: torch.Tensor, labels: torch.Tensor) -> None:
        """Replace the oldest embeddings.

        Args:
            z: [N, d_b]; of more than the bank holds, the last are kept.
            labels: int64 [N].
        """
        size = len(self.labels)
        z, labels = z[-size:].float(), labels[-size:]
        if self.normalized:
            z = F.normalize(z, dim=1)
        places = (self.position + torch.arange(len(z), device=z.device)) % size
        self.embeddings[places] = z
        self.labels[places] = labels
        self.position.add_(len(z)).remainder_(size)


class OnlineClassMeans(Objective):
    """Eq. 4.2; see `Objective`. Its state: momentum encoder, momentum projector and memory bank.

    The bank is filled with the global crops as the momentum networks embed them; a batch enters it after its own step.
    """

    head: CosineHead

    def __init__(self, encoder: nn.Module, num_classes: int, config: TrainConfig):
        self.config, self.label_smoothing = config.objective, config.objective.label_smoothing
        head = CosineHead(num_features(encoder), num_classes, config, learned=False)
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.projector = copy.deepcopy(head.projector).requires_grad_(False)
        self.memory = Memory(
            self.config.memory_size, config.model.projector_bottleneck, num_classes, self.config.memory_normalized
        )
        state = {"encoder": self.encoder, "projector": self.projector, "memory": self.memory}
        super().__init__(head, nn.ModuleDict(state))
        self._embedded: list[tuple[torch.Tensor, torch.Tensor]] = []

    @torch.no_grad()
    def before_step(self, encoder: nn.Module) -> None:
        """Update the momentum networks, and give the head the prototypes of the bank."""
        ema_update(self.encoder, encoder, self.config.ema_momentum)
        ema_update(self.projector, self.head.projector, self.config.ema_momentum)
        self.head.weight.copy_(self.memory.prototypes())

    def loss(self, outputs: torch.Tensor, views: Views) -> torch.Tensor:
        """Cross-entropy of the logits [M * B, C]; embeds the global crops for the bank."""
        crops = views.crops[0]
        with torch.no_grad():
            z = self.projector(self.encoder(crops), normalized=self.config.memory_normalized)
        self._embedded.append((z, views.labels.repeat(len(crops) // len(views.labels))))
        return super().loss(outputs, views)

    def after_step(self) -> None:
        """Put the embeddings of all processes into the bank."""
        for z, labels in self._embedded:
            self.memory.enqueue(torch.as_tensor(gather(z)), torch.as_tensor(gather(labels)))
        self._embedded.clear()
