"""Recipes of the objectives without labels, and of AugSelf beside them and beside labels.

A name is `METHOD[-small][-FAMILY][+augself]`: a method of `METHODS`, for ImageNet-100 or small images, with the
augmentations of a family (none named: default). Numbers are those of AugSelf (Lee et al., 2021: ImageNet-100,
ResNet-50, one set of optimiser settings for all methods) and, where that leaves one out, of the method's own paper. As
in all recipes here, biases and norms are not decayed, which the official code of AugSelf does. The families take these
numbers too; Ericsson et al. trained theirs for 200 epochs at a learning rate of 0.03.
"""

from dataclasses import replace

from imagenet_sd.training.config import (
    AugSelfConfig,
    CropsConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PhotometricConfig,
    TrainConfig,
)

FAMILIES = ("default", "spatial", "appearance")
"""Ericsson et al. (2021): all augmentations; crop and flip only; colour, grey and blur on the resized centre crop."""

# AugSelf and MoCo v2: crops of 20 to 100% of the image, jitter 0.4 0.4 0.4 0.1 with p 0.8, grey 0.2, blur 0.5 of sigma
# 0.1 to 2, flip. SwAV has two global crops there like the others.
_CROPS = CropsConfig(
    global_crops_number=2, global_crops_scale=(0.2, 1.0), local_crops_number=0, interpolation="bilinear"
)
_PHOTOMETRIC = PhotometricConfig(saturation=0.4, global_blur=0.5, local_blur=0.5, solarize=0.0)

# AugSelf: temperatures of SimCLR and MoCo 0.2, queue of 65,536, embeddings of 128 dimensions; SimSiam's projector of
# three layers (two on small images) of width 2048 and predictor 512; BYOL 4096 and 256, momentum 0.996; SwAV hidden
# width 2048, 100 prototypes, frozen for 410 of 247,000 steps, rounded up to 0.2% here. StableRep: temperature 0.1,
# projector as in SimCLR.
_OBJECTIVES = {
    "simclr": ObjectiveConfig(loss="simclr", temperature=0.2),
    "mocov2": ObjectiveConfig(loss="mocov2", temperature=0.2, memory_size=65_536),
    "byol": ObjectiveConfig(loss="byol", ema_momentum=0.996, predictor_hidden=4096),
    "simsiam": ObjectiveConfig(loss="simsiam", predictor_hidden=512),
    "swav": ObjectiveConfig(loss="swav", frozen_prototypes=0.002),
    "stablerep": ObjectiveConfig(loss="stablerep", positives="prompt"),
    "supervised": ObjectiveConfig(),
}
METHODS = tuple(_OBJECTIVES)
_PROJECTORS = {  # hidden layers, their width, dimension of the embedding
    "simclr": (1, 2048, 128),
    "mocov2": (1, 2048, 128),
    "byol": (1, 4096, 256),
    "simsiam": (2, 2048, 2048),
    "swav": (1, 2048, 128),
    "stablerep": (1, 2048, 128),
    "supervised": (0, 2048, 128),
}

# This project, for 32-pixel images and about 10,000 of them on a CPU: heads in proportion to 512 features, a queue
# shorter than the data, a faster momentum encoder for few steps, no blur (as SimCLR does on CIFAR-10).
_SMALL_OBJECTIVES = {
    "mocov2": {"memory_size": 4096, "ema_momentum": 0.99},
    "byol": {"ema_momentum": 0.98, "predictor_hidden": 512},
    "simsiam": {"predictor_hidden": 128},
    "swav": {"frozen_prototypes": 0.02},
}
_SMALL_PROJECTORS = {
    "simclr": (1, 512, 128),
    "mocov2": (1, 512, 128),
    "byol": (1, 512, 128),
    "simsiam": (1, 512, 512),
    "swav": (1, 512, 128),
    "stablerep": (1, 512, 128),
    "supervised": (0, 512, 128),
}


def _recipe(method: str, small: bool, family: str, augself: bool) -> TrainConfig:
    layers, hidden, bottleneck = (_SMALL_PROJECTORS if small else _PROJECTORS)[method]
    crops, photometric = _CROPS, _PHOTOMETRIC
    model = ModelConfig(
        zero_init_last=True,  # AugSelf
        projector_layers=layers,
        projector_hidden=hidden,
        projector_bottleneck=bottleneck,
        projector_input_l2=False,
    )
    objective = _OBJECTIVES[method]
    optimizer = OptimizerConfig(epochs=500, base_lr=0.05, warmup_epochs=0, min_lr=0.0)  # AugSelf, ImageNet-100
    rest = {"validate_every": 10}
    if small:
        crops, photometric = replace(crops, global_crop_size=32), replace(photometric, global_blur=0.0)
        model = replace(model, backbone="resnet10t", small_images=True)
        objective = replace(objective, **_SMALL_OBJECTIVES.get(method, {}))
        optimizer = OptimizerConfig(
            epochs=20, batch_size=128, base_lr=0.12, warmup_epochs=1, min_lr=0.0, weight_decay=5e-4
        )
        rest = {"validate_every": 5, "val_crop_size": 32, "virtual_workers": 8}
    if family == "appearance":
        crops = replace(crops, global_crops_scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0), horizontal_flip=0.0)
    return TrainConfig(
        name=recipe_name(method, small, family, augself),
        augmentation="pytorch" if family == "spatial" else "dino",
        crops=crops,
        photometric=photometric,
        model=model,
        objective=objective,
        augself=_augself(family, 1.0 if small else 0.5) if augself else AugSelfConfig(),
        optimizer=optimizer,
        **rest,  # pyright: ignore[reportArgumentType]
    )


def _augself(family: str, weight: float) -> AugSelfConfig:
    """The main set of tasks, crop and colour, as far as the family has them; weights 0.5 (ImageNet-100), 1 (STL10)."""
    return AugSelfConfig(crop=0.0 if family == "appearance" else weight, color=0.0 if family == "spatial" else weight)


def recipe_name(method: str, small: bool, family: str, augself: bool) -> str:
    """See the module."""
    return method + "-small" * small + (f"-{family}" if family != "default" else "") + "+augself" * augself


SELF_SUPERVISED: dict[str, TrainConfig] = {
    recipe_name(method, small, family, augself): _recipe(method, small, family, augself)
    for method in METHODS
    for small in (False, True)
    for family in FAMILIES
    for augself in (False, True)
}
