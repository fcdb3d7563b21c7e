"""Whole runs without labels: the recipes, exact resume, k-NN as the progress figure, collapse, positives."""

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.data.images import ArraySet, JoinedSet
from imagenet_sd.data.open import open_images
from imagenet_sd.data.preprocess import imagenet_preprocessing
from imagenet_sd.evaluation.config import EvalConfig
from imagenet_sd.evaluation.probes.simple import knn_scores
from imagenet_sd.pipeline import evaluate, train
from imagenet_sd.training.config import RECIPES, TrainConfig, TrainingError
from imagenet_sd.training.data import TrainStream, in_pairs
from imagenet_sd.training.export import load_run
from imagenet_sd.training.knn import KnnValidator
from imagenet_sd.training.loop import COLLAPSED, Trainer
from imagenet_sd.training.model import EncoderWithHead, make_encoder, num_features
from imagenet_sd.training.objectives import OBJECTIVES
from imagenet_sd.training.objectives.self_supervised import SelfSupervised, embedding_spread
from imagenet_sd.training.optim import peak_rate, set_learning_rate
from imagenet_sd.training.photometric import normalize, to_float
from imagenet_sd.training.recipes import load_train_config
from imagenet_sd.training.runlog import plot_curves, read_metrics
from imagenet_sd.training.self_supervised import METHODS, SELF_SUPERVISED, recipe_name
from tests.training.test_loop import epochs, image_folder, interrupt_at, losses

QUICK = ["model.backbone=test_resnet", "optimizer.epochs=2", "optimizer.batch_size=20", "optimizer.warmup_epochs=0"]
WITHOUT_LABELS = METHODS[:-1]


def quick(name: str, *settings: str) -> TrainConfig:
    positives = ["objective.positives=class"] if name.startswith("stablerep") else []
    return load_train_config(name, [*QUICK, *positives, *settings])


@pytest.mark.parametrize("name", [f"{m}-small" for m in WITHOUT_LABELS] + ["mocov2-small+augself"])
def test_interrupted_and_resumed_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    """Weights, momentum networks, queue, prototypes and momenta, after 3 of 10 steps."""
    settings = ["objective.memory_size=64", "crops.local_crops_number=1", "crops.local_crop_size=16"]
    if "byol" in name:
        settings += ["optimizer.accumulation_steps=2"]
    config, whole, run = quick(name, *settings), tmp_path / "whole", tmp_path / "run"
    train(config, "builtin:faces", whole)
    interrupt_at(2, monkeypatch)
    assert not train(config, "builtin:faces", run)["finished"]
    assert losses(run) == losses(whole)[:3]
    assert train(config, "builtin:faces", run)["finished"]
    assert losses(run) == losses(whole) and len(losses(run)) == 10
    assert epochs(run) == epochs(whole) and all("embedding_spread" in facts for facts in epochs(run))
    for file in ("encoder.safetensors", "head.safetensors", "checkpoint.safetensors"):
        one, two = load_file(whole / file), load_file(run / file)
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one), file
    assert not (run / "classifier.safetensors").exists()


