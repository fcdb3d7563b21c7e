"""AugSelf (Lee et al., 2021): beside any objective, predict from the features of two crops how they were augmented."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from imagenet_sd.training.config import AugSelfConfig, PhotometricConfig, TrainConfig, TrainingError
from imagenet_sd.training.crops import PARAMETERS
from imagenet_sd.training.model import num_features
from imagenet_sd.training.objectives.base import Objective
from imagenet_sd.training.objectives.self_supervised import mlp
from imagenet_sd.training.photometric import SOLARIZE_THRESHOLD
from imagenet_sd.training.views import Views

_SIZES = {"crop": 4, "color": 4, "blur": 1, "flip": 1, "solarize": 1, "rotation": 4}  # outputs of each task
_COLORS = ("brightness", "contrast", "saturation", "hue")


def crop_values(geometry: torch.Tensor) -> torch.Tensor:
    """Centre (y, x) and size (h, w) of boxes in shares of the image, x mirrored where flipped: [N, 6] to [N, 4]."""
    y, x, h, w, flip = geometry[:, :5].unbind(1)
    return torch.stack([y, torch.where(flip > 0, 1 - x, x), h, w], 1)


def color_values(parameters: torch.Tensor, config: PhotometricConfig) -> torch.Tensor:
    """(factor - 1) / (max - min) of brightness, contrast and saturation, shift / (max - min) of hue: [N, 4].

    0 where the jitter was not applied; the recipe's ranges are 1 +- x and +- x, so max - min is 2 x.
    """
    ranges = parameters.new_tensor([2 * getattr(config, name) for name in _COLORS])
    neutral = parameters.new_tensor([1.0, 1.0, 1.0, 0.0])
    return (parameters[:, :4] - neutral) / torch.where(ranges > 0, ranges, torch.ones_like(ranges))


def targets(
    task: str,
    parameters: tuple[torch.Tensor, torch.Tensor],
    geometry: tuple[torch.Tensor, torch.Tensor],
    config: PhotometricConfig,
) -> torch.Tensor:
    """omega_diff of a task for N ordered pairs of crops.

    Args:
        task: a name of `AugSelfConfig`.
        parameters: [N, 11] of the first and of the second crops; see `crops.PARAMETERS`.
        geometry: [N, 6] of each; see `crops.GEOMETRY`.
        config: ranges of the colour jitter.

    Returns:
        float [N, K] for the regressions and `flip`; int64 [N] for `rotation`.
    """
    (p1, p2), (g1, g2) = parameters, geometry
    match task:
        case "crop":
            return crop_values(g1) - crop_values(g2)
        case "color":
            return color_values(p1, config) - color_values(p2, config)
        case "blur":
            column = PARAMETERS.index("blur")
            return (p1 - p2)[:, column : column + 1]
        case "flip":
            return (g1[:, 4:5] == g2[:, 4:5]).float()
        case "solarize":
            column = PARAMETERS.index("solarize")
            return (p2 - p1)[:, column : column + 1] * (1 - SOLARIZE_THRESHOLD)  # a threshold of 1: none
        case "rotation":
            return ((g1[:, 5] - g2[:, 5]) % 4).long()
    raise AssertionError(task)


def task_loss(task: str, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared error of tanh for a difference, binary cross-entropy for equal flips, cross-entropy for quarter turns."""
    if task == "rotation":
        return F.cross_entropy(outputs, target)
    if task == "flip":
        return F.binary_cross_entropy_with_logits(outputs, target)
    return F.mse_loss(torch.tanh(outputs), target)


class AugSelfHead(nn.Module):
    """The head of the objective within, and a network phi per task: 2 d -> hidden -> hidden -> K."""

    def __init__(self, base: nn.Module, width: int, config: AugSelfConfig):
        super().__init__()
        self.base = base
        self.tasks = nn.ModuleDict({name: mlp(2 * width, config.hidden, _SIZES[name], 2) for name in config.tasks})

    def forward(self, x: torch.Tensor) -> Any:
        """What the head within makes of features [N, d]; in training mode together with the features."""
        return (self.base(x), x) if self.training else self.base(x)


