"""Training recipes as typed configurations. Every value of the papers' tables stands here, once, with its source."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from operator import attrgetter
from typing import Any, Literal

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.typed import to_mapping

Tracker = Literal[
    "tensorboard", "wandb", "mlflow", "trackio", "comet_ml", "aim", "clearml", "dvclive", "swanlab", "none"
]
"""Experiment trackers that accelerate knows; not part of a recipe."""


class TrainingError(ImagenetSDError):
    """A training run is asked for something impossible, or went wrong in a known way."""


Loss = Literal[
    "cross_entropy", "cosine_softmax", "ocm", "simclr", "mocov2", "byol", "simsiam", "swav", "stablerep"
]  # fmt: skip
_NEW = {"since": "0.1.0"}  # a field that this version did not have; see `recorded`


@dataclass(frozen=True, kw_only=True, slots=True)
class CropsConfig:
    """Random resized crops, made by the data workers (Caron et al., 2020; thesis 4.3)."""

    global_crops_number: int = 1
    """M_g, at least 1."""
    global_crop_size: int = 224
    """Width and height of a global crop in pixels."""
    global_crops_scale: tuple[float, float] = (0.4, 1.0)
    """Share of the image's area that a global crop covers."""
    local_crops_number: int = 8
    """M_l; 0 for none."""
    local_crop_size: int = 96
    """Width and height of a local crop in pixels."""
    local_crops_scale: tuple[float, float] = (0.05, 0.4)
    """Share of the image's area that a local crop covers."""
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of a crop before it is resized, log-uniform."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """Resampling filter."""
    horizontal_flip: float = 0.5
    """Probability; 0 where left and right mean something, as in digits."""
    rotate: bool = field(default=False, metadata=_NEW)
    """Turn every crop by 0, 90, 180 or 270 degrees, at random; for AugSelf's rotation task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotometricConfig:
    """Colour operations in batches on the training device, with parameters per image (thesis 4.3, DINO's pipeline)."""

    jitter_probability: float = 0.8
    """Probability of the colour jitter."""
    brightness: float = 0.4
    """Factor in [1 - b, 1 + b]; contrast and saturation likewise."""
    contrast: float = 0.4
    """See brightness."""
    saturation: float = 0.2
    """See brightness."""
    hue: float = 0.1
    """Shift in [-h, h] of the hue circle, h <= 0.5."""
    grayscale: float = 0.2
    """Probability of losing all colour."""
    global_blur: float = 0.2
    """Probability of a Gaussian blur of a global crop."""
    local_blur: float = 0.5
    """Probability of a Gaussian blur of a local crop."""
    blur_radius: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur in pixels, uniform."""
    solarize: float = 0.2
    """Probability of inverting the values from 128 up; global crops only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Encoder and projector (thesis 4.3, Fig. 4.2)."""

    backbone: str = "resnet50"
    """Name of a timm model; its pooled features are the representation x."""
    small_images: bool = False
    """Leave out the max pooling of a ResNet's stem, for images of about 32 pixels."""
    zero_init_last: bool = field(default=False, metadata=_NEW)
    """Start with the last batch norm of each residual block at 0 (AugSelf; timm's default); torchvision does not."""
    projector_layers: int = 0
    """L, the number of hidden layers; 0 means no projector: the loss takes x, or its unit-length form (eq. 4.1)."""
    projector_hidden: int = 2048
    """d_h, the width of a hidden layer."""
    projector_bottleneck: int = 256
    """d_b, the dimension of the embedding z."""
    projector_input_l2: bool = True
    """l2-normalise the projector's input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """What is minimised."""

    loss: Loss = "cross_entropy"
    """Softmax cross-entropy on a linear classifier; eq. 4.1; eq. 4.2 (Online Class Means). The others learn without
    labels, see the file of each in `objectives/`."""
    temperature: float = 0.1
    """tau of eqs. 4.1 and 4.2, of the contrastive losses, and of SwAV's predictions."""
    memory_size: int = 8192
    """Embeddings in the memory bank of OCM (|Q|) and in the queue of MoCo (K)."""
    ema_momentum: float = 0.999
    """Momentum of the momentum encoder and projector, once per optimiser step; BYOL raises it to 1 on a cosine."""
    memory_normalized: bool = True
    """Store l2-normalised embeddings, as the text says; False stores them as the official code does."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes, in the three losses with labels."""
    predictor_hidden: int = field(default=512, metadata=_NEW)
    """Width of the predictor's hidden layer (BYOL, SimSiam)."""
    prototypes: int = field(default=100, metadata=_NEW)
    """Number of SwAV's prototypes."""
    frozen_prototypes: float = field(default=0.01, metadata=_NEW)
    """Share of the training at whose start SwAV's prototypes stand still."""
    sinkhorn_epsilon: float = field(default=0.05, metadata=_NEW)
    """Entropy weight epsilon of SwAV's assignment."""
    sinkhorn_iterations: int = field(default=3, metadata=_NEW)
    """Normalisations of rows and columns in SwAV's assignment."""
    positives: Literal["image", "class", "prompt"] = field(default="image", metadata=_NEW)
    """Which crops StableRep pulls together: those of one image, of one class, or of all images of one prompt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AugSelfConfig:
    """Weights lambda of AugSelf's tasks: predict from the features of two crops how their augmentations differ."""

    crop: float = 0.0
    """Difference of the boxes' centres and sizes; 0 leaves a task out."""
    color: float = 0.0
    """Difference of brightness, contrast, saturation and hue."""
    blur: float = 0.0
    """Difference of the blur's standard deviation."""
    flip: float = 0.0
    """Whether both crops are flipped, or neither."""
    solarize: float = 0.0
    """Difference of the threshold of solarization, 1 where there is none."""
    rotation: float = 0.0
    """Difference of the quarter turns; needs `crops.rotate`."""
    hidden: int = 512
    """Width of the two hidden layers."""

    @property
    def tasks(self) -> dict[str, float]:
        """The tasks in use with their weights."""
        weights = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "hidden"}
        return {name: weight for name, weight in weights.items() if weight}


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """SGD with linear warm-up and cosine decay (thesis 4.4, 5.5 and Tab. C.1)."""

    epochs: int = 100
    """Passes over the data."""
    batch_size: int = 256
    """Images per step over all processes."""
    base_lr: float = 0.1
    """Learning rate for a batch of 256; the peak is base_lr * batch_size / 256."""
    warmup_epochs: float = 10.0
    """Epochs of linear warm-up from 0."""
    min_lr: float = 1e-6
    """Learning rate at the end of the cosine."""
    momentum: float = 0.9
    """SGD momentum."""
    nesterov: bool = False
    """Nesterov's variant of momentum."""
    weight_decay: float = 1e-4
    """l2 penalty; biases and one-dimensional parameters (norms) have none."""
    clip_grad_norm: float = 0.0
    """Clip the gradient's norm; 0 does not."""
    accumulation_steps: int = 1
    """Split a batch into this many forward passes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run."""

    name: str = "imagenet-sd"
    """Name of the recipe it comes from."""
    augmentation: Literal["pytorch", "dino"] = "dino"
    """`pytorch`: crop and flip only. `dino`: multi-crop with photometric operations."""
    crops: CropsConfig = field(default_factory=CropsConfig)
    """Crops."""
    photometric: PhotometricConfig = field(default_factory=PhotometricConfig)
    """Colour operations, used by `dino`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Encoder and projector."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Loss."""
    augself: AugSelfConfig = field(default_factory=AugSelfConfig, metadata=_NEW)
    """AugSelf beside the loss."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimisation."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Mixed precision; auto: bfloat16 on a GPU that has it, else float16; float32 on a CPU."""
    sync_batchnorm: bool = True
    """Share batch-norm statistics between processes."""
    compile: bool = False
    """torch.compile the model."""
    ema_weights: float = 0.0
    """Keep an exponential moving average of the weights with this momentum and save it as the encoder; 0 does not."""
    seed: int = 0
    """Seeds initial weights, order and augmentation."""
    virtual_workers: int = 16
    """Independent streams that make up a batch; processes x workers divide them, results do not depend on how."""
    shuffle_window: int = 16
    """Row groups that are shuffled together (100 images each)."""
    bad_image_limit: float = 0.001
    """Share of unreadable images up to which others take their places, and they are counted."""
    val_crop_size: int = 224
    """Width and height of the centre crop at validation, in pixels."""
    validate_every: int = 1
    """Epochs between validations."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints; one is written at the end of every epoch as well."""

    def __post_init__(self) -> None:
        optimizer, loss = self.optimizer, self.objective.loss
        least = {"crops.global_crops_number": 1, "crops.local_crops_number": 0, "optimizer.epochs": 1,
                 "optimizer.batch_size": 1, "optimizer.accumulation_steps": 1, "model.projector_layers": 0,
                 "optimizer.momentum": 0, "optimizer.weight_decay": 0, "virtual_workers": 1, "shuffle_window": 1,
                 "validate_every": 1}  # fmt: skip
        if loss in ("ocm", "mocov2"):
            least["objective.memory_size"] = 1
        if loss == "swav":
            least |= {"objective.sinkhorn_iterations": 1, "objective.prototypes": 2}
        if loss in ("byol", "simsiam"):
            least["objective.predictor_hidden"] = 1
        least |= {"augself.hidden": 1} | {f"augself.{name}": 0 for name in self.augself.tasks}
        checks = [(attrgetter(key)(self) >= low, f"{key} must be at least {low}") for key, low in least.items()]
        checks += [(attrgetter(key)(self) <= high, f"{key} must be at most {high:,}") for key, high in _MOST.items()]
        checks += [
            (optimizer.base_lr > 0, "optimizer.base_lr must be above 0"),
            (0 <= optimizer.warmup_epochs <= optimizer.epochs, "optimizer.warmup_epochs must be 0 ... epochs"),
            (
                optimizer.momentum > 0 or not optimizer.nesterov,
                "optimizer.nesterov needs an optimizer.momentum above 0",
            ),
            (self.objective.temperature > 0, "objective.temperature must be above 0"),
            (0 <= self.objective.label_smoothing <= 1, "objective.label_smoothing must be in [0, 1]"),
            (0 <= self.objective.ema_momentum <= 1, "objective.ema_momentum must be in [0, 1]"),
            (0.025 <= self.objective.sinkhorn_epsilon < math.inf, "objective.sinkhorn_epsilon must be at least 0.025"),
            (0 <= self.objective.frozen_prototypes <= 1, "objective.frozen_prototypes must be in [0, 1]"),
            (0 <= self.photometric.hue <= 0.5, "photometric.hue must be in [0, 0.5]"),
            (
                loss == "stablerep" or self.objective.positives == "image",
                f"objective.positives {self.objective.positives} is for objective.loss stablerep, not {loss}",
            ),
            (
                loss != "ocm" or self.model.projector_layers > 0,
                f"objective.loss {loss} needs a projector: model.projector_layers of at least 1",
            ),
        ]
        for scale in ("global_crops_scale", "local_crops_scale"):
            low, high = getattr(self.crops, scale)
            checks.append((0 < low <= high <= 1, f"crops.{scale} must satisfy 0 < low <= high <= 1"))
        low, high = self.crops.aspect_ratio
        checks.append((0 < low <= high < math.inf, "crops.aspect_ratio must satisfy 0 < low <= high"))
        for holds, message in checks:
            if not holds:
                raise TrainingError(message, "fix the recipe or the --set option")


