"""How an encoder is evaluated: the protocol of thesis 4.4 and 5.5, as a typed configuration."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.typed import to_mapping
from imagenet_sd.core.types import Suite

SUITES = get_args(Suite)
Probe = Literal["auto", "lbfgs", "sgd", "sea", "knn", "path", "gradient"]
Fusion = Literal["normalised", "raw"]
GradientTraining = Literal["paper", "code"]
Preprocessing = Literal["protocol", "model"]
Metric = Literal["top1", "mean_per_class"]
Selection = Literal["auto", "top1", "mean_per_class"]
EpisodePool = Literal["auto", "test", "all"]
PUBLISHED_CROP_SIZE = 224
"""Pixels: the edge of the centre crop of encoders that are not trained here."""
Augmentation = Literal["sea", "none", "isda", "me_ada", "sea_neg", "adv", "rand", "mixup"]


class EvaluationError(ImagenetSDError):
    """An evaluation is asked for something impossible."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeaSettings:
    """The probe `sea`: an augmentation of features, and the values that its search tries (SeA paper, section 4).

    One value fixes a setting.

    Raises:
        EvaluationError: a value is out of its range.
    """

    augmentation: Augmentation = "sea"
    """Augmentation of the features: sea; none is the baseline of Tab. 5, isda and me_ada others there; sea_neg,
    adv, rand and mixup are those of section 4.1."""
    eta: tuple[float, ...] = ()
    """Step sizes eta of eq. 11 (of isda: its strength); by default the paper's: 0, 0.2, 0.4, 0.8 for sea, 0.005 to 0.05
    for adv and me_ada, 0.2 to 1 for the others."""
    smoothing: tuple[float, ...] = (0.05, 0.1, 1.0)
    """Values of lambda of the smoothed hinge loss, eq. 15; 1 with delta 0 is cross-entropy."""
    margin: tuple[float, ...] = (0.0, 1.0)
    """Values of delta of eq. 15."""
    alpha: tuple[float, ...] = (0.01, 0.02, 0.05)
    """Weights of the entropy in eq. 7; sea and sea_neg only."""
    learning_rate: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    """Constant learning rates."""
    weight_decay: tuple[float, ...] = (0.0, 1e-6, 1e-5, 1e-4)
    """Values of tau of eq. 2."""
    batch_size: int = 256
    """Mini-batch, which also spans the directions of sea."""
    epochs: int = 100
    """Passes over the features."""

    def __post_init__(self) -> None:
        grids = ("smoothing", "margin", "alpha", "learning_rate", "weight_decay")
        _check(
            self,
            (
                self.augmentation in get_args(Augmentation),
                "augmentation",
                f"one of {', '.join(get_args(Augmentation))}",
            ),
            (min((0.0, *self.eta)) >= 0, "eta", "give numbers from 0"),
            *((len(getattr(self, name)) > 0, name, "give at least one value") for name in grids),
            *(
                (min((1.0, *getattr(self, n))) > 0, n, "give numbers above 0")
                for n in ("smoothing", "alpha", "learning_rate")
            ),
            *((min((0.0, *getattr(self, n))) >= 0, n, "give numbers from 0") for n in ("margin", "weight_decay")),
            (self.batch_size >= 2, "batch_size", "give at least 2: directions come from the other images of a batch"),
            (self.epochs >= 1, "epochs", "give at least 1"),
        )

    @property
    def etas(self) -> tuple[float, ...]:
        """The step sizes that are tried."""
        if self.augmentation == "none":
            return (0.0,)
        paper = {"sea": (0.0, 0.2, 0.4, 0.8)}
        paper |= dict.fromkeys(("adv", "me_ada"), (0.005, 0.01, 0.02, 0.05))
        return self.eta or paper.get(self.augmentation, (0.2, 0.4, 0.8, 1.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Settings of `imagenet-sd evaluate`.

    Raises:
        EvaluationError: a value is out of its range.
    """

    suite: str = "transfer"
    """imagenet, transfer, fewshot, analysis, cog, imagenet-probe, label-noise, invariance or readout."""
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
    selection: Selection = "auto"
    """What hyper-parameters are chosen by; auto: the measure of the probe's protocol, which is mean per-class accuracy
    for path, sea and the suite readout on aircraft, caltech101, flowers and pets, and top-1 elsewhere."""
    sea: SeaSettings = field(default_factory=SeaSettings)
    """Settings of the probe sea."""
    crop_size: int = field(default=0, metadata={"formerly": "side"})
    """Pixels: the edge of the centre crop; by default what the run was trained for, 224 for other encoders."""
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
    queries: int = 16
    """Test images per class of an episode."""
    episodes: int = 2000
    """Number of episodes of the few-shot suite; 0 for none."""
    episode_pool: EpisodePool = "auto"
    """Images that episodes are sampled from: the test split or all; auto: all of cub, as AugSelf has it, else test."""
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
    """Of the probe gradient: the paper's Adam, or the SGD of the official code. The learning rates of both were chosen
    with ntk, which is off unless asked for."""
    gradient_steps: int = 50_000
    """Training steps of the probe gradient."""
    ntk: bool = False
    """NTK parametrisation of the blocks for the probe gradient, as paper and code have it; their learning rates belong
    to it."""
    controls: str = ""
    """Controls that the probe gradient trains as well, with commas: activations, random-omega, random-theta2,
    random-theta1, fine-tuned; or all."""

    def __post_init__(self) -> None:
        choices = {
            "probe": Probe, "preprocessing": Preprocessing, "selection": Selection, "episode_pool": EpisodePool,
            "fusion": Fusion, "gradient_training": GradientTraining,
        }  # fmt: skip
        _check(
            self,
            (self.suite in SUITES, "suite", f"one of {', '.join(SUITES)}"),
            *((getattr(self, n) in get_args(c), n, f"one of {', '.join(get_args(c))}") for n, c in choices.items()),
            (self.trials >= 1, "trials", "give at least 1; the papers use 25 or more"),
            (len(self.seeds) >= 1, "seeds", "give at least one seed"),
            (0 < self.validation_share < 1, "validation_share", "give a share in (0, 1)"),
            (self.crop_size == 0 or self.crop_size >= 16, "crop_size", "give at least 16 pixels"),
            (self.batch_size >= 1, "batch_size", "give at least 1"),
            (min((1, *self.shots)) >= 1, "shots", "give numbers from 1"),
            (min((1, *self.episode_shots)) >= 1, "episode_shots", "give numbers from 1"),
            (self.ways >= 2, "ways", "give at least 2"),
            (self.queries >= 1, "queries", "give at least 1"),
            (self.episodes >= 0, "episodes", "give at least 1, or 0 for none"),
            (self.strengths >= 2, "strengths", "give at least 2; the paper uses 256"),
            (self.measured_images >= 2, "measured_images", "give at least 2; the paper uses 1000"),
            (self.gradient_steps >= 1, "gradient_steps", "give at least 1"),
            (
                self.probe != "gradient" or bool(self.blocks),
                "blocks",
                "the probe gradient needs --blocks, such as layer4 of a ResNet or blocks.11 of a ViT",
            ),
        )


def _check(config: Any, *checks: tuple[bool, str, str]) -> None:
    for holds, name, hint in checks:
        if not holds:
            raise EvaluationError(f"{name} is {getattr(config, name)!r}", hint)


_LATER = ("fusion", "transformations", "strengths", "measured_images", "targets", "blocks", "gradient_training",
          "gradient_steps", "ntk", "controls")  # fmt: skip
"""Fields that version 0.1.0 did not have, and whose defaults change nothing."""


def recorded(config: EvalConfig) -> dict[str, Any]:
    """`to_mapping` as version 0.1.0 had it, so that old evaluations count as done wherever their numbers are the same.

    Fields have their first names, and later ones are left out where they change nothing: those of episodes where the
    suite has none, and at their defaults those of the search, save for the probes that searched in another way then.
    """
    values: dict[str, Any] = to_mapping(config)
    values["side"] = values.pop("crop_size") or PUBLISHED_CROP_SIZE
    for name in ("selection", "sea"):
        if config.probe not in ("sea", "path") and getattr(config, name) == getattr(EvalConfig(), name):
            del values[name]
    for name in _LATER:
        if getattr(config, name) == getattr(EvalConfig(), name):
            del values[name]
    if config.suite != "fewshot":
        values |= {"episodes": 200}
        del values["queries"], values["episode_pool"]
    return values
