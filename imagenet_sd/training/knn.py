"""Online validation of an encoder without a classifier: k nearest neighbours among training images."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from imagenet_sd.data.images import ImageSet, LabelledImage
from imagenet_sd.training.model import EncoderWithHead
from imagenet_sd.training.photometric import normalize, to_float
from imagenet_sd.training.validate import Validation, Validator

BANK = 10_000
"""Training images that are neighbours."""


class SpacedGroups:
    """About `count` images of a set: whole groups, evenly spaced."""

    def __init__(self, images: ImageSet, count: int):
        self.images, self.name, self.classes = images, images.name, images.classes
        groups = len(images.group_sizes)
        wanted = min(groups, max(1, round(groups * count / max(1, sum(images.group_sizes)))))
        self.groups = np.linspace(0, groups - 1, wanted).round().astype(int).tolist()
        self.group_sizes = [images.group_sizes[group] for group in self.groups]

    def read_group(self, group: int) -> list[LabelledImage]:
        """See `ImageSet`."""
        return self.images.read_group(self.groups[group])


class KnnValidator(Validator):
    """Scores an encoder by the votes of the k nearest of up to 10,000 training images, by cosine similarity.

    Votes weigh exp(similarity / tau) (Wu et al., 2018), with DINO's k = 20 and tau = 0.07.

    Args:
        images: the real images.
        training: the training images; classes are matched by their ids.
        crop_size: width and height of the centre crop in pixels.
        bank: about how many training images to compare with.

    Raises:
        TrainingError: the two have no class in common.
    """

    score = "knn"
    k, temperature = 20, 0.07

    def __init__(self, images: ImageSet, training: ImageSet, crop_size: int, bank: int = BANK):
        super().__init__(images, training.classes, crop_size)
        self.bank = Validator(SpacedGroups(training, bank), training.classes, crop_size)
        self.num_classes = len(training.classes)

    @torch.inference_mode()
    def __call__(self, model: nn.Module, device: torch.device, batch_size: int = 256) -> Validation:
        """Score the encoder of `model`; leaves it in its mode."""
        assert isinstance(model, EncoderWithHead)
        was_training = model.training
        model.eval()
        bank, labels, _ = _features(self.bank, model.encoder, device, batch_size)
        features, targets, unreadable = _features(self, model.encoder, device, batch_size)
        model.train(was_training)
        votes = torch.cat([self._votes(x, bank, labels) for x in features.split(1024)])
        ranked = (votes + self._mask.to(device)).topk(min(5, len(self.common)), dim=1).indices
        hits = ranked == targets[:, None]
        top1, top5 = hits[:, 0].double().mean().item(), hits.any(1).double().mean().item()
        return Validation(top1=top1, top5=top5, num_images=len(hits), common=self.common, unreadable=unreadable)

    def _votes(self, features: torch.Tensor, bank: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Weights of the neighbours' classes [N, C]."""
        similarity, nearest = (features @ bank.T).topk(min(self.k, len(bank)), dim=1)
        votes = torch.zeros(len(features), self.num_classes, device=features.device)
        return votes.scatter_add_(1, labels[nearest], (similarity / self.temperature).exp())


def _features(
    images: Validator, encoder: nn.Module, device: torch.device, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Unit-length features [N, d] and columns [N] of a set's images, and how many could not be read."""
    features, targets, unreadable = [], [], 0
    for pixels, columns, failed in images.batches(batch_size):
        unreadable += failed
        if columns:
            batch = normalize(to_float(torch.from_numpy(np.stack(pixels)).to(device)))
            features.append(F.normalize(encoder(batch).float(), dim=1))
            targets += columns
    return torch.cat(features), torch.tensor(targets, device=device), unreadable
