import hashlib
import json
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from imagenet_sd.core.typed import SettingsError, to_mapping
from imagenet_sd.training.config import RECIPES, ObjectiveConfig, TrainingError, recorded
from imagenet_sd.training.objectives import OBJECTIVES
from imagenet_sd.training.optim import learning_rate
from imagenet_sd.training.recipes import load_train_config


@pytest.mark.parametrize("name", ["t-rex", "t-rex-star"])
def test_what_tab_c1_says_of_all_models(name: str):
    r = RECIPES[name]
    o, c = r.optimizer, r.crops
    assert (o.base_lr, o.warmup_epochs, o.weight_decay, o.momentum, o.batch_size, o.epochs) == (
        0.1,
        10,
        1e-4,
        0.9,
        256,
        100,
    )
    assert r.sync_batchnorm and r.precision == "auto"
    assert (r.model.backbone, r.objective.temperature, r.augmentation) == ("resnet50", 0.1, "dino")
    assert (c.global_crops_number, c.local_crops_number, c.global_crop_size, c.local_crop_size) == (1, 8, 224, 96)
    assert (r.model.projector_hidden, r.model.projector_bottleneck, r.model.projector_input_l2) == (2048, 256, True)
    assert (r.objective.loss, r.objective.memory_size) == ("ocm", 8192)


def test_what_tab_c1_says_of_each():
    trex, star = RECIPES["t-rex"], RECIPES["t-rex-star"]
    assert (trex.model.projector_layers, star.model.projector_layers) == (3, 1)
    assert (trex.crops.global_crops_scale, trex.crops.local_crops_scale) == ((0.25, 1), (0.05, 0.25))
    assert (star.crops.global_crops_scale, star.crops.local_crops_scale) == ((0.4, 1), (0.05, 0.4))


def test_imagenet_sd_follows_the_implementation_details():
    """Thesis 5.5: ResNet50, 100 epochs, SGD 0.9, batch 256, 10% warm-up, cosine, DINO with 1 + 8 crops."""
    r = RECIPES["imagenet-sd"]
    assert r.optimizer.warmup_epochs / r.optimizer.epochs == 0.1
    assert (r.objective.loss, r.model.projector_layers, r.crops.local_crops_number) == ("cross_entropy", 0, 8)


@pytest.mark.parametrize("name", ["t-rex", "imagenet-sd", "small"])
def test_learning_rate_in_closed_form(name: str):
    o, steps = RECIPES[name].optimizer, 500
    peak, warmup, total = o.base_lr * o.batch_size / 256, round(o.warmup_epochs * 500), o.epochs * 500
    half = warmup + (total - warmup) // 2
    assert learning_rate(0, steps, o) == 0
    assert learning_rate(warmup, steps, o) == pytest.approx(peak, rel=1e-12)
    assert learning_rate(warmup // 2, steps, o) == pytest.approx(peak / 2, rel=1e-12)
    assert learning_rate(half, steps, o) == pytest.approx((peak + o.min_lr) / 2, rel=1e-9)
    assert learning_rate(total, steps, o) == pytest.approx(o.min_lr, rel=1e-9)
    s = half + 77
    expected = o.min_lr + (peak - o.min_lr) * 0.5 * (1 + math.cos(math.pi * (s - warmup) / (total - warmup)))
    assert learning_rate(s, steps, o) == pytest.approx(expected, rel=1e-12)


def digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


def test_settings_and_files_change_single_values(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: t-rex\nmodel: {projector_layers: 2}\ncrops:\n  local_crops_scale: [0.1, 0.3]\n")
    config = load_train_config(str(path), ["optimizer.base_lr=0.2", "precision=float32", "optimizer.epochs=20"])
    assert (config.model.projector_layers, config.crops.local_crops_scale) == (2, (0.1, 0.3))
    assert (config.optimizer.base_lr, config.precision, config.optimizer.epochs) == (0.2, "float32", 20)
    assert config.objective.loss == "ocm"


def test_names_of_version_0_1_0_are_still_read(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: small\nlanes: 4\nwindow: 3\n")
    config = load_train_config(str(path), ["eval_size=48"])
    assert (config.virtual_workers, config.shuffle_window, config.val_crop_size) == (4, 3, 48)
    assert config == load_train_config("small", ["virtual_workers=4", "shuffle_window=3", "val_crop_size=48"])


def test_digests_of_old_studies_stay():
    """The hash of `small` that version 0.1.0 put into the stamps of its studies."""
    config = RECIPES["small"]
    assert digest(recorded(config)) == "f7328c6a6a64a7f2" != digest(to_mapping(config))


def test_every_objective_can_be_asked_for():
    assert get_args(get_type_hints(ObjectiveConfig)["loss"]) == tuple(OBJECTIVES)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.lr=1", r"optimizer\.lr is no known key"),
        ("optimizer.epochs=many", r"optimizer\.epochs is 'many'"),
        ("nothing", "has no '='"),
        ("objective.loss=ocm", "needs a projector"),
        ("crops.global_crops_scale=[0.5]", "has 1 values"),
        ("optimizer.warmup_epochs=200", "warmup_epochs"),
        ("validate_every=0", "validate_every must be at least 1"),
        ("optimizer.momentum=-1", r"optimizer\.momentum must be at least 0"),
        ("model.projector_layers=1000000000", r"model\.projector_layers must be at most 16"),
        ("model.projector_hidden=100000", r"model\.projector_hidden must be at most 65,536"),
        ("optimizer.weight_decay=-1", r"optimizer\.weight_decay must be at least 0"),
        ("optimizer.nesterov=true optimizer.momentum=0", r"optimizer\.nesterov needs an optimizer\.momentum above 0"),
        ("objective.label_smoothing=2", r"objective\.label_smoothing must be in \[0, 1\]"),
        ("objective.loss=mocov2 objective.memory_size=0", r"objective\.memory_size must be at least 1"),
        ("objective.loss=swav objective.sinkhorn_iterations=0", r"objective\.sinkhorn_iterations must be at least 1"),
        ("objective.loss=swav objective.prototypes=1", r"objective\.prototypes must be at least 2"),
        ("objective.sinkhorn_epsilon=0", r"objective\.sinkhorn_epsilon must be at least 0\.025"),
        ("objective.frozen_prototypes=1.5", r"objective\.frozen_prototypes must be in \[0, 1\]"),
        ("objective.loss=byol objective.predictor_hidden=0", r"objective\.predictor_hidden must be at least 1"),
        ("augself.crop=-1", r"augself\.crop must be at least 0"),
        ("augself.hidden=0", r"augself\.hidden must be at least 1"),
        ("augself.hidden=100000", r"augself\.hidden must be at most 65,536"),
        ("crops.aspect_ratio=[0,1]", r"crops\.aspect_ratio must satisfy 0 < low <= high"),
    ],
)
def test_a_wrong_setting_names_its_key(setting: str, message: str):
    with pytest.raises((SettingsError, TrainingError), match=message):
        load_train_config("imagenet-sd", setting.split())
