"""Online validation on real images: classes are matched by their ids, never by their index."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from imagenet_sd.data.images import ImageSet
from imagenet_sd.data.preprocess import imagenet_preprocessing
from imagenet_sd.training.config import TrainingError
from imagenet_sd.training.photometric import normalize, to_float


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Accuracies in [0, 1] over `num_images` images of the `common` classes; the logits of all others are masked."""

    top1: float
    top5: float
    num_images: int
    common: tuple[str, ...]
    unreadable: int


class Validator:
    """Scores a classifier on a labelled set.

    Args:
        images: the real images.
        classes: class ids of the classifier, in the order of its logits.
        crop_size: width and height of the centre crop in pixels; see `imagenet_preprocessing`.

    Raises:
        TrainingError: the two have no class in common.

    Attributes:
        score: what its accuracies are called in the metrics.
    """

    score = "val"

    def __init__(self, images: ImageSet, classes: tuple[str, ...], crop_size: int):
        self.images, self.preprocessing = images, imagenet_preprocessing(crop_size)
        column = {wnid: number for number, wnid in enumerate(classes)}
        common = column.keys() & set(images.classes)
        self.common = tuple(sorted(common))
        if not self.common:
            raise TrainingError(
                f"{images.name} and the training data have no class in common",
                "validate on data whose class ids are those of the training data",
            )
        self._label_to_column = [column.get(wnid, -1) for wnid in images.classes]
        self._mask = torch.tensor([0.0 if wnid in common else float("-inf") for wnid in classes])
        self.note = ""
        if len(self.common) < len(classes) or len(self.common) < len(images.classes):
            self.note = (
                f"scored on the {len(self.common)} classes in common "
                f"({len(classes)} in training, {len(images.classes)} in {images.name})"
            )

    @torch.inference_mode()
    def __call__(self, model: nn.Module, device: torch.device, batch_size: int = 256) -> Validation:
        """Score `model`, which maps a list with one tensor of normalised images to logits; leaves it in its mode."""
        was_training = model.training
        model.eval()
        correct1 = correct5 = total = unreadable = 0
        mask = self._mask.to(device)
        for pixels, targets, failed in self.batches(batch_size):
            unreadable += failed
            if not targets:
                continue
            logits = model([normalize(to_float(torch.from_numpy(np.stack(pixels)).to(device)))]).float()
            if not logits.isfinite().all():
                raise TrainingError(
                    f"{self.images.name}: the validated weights give scores that are not finite",
                    "lower optimizer.base_lr, or set optimizer.clip_grad_norm",
                )
            ranked = (logits + mask).topk(min(5, len(self.common)), dim=1).indices.cpu()
            hits = ranked == torch.tensor(targets)[:, None]
            correct1 += int(hits[:, 0].sum())
            correct5 += int(hits.any(1).sum())
            total += len(targets)
        model.train(was_training)
        return Validation(
            top1=correct1 / total,
            top5=correct5 / total,
            num_images=total,
            common=self.common,
            unreadable=unreadable,
        )

    def batches(self, batch_size: int) -> Iterator[tuple[list[np.ndarray], list[int], int]]:
        """Batches of the images of common classes.

        Yields:
            Crops uint8 [3, S, S], the columns of their labels, and how many images beside them could not be read.

        Raises:
            TrainingError: not a single image could be read.
        """
        pixels, targets, unreadable, any_read = [], [], 0, False
        for group in range(len(self.images.group_sizes)):
            for record in self.images.read_group(group):
                target = self._label_to_column[record.label]
                if target < 0:
                    continue
                try:
                    pixels.append(self.preprocessing.crop(record.decode()))
                except OSError:
                    unreadable += 1
                    continue
                targets.append(target)
                any_read = True
                if len(pixels) == batch_size:
                    yield pixels, targets, unreadable
                    pixels, targets, unreadable = [], [], 0
        if not any_read:
            raise TrainingError(
                f"no image of {self.images.name} of a class in common can be read, {unreadable} are damaged",
                "check its files, or validate on other data",
            )
        yield pixels, targets, unreadable
