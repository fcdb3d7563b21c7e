"""The objectives by name. To add one: a file beside these, a line here, and its name in `config.Loss`."""

from torch import nn

from imagenet_sd.training.config import TrainConfig, TrainingError
from imagenet_sd.training.objectives.augself import AugSelf
from imagenet_sd.training.objectives.augself import check_tasks as check_tasks
from imagenet_sd.training.objectives.base import Objective
from imagenet_sd.training.objectives.byol import Byol
from imagenet_sd.training.objectives.cosine_softmax import CosineSoftmax
from imagenet_sd.training.objectives.cross_entropy import CrossEntropy
from imagenet_sd.training.objectives.mocov2 import MoCoV2
from imagenet_sd.training.objectives.online_class_means import OnlineClassMeans
from imagenet_sd.training.objectives.simclr import SimCLR
from imagenet_sd.training.objectives.simsiam import SimSiam
from imagenet_sd.training.objectives.stablerep import StableRep
from imagenet_sd.training.objectives.swav import Swav

OBJECTIVES: dict[str, type[Objective]] = {
    "cross_entropy": CrossEntropy,
    "cosine_softmax": CosineSoftmax,
    "ocm": OnlineClassMeans,
    "simclr": SimCLR,
    "mocov2": MoCoV2,
    "byol": Byol,
    "simsiam": SimSiam,
    "swav": Swav,
    "stablerep": StableRep,
}


def make_objective(encoder: nn.Module, num_classes: int, config: TrainConfig) -> Objective:
    """The objective that the configuration names, within AugSelf where it has a task.

    Raises:
        TrainingError: it needs more global crops than the configuration has.
    """
    kind, crops = OBJECTIVES[config.objective.loss], config.crops.global_crops_number
    name, needed = f"objective.loss {config.objective.loss}", kind.global_crops
    if config.augself.tasks and needed < AugSelf.global_crops:
        name, needed = "augself", AugSelf.global_crops
    if crops < needed:
        raise TrainingError(
            f"{name} needs {needed} global crops of an image, not {crops}", f"set crops.global_crops_number={needed}"
        )
    objective = kind(encoder, num_classes, config)  # pyright: ignore[reportCallIssue]
    return AugSelf(objective, encoder, config) if config.augself.tasks else objective