def test_a_run_without_labels_is_followed_by_its_neighbours(tmp_path: Path):
    config = quick("simclr-small", "validate_every=1")
    result = train(config, "builtin:faces", tmp_path / "run", validation="builtin:faces")
    epochs = [x for x in read_metrics(tmp_path / "run" / "metrics.jsonl") if "epoch" in x]
    assert [x["knn_top1"] for x in epochs][-1] == result["knn_top1"] > 0.6 and "val_top1" not in result
    assert all(0.05 < x["embedding_spread"] <= 1 for x in epochs)
    encoder, head, classes, size = load_run(tmp_path / "run")
    assert head is None and size == 32 and len(classes) == 2
    real = open_images("builtin:faces", "test"), open_images("builtin:faces", "train")
    features = {}
    for name, images in zip(("test", "train"), real, strict=True):
        shown = imagenet_preprocessing(32)
        pixels = [shown.crop(images.read_group(g)[0].decode()) for g in range(len(images.group_sizes))]
        with torch.no_grad():
            x = encoder(normalize(to_float(torch.from_numpy(np.stack(pixels)))))
        features[name] = torch.nn.functional.normalize(x, dim=1).numpy()
    votes = knn_scores(features["train"], real[1].labels, features["test"], 2)  # that of the evaluation, in NumPy
    assert (votes.argmax(1) == real[0].labels).mean() == pytest.approx(result["knn_top1"], abs=0.011)
    with pytest.raises(ImagenetSDError, match="classifier"):
        evaluate(str(tmp_path / "run"), {"faces": "builtin:faces"}, EvalConfig(suite="imagenet"))
    plot_curves([{"step": 0, "loss": 1.0}, {"epoch": 1, "knn_top1": 0.5}], tmp_path / "with.png")
    plot_curves([{"step": 0, "loss": 1.0}, {"epoch": 1}], tmp_path / "without.png")
    pictures = [
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")).astype(int) for name in ("with", "without")
    ]
    right = [picture[:, picture.shape[1] // 2 :] for picture in pictures]
    assert (right[0] < 128).sum() > 4 * (right[1] < 128).sum()  # axes, a point and its label, or a title only


def test_neighbours_match_classes_by_id():
    """Training knows b, c, x; the real set has c, a, b: images of a are left out, votes for x do not count."""
    rng = np.random.default_rng(0)
    colours = {"a": (0, 0, 0), "b": (250, 0, 0), "c": (0, 250, 0), "x": (0, 0, 250)}

    def images_of(classes: tuple[str, ...], names: str) -> ArraySet:
        pixels = np.array([np.full((32, 32, 3), colours[name]) for name in names])
        pixels = (pixels + rng.integers(0, 5, pixels.shape)).astype(np.uint8)
        return ArraySet("set", pixels, np.array([classes.index(name) for name in names]), classes)

    encoder = make_encoder(quick("simclr-small").model)
    model = EncoderWithHead(encoder, torch.nn.Identity()).train()
    validator = KnnValidator(images_of(("c", "a", "b"), "ccabb"), images_of(("b", "c", "x"), "bbbcccxxx"), 32)
    result = validator(model, torch.device("cpu"))
    assert (result.top1, result.num_images, result.common) == (1.0, 4, ("b", "c")) and model.training
    few = KnnValidator(images_of(("c",), "cc"), images_of(("b", "c"), "bc" * 50), 32, bank=10)
    assert len(few.bank.images.group_sizes) == 10


class PullTogether(SelfSupervised):
    """Everything towards everything: the constant embedding is its solution."""

    def __init__(self, encoder: torch.nn.Module, num_classes: int, config: TrainConfig):
        super().__init__(torch.nn.Linear(num_features(encoder), 8))

    def loss(self, outputs: torch.Tensor, views: object) -> torch.Tensor:
        self.spread = embedding_spread(outputs)
        unit = torch.nn.functional.normalize(outputs, dim=1)
        return 1 - (unit @ unit.T).mean()


def test_a_collapse_is_an_error_of_its_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(OBJECTIVES, "simclr", PullTogether)
    config = quick("simclr-small", "optimizer.epochs=9", "optimizer.base_lr=10")
    with pytest.raises(TrainingError, match=r"the embeddings have collapsed in epoch \d+: the standard deviation"):
        train(config, "builtin:faces", tmp_path / "run")
    spreads = [x["embedding_spread"] for x in read_metrics(tmp_path / "run" / "metrics.jsonl") if "epoch" in x]
    assert 1 <= len(spreads) < 9 and min(spreads) >= COLLAPSED


def test_rows_of_one_key_come_in_pairs():
    rows = [(0, i) for i in range(9)]
    keys = ["a", "b", "a", "c", "a", "b", "d", "a", "a"]
    arranged = in_pairs(rows, keys)
    assert [keys[r] for _, r in arranged] == ["a", "a", "b", "b", "a", "a", "c", "d", "a"]
    assert sorted(arranged) == rows


def test_positives_are_the_images_of_one_prompt(small_dataset: Path):
    """On a generated dataset: equal positives where the prompts are equal, which is what the plan says."""
    from imagenet_sd.storage.dataset import Dataset

    prompts = {r.image_id: r.prompt.text for s in Dataset.open(small_dataset).plan.shards()
               for r in Dataset.open(small_dataset).plan.requests(s)}  # fmt: skip
    images = open_images(str(small_dataset))
    config = quick("stablerep-small", "objective.positives=prompt", "optimizer.batch_size=10", "virtual_workers=1")
    batches = list(TrainStream(images, config, 0, 1).batches(0, 0, 0))
    seen, pairs_together = {}, 0
    for batch in batches:
        for image_id, positive in zip(batch.image_ids, batch.positives.tolist(), strict=True):
            assert seen.setdefault(prompts[image_id], positive) == positive
        pairs_together += len(batch) - len(set(batch.positives.tolist()))
    assert len(set(seen.values())) == len(seen) > 1 and pairs_together >= 3 * len(batches)
    rest = list(TrainStream(images, config, 0, 1).batches(0, 1, 0))
    assert [b.image_ids for b in rest] == [b.image_ids for b in batches[1:]]
    with pytest.raises(TrainingError, match="builtin:faces names no prompts"):
        TrainStream(open_images("builtin:faces"), config, 0, 1)  # before a data worker starts


def test_positives_of_joined_sets(small_dataset: Path, tmp_path: Path):
    """Files of the same names in two folders are different images; prompts come through, their lack is named."""
    folders = [image_folder(tmp_path / name, ("a", "b"), 10) for name in ("one", "two")]
    joined = JoinedSet(*(open_images(f"imagefolder:{folder}") for folder in folders))
    config = quick("simclr-small", "optimizer.batch_size=40", "optimizer.warmup_epochs=0")
    (batch,) = TrainStream(joined, config, 0, 1).batches(0, 0, 0)
    assert len(set(batch.image_ids)) == len(set(batch.positives.tolist())) == 40
    generated = open_images(str(small_dataset))
    twice = JoinedSet(generated, generated)
    records = [x for group in range(len(twice.group_sizes)) for x in twice.read_group(group)]
    half = len(records) // 2
    assert all(x.prompt for x in records) and len({x.image_id for x in records}) == 2 * half
    assert [x.prompt for x in records[:half]] == [x.prompt for x in records[half:]]
    by_prompt = quick("stablerep-small", "objective.positives=prompt", "optimizer.batch_size=10", "virtual_workers=1",
                      "shuffle_window=100")  # fmt: skip
    batches = list(TrainStream(twice, by_prompt, 0, 1).batches(0, 0, 0))
    assert all(len(set(b.positives.tolist())) <= 5 for b in batches)
    with pytest.raises(TrainingError, match=r"imagefolder:.* \+ imagefolder:.* names no prompts"):
        TrainStream(joined, by_prompt, 0, 1)


def test_one_reader_for_several_epochs_gives_each_epoch_as_before():
    stream = TrainStream(open_images("builtin:faces"), quick("simclr-small"), 0, 1)
    together = [b.image_ids for b in stream.batches(0, 3, 0, epochs=3)]
    apart = [b.image_ids for epoch, first in ((0, 3), (1, 0), (2, 0)) for b in stream.batches(epoch, first, 0)]
    assert together == apart and len(together) == 12


def test_the_rate_of_simsiams_predictor_is_constant():
    """At the last step of a cosine to 0 it has the peak; all else has next to nothing (section 4.2 of SimSiam)."""
    for name in ("simsiam-small", "simsiam-small+augself", "byol-small"):
        config = load_train_config(name, ["model.backbone=test_resnet", "optimizer.batch_size=20"])
        trainer = Trainer(config, open_images("builtin:faces", "train"), Path(), log_with="none")
        set_learning_rate(trainer.optimizer, 20 * 5 - 1, 5, config.optimizer)
        rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
        head = getattr(trainer.objective, "base", trainer.objective).head
        predictor = {id(p) for p in head.predictor.parameters()} if "simsiam" in name else set()
        assert len(rates) == len(list(trainer.model.parameters()))
        for key, rate in rates.items():
            assert rate == (peak_rate(config.optimizer) if key in predictor else pytest.approx(0, abs=1e-4)), name


def test_names_of_recipes():
    assert len(SELF_SUPERVISED) == 7 * 2 * 3 * 2 and not SELF_SUPERVISED.keys() & RECIPES.keys()
    for method in WITHOUT_LABELS:
        for name in (method, f"{method}+augself", f"{method}-small", f"{method}-small+augself"):
            assert load_train_config(name).name == name and load_train_config(name).objective.loss == method
    with pytest.raises(TrainingError, match="no training recipe 'simclr-big'"):
        load_train_config("simclr-big")


def test_what_augself_says_of_imagenet_100():
    """Table and appendix of AugSelf, and its code, for all methods."""
    for method in METHODS:
        r = load_train_config(f"{method}+augself")
        o = r.optimizer
        assert (o.epochs, o.batch_size, o.base_lr, o.weight_decay, o.momentum) == (500, 256, 0.05, 1e-4, 0.9)
        assert r.model.backbone == "resnet50" and r.model.zero_init_last
        assert r.augself.tasks == {"crop": 0.5, "color": 0.5}
        assert (r.crops.global_crops_number, r.crops.local_crops_number) == (2, 0)
        assert r.crops.global_crops_scale == (0.2, 1.0) and r.crops.horizontal_flip == 0.5
        p = r.photometric
        assert (p.brightness, p.contrast, p.saturation, p.hue, p.jitter_probability) == (0.4, 0.4, 0.4, 0.1, 0.8)
        assert (p.grayscale, p.global_blur, p.blur_radius, p.solarize) == (0.2, 0.5, (0.1, 2.0), 0.0)
        assert not load_train_config(method).augself.tasks
        assert set(load_train_config(f"{method}-small+augself").augself.tasks.values()) == {1.0}
    o = {method: load_train_config(method).objective for method in METHODS}
    m = {method: load_train_config(method).model for method in METHODS}
    assert (o["simclr"].temperature, o["mocov2"].temperature, o["swav"].temperature) == (0.2, 0.2, 0.1)
    assert (o["mocov2"].memory_size, o["mocov2"].ema_momentum, m["mocov2"].projector_bottleneck) == (65536, 0.999, 128)
    assert (m["byol"].projector_hidden, m["byol"].projector_bottleneck, o["byol"].ema_momentum) == (4096, 256, 0.996)
    assert (m["simsiam"].projector_layers, m["simsiam"].projector_hidden, o["simsiam"].predictor_hidden) == (
        2,
        2048,
        512,
    )
    assert (o["swav"].prototypes, o["swav"].sinkhorn_epsilon, o["swav"].sinkhorn_iterations) == (100, 0.05, 3)


def test_the_families():
    default, spatial, appearance = (load_train_config(f"mocov2{x}+augself") for x in ("", "-spatial", "-appearance"))
    assert spatial.augmentation == "pytorch" and spatial.crops == default.crops
    assert spatial.augself.tasks == {"crop": 0.5} and appearance.augself.tasks == {"color": 0.5}
    assert appearance.photometric == default.photometric and appearance.crops.horizontal_flip == 0
    unchanged = {f.name for f in fields(default)} - {"name", "augmentation", "crops", "augself"}
    for family in (spatial, appearance):
        assert all(getattr(family, name) == getattr(default, name) for name in unchanged)
    from imagenet_sd.training.crops import MultiCrop

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8))
    small = replace(appearance.crops, global_crop_size=50)
    crops = MultiCrop(small, appearance.photometric, 0)(picture, 0, "x")
    centre = np.asarray(picture)[:, 15:65].transpose(2, 0, 1)
    assert np.array_equal(crops.global_crops[0], centre) and np.array_equal(crops.global_crops[1], centre)
    assert crops.geometry[:, :5].tolist() == [[0.5, 0.5, 1.0, 0.625, 0.0]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("augself", [False, True], ids=["alone", "augself"])
@pytest.mark.parametrize(
    ("method", "small", "family"),
    [(method, small, "default") for method in METHODS for small in (True, False)]
    + [("simsiam", small, family) for small in (True, False) for family in ("spatial", "appearance")],
)
def test_every_recipe_trains_on_500_images(tmp_path: Path, method: str, small: bool, family: str, augself: bool):
    """With a small backbone and, for the large recipes, small crops and heads, and a rate for a few dozen steps.

    The families change the crops alone, for every method in the same way.
    """
    settings = ["model.backbone=test_resnet", "optimizer.epochs=3", "optimizer.warmup_epochs=0",
                "optimizer.batch_size=50", "objective.memory_size=128"]  # fmt: skip
    if not small:
        settings += ["crops.global_crop_size=32", "model.projector_hidden=64", "model.projector_bottleneck=32"]
        settings += ["objective.predictor_hidden=32", "val_crop_size=32", "model.small_images=true"]
    settings += ["objective.positives=class"] if method == "stablerep" else []
    if method == "mocov2":
        settings += ["objective.ema_momentum=0.9", "objective.memory_size=100", "optimizer.epochs=5"]
    name = recipe_name(method, small, family, augself)
    train(load_train_config(name, settings), "builtin:mnist@per_class=50", tmp_path / "run")
    curve = losses(tmp_path / "run")
    start = 3 if method == "mocov2" else 0  # its queue is random at first
    assert len(curve) == (50 if method == "mocov2" else 30) and np.mean(curve[-6:]) < np.mean(curve[start : start + 6])
    assert json.loads((tmp_path / "run" / "result.json").read_text())["finished"]


def on_two_processes(recipe: str, settings: list[str], run: Path) -> None:
    """A run on faces, of two gloo processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "imagenet_sd", "train", "builtin:faces", "--recipe", recipe]
    command += ["--out", str(run), *(word for s in settings for word in ("--set", s))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_augself_trains_its_networks_on_two_processes(tmp_path: Path):
    """They run outside of the wrapped forward pass, and are trained all the same."""
    settings = ["model.backbone=test_resnet", "optimizer.epochs=2", "optimizer.warmup_epochs=0",
                "optimizer.batch_size=20", "virtual_workers=4"]  # fmt: skip
    on_two_processes("simclr-small+augself", settings, tmp_path / "two")
    curve = losses(tmp_path / "two")
    assert len(curve) == 10 and np.isfinite(curve).all()
    torch.manual_seed(0)
    config = load_train_config("simclr-small+augself", settings)
    fresh = Trainer(config, open_images("builtin:faces", "train"), tmp_path, log_with="none").model.head.state_dict()
    trained = load_file(tmp_path / "two" / "head.safetensors")
    moved = {key for key, value in trained.items() if not torch.equal(value, fresh[key].cpu())}
    assert {key.split(".")[0] for key in moved} == {"base", "tasks"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", "mocov2", "swav"])
def test_two_processes_follow_one(tmp_path: Path, method: str):
    """Without batch norm, negatives, queue and codes of the whole batch give one loss curve, also on two processes."""
    settings = ["model.backbone=test_vit", "model.small_images=false", "model.projector_layers=0", "virtual_workers=4",
                "crops.global_crop_size=160", "optimizer.epochs=1", "optimizer.warmup_epochs=0",
                "optimizer.base_lr=0.5", "optimizer.batch_size=8", "objective.memory_size=20"]  # fmt: skip
    train(load_train_config(f"{method}-small", settings), "builtin:faces", tmp_path / "one")
    on_two_processes(f"{method}-small", settings, tmp_path / "two")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 12 and max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-3
    a, b = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("one", "two"))
    assert all(torch.allclose(a[key].float(), b[key].float(), atol=1e-3) for key in a)
