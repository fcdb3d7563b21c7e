"""A batch on the training device: crops as normalised floats, after the photometric operations."""

from dataclasses import dataclass, field

import torch

from imagenet_sd.training.data import Batch
from imagenet_sd.training.photometric import apply_photometric, normalize, to_float


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """What an objective sees of a batch of B images with M crops each.

    Attributes:
        crops: one normalised float tensor [M_i * B, 3, S_i, S_i] per resolution, crop-major; the global crops first.
        labels: int64 [B].
        parameters: float32 [B, M, P], the photometric parameters of every crop; see `crops.PARAMETERS`.
        geometry: float32 [B, M, 6], where every crop was cut; see `crops.GEOMETRY`.
        positives: int64 [B], equal for the images that a contrastive loss pulls together.
    """

    crops: list[torch.Tensor]
    labels: torch.Tensor
    parameters: torch.Tensor
    geometry: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    positives: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))


def make_views(batch: Batch, device: torch.device) -> Views:
    """Move a batch to the device and apply its photometric operations there."""
    crops, first = [], 0
    parameters = batch.parameters.to(device)
    for pixels in (batch.global_crops, batch.local_crops):
        count = pixels.shape[1]
        if count:
            images = to_float(pixels.to(device)).transpose(0, 1).flatten(0, 1)
            rows = parameters[:, first : first + count].transpose(0, 1).flatten(0, 1)
            crops.append(normalize(apply_photometric(images, rows)))
        first += count
    labels, geometry, positives = (x.to(device) for x in (batch.labels, batch.geometry, batch.positives))
    return Views(crops=crops, labels=labels, parameters=parameters, geometry=geometry, positives=positives)
