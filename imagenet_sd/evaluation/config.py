"""How an encoder is evaluated: the protocol of thesis 4.4 and 5.5, as a typed configuration."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.types import Suite

SUITES = get_args(Suite)
Probe = Literal["auto", "lbfgs", "sgd", "sea", "knn", "path"]
Preprocessing = Literal["protocol", "model"]


class EvaluationError(ImagenetSDError):
    """An evaluation is asked for something impossible."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Settings of `imagenet-sd evaluate`.

    Raises:
        EvaluationError: a value is out of its range.
    """

    suite: str = "transfer"
    """imagenet, transfer, fewshot, analysis or cog."""
    probe: Probe = "auto"
    """Classifier on frozen features; auto: lbfgs, from `large` training images on sgd."""
    large: int = 100_000
    """Training images from which `auto` takes SGD."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the validation split, the search and the optimiser; the mean is reported."""
    trials: int = 25
    """Optuna trials per seed; the papers ask for at least 25."""
    validation_share: float = 0.2
    """Share of the training images held out, stratified, to choose hyper-parameters."""
    crop_size: int = field(default=224, metadata={"formerly": "side"})
    """Pixels: the edge of the centre crop."""
    preprocessing: Preprocessing = "protocol"
    """protocol: the papers', the shorter edge to the crop size, or to 256 in the imagenet suite for crops of 224;
    model: size, crop_pct, interpolation, mean and standard deviation of the model's own configuration."""
    batch_size: int = 128
    """Images per forward pass."""
    amp: bool = False
    """Extract features in mixed precision."""
    shots: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    """Training images per class of the few-shot suite (CoG)."""
    ways: int = 5
    """Classes of an episode (AugSelf)."""
    episode_shots: tuple[int, ...] = (1, 5)
    """Training images per class of an episode."""
    episodes: int = 200
    """Number of episodes; 0 for none."""

    def __post_init__(self) -> None:
        probes, preprocessings = get_args(Probe), get_args(Preprocessing)
        checks = [
            (self.suite in SUITES, "suite", f"one of {', '.join(SUITES)}"),
            (self.probe in probes, "probe", f"one of {', '.join(probes)}"),
            (self.preprocessing in preprocessings, "preprocessing", f"one of {', '.join(preprocessings)}"),
            (self.trials >= 1, "trials", "give at least 1; the papers use 25 or more"),
            (len(self.seeds) >= 1, "seeds", "give at least one seed"),
            (0 < self.validation_share < 1, "validation_share", "give a share in (0, 1)"),
            (self.crop_size >= 16, "crop_size", "give at least 16 pixels"),
        ]
        for holds, name, hint in checks:
            if not holds:
                raise EvaluationError(f"{name} is {getattr(self, name)!r}", hint)
