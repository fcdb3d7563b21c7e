"""The network under training: a timm encoder with its head, and what Online Class Means keeps beside it."""

import copy

import timm
import torch
import torch.nn.functional as F
from torch import nn

from imagenet_sd.training.config import ModelConfig, TrainConfig, TrainingError
from imagenet_sd.training.heads import Classifier, Memory
from imagenet_sd.training.optim import ema_update


def make_encoder(config: ModelConfig) -> nn.Module:
    """The encoder f without a classifier: images float [N, 3, H, W] to features [N, d].

    With `small_images` the max pooling of a ResNet's stem is left out; names and shapes of the weights stay timm's.

    Raises:
        TrainingError: timm has no model of that name.
    """
    try:
        encoder = timm.create_model(config.backbone, num_classes=0)
    except RuntimeError as error:
        raise TrainingError(
            f"no backbone {config.backbone!r}: {' '.join(str(error).split())}", "use a name from timm.list_models()"
        ) from None
    if config.small_images:
        if not hasattr(encoder, "maxpool"):
            raise TrainingError(f"{config.backbone} has no max pooling to leave out", "set model.small_images=false")
        encoder.maxpool = nn.Identity()
    return encoder


class Trainee(nn.Module):
    """Encoder and head; one forward pass over all crops of a batch."""

    def __init__(self, config: TrainConfig, num_classes: int):
        super().__init__()
        self.encoder = make_encoder(config.model)
        self.head = Classifier(getattr(self.encoder, "num_features"), num_classes, config.model, config.objective)  # noqa: B009

    def forward(self, crops: list[torch.Tensor]) -> torch.Tensor:
        """Logits of all crops, resolution by resolution.

        Args:
            crops: one normalised float tensor [N_i, 3, S_i, S_i] per resolution; N_i = M_i * B, crop-major.

        Returns:
            [sum N_i, C].
        """
        return self.head(torch.cat([self.encoder(x) for x in crops]))


def multi_crop_loss(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy averaged over all M crops of all images (eqs. 4.1 and 4.2).

    Args:
        logits: [M * B, C], crop-major.
        labels: int64 [B].
        label_smoothing: share of the target spread over all classes.
    """
    crops = len(logits) // len(labels)
    return F.cross_entropy(logits.float(), labels.repeat(crops), label_smoothing=label_smoothing)


class OnlineClassMeans(nn.Module):
    """The side of Online Class Means that is not trained: trailing encoder and projector, and the memory bank.

    Args:
        model: the network under training, whose copy trails it.
        config: the recipe.
        num_classes: C.
    """

    def __init__(self, model: Trainee, config: TrainConfig, num_classes: int):
        super().__init__()
        self.objective = config.objective
        self.encoder = copy.deepcopy(model.encoder).requires_grad_(False)
        assert model.head.projector is not None
        self.projector = copy.deepcopy(model.head.projector).requires_grad_(False)
        self.memory = Memory(
            config.objective.memory_size,
            config.model.projector_bottleneck,
            num_classes,
            config.objective.memory_normalized,
        )

    @torch.no_grad()
    def before_step(self, model: Trainee) -> None:
        """Give the head the prototypes of this step: those of the bank before this batch enters it."""
        model.head.weight.copy_(self.memory.prototypes())

    @torch.no_grad()
    def embed(self, model: Trainee, global_crops: torch.Tensor) -> torch.Tensor:
        """Let the trailing networks follow, and embed the global crops with them: [N, d_b]."""
        ema_update(self.encoder, model.encoder, self.objective.ema_momentum)
        assert model.head.projector is not None
        ema_update(self.projector, model.head.projector, self.objective.ema_momentum)
        return self.projector(self.encoder(global_crops), normalized=self.objective.memory_normalized)
