"""What stands on the encoder while it is trained and is thrown away afterwards: projector, class weights, memory."""

import torch
import torch.nn.functional as F
from torch import nn

from imagenet_sd.training.config import ModelConfig, ObjectiveConfig


class Projector(nn.Module):
    """The expendable projector g of thesis 4.3, Fig. 4.2: x [N, d] to z [N, d_b], of unit length.

    L hidden layers (linear, batch norm, GeLU) of width d_h, then a linear bottleneck without bias to d_b dimensions;
    l2-normalised at the output and, on request, at the input.
    """

    def __init__(self, width: int, config: ModelConfig):
        super().__init__()
        self.input_l2 = config.projector_input_l2
        layers: list[nn.Module] = []
        for _ in range(config.projector_layers):
            layers += [nn.Linear(width, config.projector_hidden), nn.BatchNorm1d(config.projector_hidden), nn.GELU()]
            width = config.projector_hidden
        layers.append(nn.Linear(width, config.projector_bottleneck, bias=False))
        self.layers = nn.Sequential(*layers)
        for module in self.layers:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor, normalized: bool = True) -> torch.Tensor:
        """Embeddings [N, d_b]; of unit length unless `normalized` is off."""
        z = self.layers(F.normalize(x, dim=1) if self.input_l2 else x)
        return F.normalize(z, dim=1) if normalized else z


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
        here = self.labels >= 0
        labels = self.labels[here]
        sums = torch.zeros(self.num_classes, self.embeddings.shape[1], device=self.embeddings.device)
        sums.index_add_(0, labels, self.embeddings[here])
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


class Classifier(nn.Module):
    """The head that turns features x [N, d] into class logits [N, C], for each of the three objectives.

    `cross_entropy`: a linear layer (on the projector's output if there is one). `cosine_softmax`: eq. 4.1 with learned
    class weights. `ocm`: eq. 4.2; the weights are the prototypes of the memory bank, kept here for prediction.
    """

    def __init__(self, width: int, num_classes: int, model: ModelConfig, objective: ObjectiveConfig):
        super().__init__()
        self.objective = objective
        self.projector = Projector(width, model) if model.projector_layers else None
        dimension = model.projector_bottleneck if self.projector else width
        if objective.loss == "cross_entropy":
            self.linear = nn.Linear(dimension, num_classes)
        elif objective.loss == "cosine_softmax":
            self.weight = nn.Parameter(torch.empty(num_classes, dimension))
            nn.init.trunc_normal_(self.weight, std=0.02)
        else:
            self.weight: torch.Tensor
            self.register_buffer("weight", torch.zeros(num_classes, dimension))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, C]."""
        z = self.projector(x) if self.projector else x
        if self.objective.loss == "cross_entropy":
            return self.linear(z)
        return cosine_logits(z, self.weight, self.objective.temperature)
