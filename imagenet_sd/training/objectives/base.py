"""What the loop knows of an objective: a head that is trained, a state that is not, and a loss."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from imagenet_sd.training.views import Views


class Objective:
    """What a run minimises. An objective is one file with one subclass, named in `objectives.OBJECTIVES`.

    Subclasses take `(encoder, num_classes, config)`: the encoder under training, C, and the whole `TrainConfig`.

    Attributes:
        global_crops: the fewest global crops of an image that the loss can work with.
        head: trained together with the encoder; maps the features [M * B, d] of the `encoded_crops`, crop-major, to
            whatever `loss` takes, and, where the objective classifies, in evaluation mode features [N, d] to logits
            [N, C].
        state: not trained by gradients but kept in checkpoints: a momentum encoder, a memory bank.
        label_smoothing: share of the target spread over all classes, in the loss below.
        classifies: the head gives class logits; otherwise a run is validated with k nearest neighbours.
        progress: share of the training that is done, in [0, 1); the loop sets it before every step.
        spread: of the embeddings of the last loss, see `embedding_spread`; None where nothing can collapse.
        second_features: features [B, d] of the second global crop where another encoder makes them; see AugSelf.
    """

    global_crops = 1
    label_smoothing = 0.0
    classifies = True
    progress = 0.0
    spread: torch.Tensor | None = None
    second_features: torch.Tensor | None = None

    def __init__(self, head: nn.Module, state: nn.Module | None = None):
        self.head, self.state = head, state or nn.Module()

    def before_step(self, encoder: nn.Module) -> None:
        """Called once before every optimiser step, however many chunks its batch is split into."""

    @property
    def constant_rate(self) -> list[nn.Parameter]:
        """Parameters of the head whose learning rate stays at its peak."""
        return []

    def encoded_crops(self, views: Views) -> list[torch.Tensor]:
        """The crops that the trained encoder sees, one tensor per resolution, crop-major as in `Views`: all."""
        return views.crops

    def loss(self, outputs: Any, views: Views) -> torch.Tensor:
        """Mean loss, a scalar, over the images of a batch or of a chunk of it; here the cross-entropy of logits.

        Args:
            outputs: what `head` made of the features of the `encoded_crops`.
            views: the crops and labels.
        """
        return multi_crop_loss(outputs, views.labels, self.label_smoothing)

    def after_backward(self) -> None:
        """Called once before every optimiser step, when the gradients of the whole batch are there."""

    def after_step(self) -> None:
        """Called once after every optimiser step."""


def multi_crop_loss(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy averaged over all M crops of all images (eqs. 4.1 and 4.2).

    Args:
        logits: [M * B, C], crop-major.
        labels: int64 [B].
        label_smoothing: share of the target spread over all classes.
    """
    crops = len(logits) // len(labels)
    return F.cross_entropy(logits.float(), labels.repeat(crops), label_smoothing=label_smoothing)