class AugSelf(Objective):
    """L = L_base + sum over the tasks of lambda L_task(phi([f(v1), f(v2)]), omega_diff), both orders of the pair.

    v1 and v2 are the first two global crops. With MoCo f(v2) is the momentum encoder's, without gradient.
    """

    global_crops = 2
    head: AugSelfHead

    def __init__(self, base: Objective, encoder: nn.Module, config: TrainConfig):
        self.base, self.config, self.photometric = base, config.augself, config.photometric
        super().__init__(AugSelfHead(base.head, num_features(encoder), config.augself), base.state)
        self.classifies = base.classifies

    @property
    def constant_rate(self) -> list[nn.Parameter]:
        """Those of the objective within."""
        return self.base.constant_rate

    def before_step(self, encoder: nn.Module) -> None:
        """Whatever the objective within does."""
        self.base.progress = self.progress
        self.base.before_step(encoder)

    def encoded_crops(self, views: Views) -> list[torch.Tensor]:
        """Those of the objective within."""
        return self.base.encoded_crops(views)

    def loss(self, outputs: tuple[Any, torch.Tensor], views: Views) -> torch.Tensor:
        """The loss of the objective within and those of the tasks; outputs: its own, and the features that it had."""
        within, features = outputs
        loss = self.base.loss(within, views)
        self.spread = self.base.spread
        batch = len(views.labels)
        first, second = features[:batch].float(), self.base.second_features
        second = (features[batch : 2 * batch] if second is None else second).float()
        both = torch.cat([torch.cat([first, second], 1), torch.cat([second, first], 1)])
        orders = ((0, 1), (1, 0))
        parameters = tuple(torch.cat([views.parameters[:, order[i]] for order in orders]) for i in range(2))
        geometry = tuple(torch.cat([views.geometry[:, order[i]] for order in orders]) for i in range(2))
        for task, weight in self.config.tasks.items():
            target = targets(task, parameters, geometry, self.photometric)  # pyright: ignore[reportArgumentType]
            loss = loss + weight * task_loss(task, self.head.tasks[task](both).float(), target)
        return loss

    def after_backward(self) -> None:
        """Whatever the objective within does."""
        self.base.after_backward()

    def after_step(self) -> None:
        """Whatever the objective within does."""
        self.base.after_step()


def check_tasks(config: TrainConfig) -> None:
    """Every task needs an augmentation to predict: one that can differ between two global crops of an image.

    Raises:
        TrainingError: a task has none.
    """
    crops, colors = config.crops, config.photometric
    jitter = colors.jitter_probability > 0 and any(getattr(colors, name) > 0 for name in _COLORS)
    low, high = colors.blur_radius
    blur = high > 0 and (0 < colors.global_blur < 1 or (colors.global_blur > 0 and low < high))
    varied = {  # whether they can differ, and a setting with which they do
        "crop": (crops.global_crops_scale[0] < 1, "crops.global_crops_scale=[0.2,1]"),
        "color": (jitter, "photometric.jitter_probability=0.8 with ranges above 0"),
        "blur": (blur, "photometric.global_blur=0.5"),
        "flip": (0 < crops.horizontal_flip < 1, "crops.horizontal_flip=0.5"),
        "solarize": (0 < colors.solarize < 1, "photometric.solarize=0.2"),
        "rotation": (crops.rotate, "crops.rotate=true"),
    }
    for task in config.augself.tasks:
        if task in ("color", "blur", "solarize") and config.augmentation != "dino":
            raise TrainingError(
                f"augself.{task} has nothing to predict: augmentation is {config.augmentation}",
                f"set augself.{task}=0, or augmentation=dino",
            )
        differs, setting = varied[task]
        if not differs:
            raise TrainingError(
                f"augself.{task} has nothing to predict: it is the same in all crops",
                f"set augself.{task}=0, or {setting}",
            )