_MOST = {
    "model.projector_layers": 16,
    **dict.fromkeys(("model.projector_hidden", "model.projector_bottleneck"), 1 << 16),
    **dict.fromkeys(("objective.predictor_hidden", "objective.prototypes", "augself.hidden"), 1 << 16),
    "objective.memory_size": 1 << 24,
}
"""Sizes far above published ones: with more, making the network would fill the memory or not end."""
RECIPES: dict[str, TrainConfig] = {
    # torchvision's reference recipe in the setting of thesis Tab. 5.1: crop and flip, otherwise as imagenet-sd
    "pytorch": TrainConfig(
        name="pytorch",
        augmentation="pytorch",
        crops=CropsConfig(global_crops_scale=(0.08, 1.0), local_crops_number=0, interpolation="bilinear"),
    ),
    # thesis 5.5, implementation details: linear classifier, 100 epochs, warm-up over 10% of the iterations, DINO 1 + 8
    "imagenet-sd": TrainConfig(name="imagenet-sd"),
    # thesis Tab. C.1: its top part, and the crops of t-ReX*, are the defaults of the classes above
    "t-rex": TrainConfig(
        name="t-rex",
        crops=CropsConfig(global_crops_scale=(0.25, 1.0), local_crops_scale=(0.05, 0.25)),
        model=ModelConfig(projector_layers=3),
        objective=ObjectiveConfig(loss="ocm"),
    ),
    "t-rex-star": TrainConfig(
        name="t-rex-star", model=ModelConfig(projector_layers=1), objective=ObjectiveConfig(loss="ocm")
    ),
    # this project: 32-pixel digits on a CPU
    "small": TrainConfig(
        name="small",
        crops=CropsConfig(
            global_crop_size=32,
            global_crops_scale=(0.6, 1.0),
            local_crops_number=0,
            interpolation="bilinear",
            horizontal_flip=0.0,
        ),
        photometric=PhotometricConfig(
            saturation=0.0, hue=0.0, grayscale=0.0, global_blur=0.3, blur_radius=(0.1, 1.0), solarize=0.0
        ),
        model=ModelConfig(backbone="resnet10t", small_images=True),
        optimizer=OptimizerConfig(
            epochs=12, batch_size=64, base_lr=0.4, warmup_epochs=1, weight_decay=5e-4, nesterov=True
        ),
        val_crop_size=32,
        virtual_workers=8,
    ),
    # this project: 32-pixel colour photographs on a CPU; DINO's operations, the blur and the crops scaled down
    "small-photos": TrainConfig(
        name="small-photos",
        crops=CropsConfig(
            global_crop_size=32, global_crops_scale=(0.4, 1.0), local_crops_number=0, interpolation="bilinear"
        ),
        photometric=PhotometricConfig(global_blur=0.2, blur_radius=(0.1, 1.0), solarize=0.1),
        model=ModelConfig(backbone="resnet10t", small_images=True),
        optimizer=OptimizerConfig(
            epochs=30, batch_size=128, base_lr=0.4, warmup_epochs=3, weight_decay=5e-4, nesterov=True
        ),
        val_crop_size=32,
        virtual_workers=8,
    ),
}


