"""How an encoder is evaluated: the protocol of thesis 4.4 and 5.5, as a typed configuration."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.types import Suite

SUITES = get_args(Suite)
Probe = Literal["auto", "lbfgs", "sgd", "sea", "knn", "path", "gradient"]
Fusion = Literal["normalised", "raw"]
GradientTraining = Literal["paper", "code"]
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
    """imagenet, transfer, fewshot, analysis, cog, invariance or readout."""
    probe: Probe = "auto"
    """Classifier on frozen features; auto: lbfgs, from `large` training images on sgd; gradient: see `blocks`."""
    large: int = 100_000
    """Training images from which `auto` takes SGD."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the validation split, the search and the optimiser; the mean is reported."""
    trials: int = 25
    """Optuna trials per seed; the papers ask for at least 25."""
    validation_share: float = 0.2
    """Share of the training images held out, stratified, to choose hyper-parameters."""
    crop_size: int = field(default=224, metadata={"formerly": "side"})
    """Pixels: the shorter edge of the resized image, and the edge of its centre crop."""
    preprocessing: Preprocessing = "protocol"
    """The papers' resize and crop, or what the model's own configuration says."""
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
    fusion: Fusion = "normalised"
    """Features of encoders A+B side by side: of unit length each (SeA), or raw with a wider range of penalties."""
    transformations: str = ""
    """Of the suite invariance, with commas: empty is all; `variants` compares files OBJECT_VARIANT in pairs."""
    strengths: int = 256
    """Strengths of a transformation, about; the suite invariance takes the mean over them."""
    measured_images: int = 1000
    """Images that the suite invariance transforms; mean and covariance come from all."""
    targets: str = "class"
    """Of the suite readout, with commas: class, hue, brightness, rotation. `targets:TSV` data bring their own."""
    blocks: str = ""
    """Blocks whose weights the probe gradient linearises, with commas, such as layer4 or blocks.10,blocks.11."""
    gradient_training: GradientTraining = "paper"
    """Of the probe gradient: the paper's Adam, or the SGD of the official code."""
    gradient_steps: int = 50_000
    """Training steps of the probe gradient."""
    ntk: bool = False
    """NTK parametrisation of the blocks for the probe gradient, as paper and code have it; their learning rates belong
    to it."""
    controls: str = ""
    """Rivals that the probe gradient trains as well, with commas: activations, random-omega, random-theta2,
    random-theta1, fine-tuned; or all."""

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
            (self.fusion in get_args(Fusion), "fusion", f"one of {', '.join(get_args(Fusion))}"),
            (self.strengths >= 2, "strengths", "give at least 2; the paper uses 256"),
            (self.measured_images >= 2, "measured_images", "give at least 2; the paper uses 1000"),
            (self.gradient_training in get_args(GradientTraining), "gradient_training", "one of paper, code"),
            (self.gradient_steps >= 1, "gradient_steps", "give at least 1"),
            (
                self.probe != "gradient" or bool(self.blocks),
                "blocks",
                "the probe gradient needs --blocks, such as layer4 of a ResNet or blocks.11 of a ViT",
            ),
        ]
        for holds, name, hint in checks:
            if not holds:
                raise EvaluationError(f"{name} is {getattr(self, name)!r}", hint)
