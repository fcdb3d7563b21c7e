"""The objectives by name. To add one: a file beside these, a line here, and its name in `config.ObjectiveConfig`."""

from torch import nn

from imagenet_sd.training.config import TrainConfig, TrainingError
from imagenet_sd.training.objectives.base import Objective
from imagenet_sd.training.objectives.cosine_softmax import CosineSoftmax
from imagenet_sd.training.objectives.cross_entropy import CrossEntropy
from imagenet_sd.training.objectives.online_class_means import OnlineClassMeans

OBJECTIVES: dict[str, type[Objective]] = {
    "cross_entropy": CrossEntropy,
    "cosine_softmax": CosineSoftmax,
    "ocm": OnlineClassMeans,
}


def make_objective(encoder: nn.Module, num_classes: int, config: TrainConfig) -> Objective:
    """The objective that the configuration names.

    Raises:
        TrainingError: it needs more global crops than the configuration has.
    """
    kind, crops = OBJECTIVES[config.objective.loss], config.crops.global_crops_number
    if crops < kind.global_crops:
        raise TrainingError(
            f"objective.loss {config.objective.loss} needs {kind.global_crops} global crops of an image, not {crops}",
            f"set crops.global_crops_number={kind.global_crops}",
        )
    return kind(encoder, num_classes, config)  # pyright: ignore[reportCallIssue]