_RENAMED = {"lanes": "virtual_workers", "window": "shuffle_window", "eval_size": "val_crop_size"}


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `TrainConfig` under today's names, from a file or a setting that may have those of version 0.1.0."""
    return {_RENAMED.get(key, key): value for key, value in values.items()}


def recorded(config: TrainConfig) -> dict[str, Any]:
    """`to_mapping` under the names of version 0.1.0: digests of it stay the same, so that old stages count as done.

    A field that came later is left out while it has its default.
    """
    old_names = {new: old for old, new in _RENAMED.items()}
    values: dict[str, Any] = _without_new_defaults(config, to_mapping(config))
    return {old_names.get(key, key): value for key, value in values.items()}


def _without_new_defaults(config: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the fields that version 0.1.0 did not have, where they have their default."""
    kept = {}
    for f in fields(config):
        value = getattr(config, f.name)
        default = f.default_factory() if callable(f.default_factory) else f.default
        if f.metadata.get("since") is None or value != default:
            kept[f.name] = _without_new_defaults(value, values[f.name]) if is_dataclass(value) else values[f.name]
    return kept


def with_epochs(config: TrainConfig, epochs: int) -> TrainConfig:
    """The same recipe over another number of epochs, its warm-up shortened in proportion."""
    share = config.optimizer.warmup_epochs / config.optimizer.epochs
    return replace(config, optimizer=replace(config.optimizer, epochs=epochs, warmup_epochs=share * epochs))
