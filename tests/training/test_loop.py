"""Whole runs, small and real: exact resume, many processes, matching by class id, what a run leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from imagenet_sd.data.images import ArraySet
from imagenet_sd.data.open import open_images
from imagenet_sd.pipeline import train
from imagenet_sd.training.config import TrainConfig, TrainingError, recorded
from imagenet_sd.training.data import TrainStream
from imagenet_sd.training.export import load_run
from imagenet_sd.training.loop import Trainer
from imagenet_sd.training.model import num_features
from imagenet_sd.training.objectives import OBJECTIVES
from imagenet_sd.training.objectives.base import Objective
from imagenet_sd.training.recipes import load_train_config
from imagenet_sd.training.runlog import RunLog, read_metrics
from imagenet_sd.training.validate import Validator
from imagenet_sd.training.views import Views
from tests.conftest import CliRun

QUICK = ["optimizer.epochs=2", "optimizer.batch_size=20", "optimizer.warmup_epochs=1", "optimizer.base_lr=0.5"]
OCM = ["objective.loss=ocm", "model.projector_layers=1", "model.projector_hidden=32", "model.projector_bottleneck=16"]
OCM += ["objective.memory_size=64", "crops.local_crops_number=2", "crops.local_crop_size=16"]


def quick(*settings: str) -> TrainConfig:
    return load_train_config("small", [*QUICK, *settings])


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def losses(run: Path) -> list[float]:
    return [x["loss"] for x in read_metrics(run / "metrics.jsonl") if "step" in x]


def epochs(run: Path) -> list[dict[str, float]]:
    """What is known of each epoch, but for its speed."""
    facts = [x for x in read_metrics(run / "metrics.jsonl") if "epoch" in x]
    return [{k: v for k, v in x.items() if k not in ("images_per_second", "data_wait_share")} for x in facts]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{k}": v
        for name in ("encoder", "classifier")
        for k, v in load_file(run / f"{name}.safetensors").items()
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Wait, for a minute at most, until the process has written a file."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def image_folder(folder: Path, classes: tuple[str, ...], count: int) -> Path:
    """`count` images of 32 x 32 pixels per class."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "a"
    train(quick(), "builtin:faces", run, validation="builtin:faces")
    return run


def test_a_run_leaves_everything_behind(finished: Path):
    import timm

    encoder = timm.create_model("resnet10t", num_classes=0)
    encoder.load_state_dict(load_file(finished / "encoder.safetensors"), strict=True)
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    assert recipe["train"]["optimizer"]["epochs"] == 2 and recipe["data"] == "builtin:faces"
    assert json.loads((finished / "classes.json").read_text()) == ["n05600637", "not-a-face"]
    assert json.loads((finished / "environment.json").read_text())["torch"] == torch.__version__
    assert list((finished / "tensorboard").iterdir())
    assert Image.open(finished / "curves.png").size[0] > 800
    metrics = read_metrics(finished / "metrics.jsonl")
    assert [x["step"] for x in metrics if "step" in x] == list(range(10))
    epochs = [x for x in metrics if "epoch" in x]
    assert [x["epoch"] for x in epochs] == [1, 2] and epochs[1]["val_images"] == 100
    assert 0 <= epochs[1]["data_wait_share"] <= 1 and epochs[1]["images_per_second"] > 0
    result = json.loads((finished / "result.json").read_text())
    assert result["finished"] and result["val_top1"] == epochs[1]["val_top1"]


def test_a_finished_run_is_left_alone_and_another_refused(finished: Path):
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert train(quick(), "builtin:faces", finished, validation="builtin:faces")["finished"]
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before
    with pytest.raises(TrainingError, match=r"train\.optimizer\.base_lr: 0\.5 there, 0\.25 asked for"):
        train(quick("optimizer.base_lr=0.25"), "builtin:faces", finished, validation="builtin:faces")


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes to this process while it logs that step."""
    log = RunLog.step

    def log_and_interrupt(self: RunLog, number: int, loss: float, rate: float) -> None:
        log(self, number, loss, rate)
        if number == step:
            monkeypatch.setattr(RunLog, "step", log)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(RunLog, "step", log_and_interrupt)


def as_version_0_1_0(run: Path, config: TrainConfig) -> None:
    """Give an interrupted run the names and counters that version 0.1.0 wrote."""
    with safe_open(run / "checkpoint.safetensors", "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    counters = json.loads(metadata["counters"])
    metadata["counters"] = json.dumps({name: counters[name] for name in ("epoch", "step", "bad_images")})
    names = {"objective": "ocm", "ema_model": "averaged"}
    split = [(*key.partition("/"), value) for key, value in tensors.items()]
    old = {names.get(module, module) + slash + rest: value for module, slash, rest, value in split}
    assert {key.split("/")[0] for key in old} == {"model", "ocm", "averaged", "momentum"}
    save_file(old, run / "checkpoint.safetensors", metadata)
    description = yaml.safe_load((run / "recipe.yaml").read_text())
    assert "zero_init_last" not in recorded(config)["model"]  # it came later
    (run / "recipe.yaml").write_text(yaml.safe_dump(description | {"train": recorded(config)}))


@pytest.mark.parametrize("extra", [[], [*OCM, "ema_weights=0.9"]], ids=["cross-entropy", "ocm"])
def test_interrupted_anywhere_and_resumed_gives_the_same_bits(
    tmp_path: Path, extra: list[str], finished: Path, monkeypatch: pytest.MonkeyPatch
):
    config, run, whole = quick(*extra), tmp_path / "run", finished
    if extra:
        whole = tmp_path / "whole"
        train(config, "builtin:faces", whole, validation="builtin:faces")
    for stop_at in (2, 4, 8, 9):  # in the first epoch, at its end, in the second, at its end
        interrupt_at(stop_at, monkeypatch)
        assert not train(config, "builtin:faces", run, validation="builtin:faces")["finished"]
        assert losses(run) == losses(whole)[: stop_at + 1]
        if extra and stop_at == 4:
            as_version_0_1_0(run, config)
    assert train(config, "builtin:faces", run, validation="builtin:faces")["finished"]
    assert same(weights(run), weights(whole))
    assert losses(run) == losses(whole)
    expected = epochs(whole)
    if extra:
        del expected[0]["loss"]  # version 0.1.0 forgot it
    assert epochs(run) == expected and len(expected) == 2
    assert load_run(run)[3] == 32


def test_sigterm_saves_and_exits(tmp_path: Path, finished: Path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "imagenet_sd", "train", "builtin:faces", "--recipe", "small", "--out", str(run)]
    command += ["--val", "builtin:faces", *[word for s in QUICK for word in ("--set", s)]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    wait_for(run / "metrics.jsonl", process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and "interrupted and saved" in out
    assert (run / "checkpoint.safetensors").exists() and not (run / "result.json").exists()
    assert len(losses(run)) < 10
    assert train(quick(), "builtin:faces", run, validation="builtin:faces")["finished"]
    assert same(weights(run), weights(finished))


class TwoViews(Objective):
    """An objective that the loop has never heard of: pull two views of an image together, without labels."""

    global_crops = 2

    def __init__(self, encoder: torch.nn.Module, num_classes: int, config: TrainConfig):
        super().__init__(torch.nn.Linear(num_features(encoder), 8), torch.nn.Module())
        self.state.register_buffer("steps", torch.zeros(4, dtype=torch.long))  # before, loss, gradients, after

    def before_step(self, encoder: torch.nn.Module) -> None:
        assert torch.equal(*self.state.steps[[0, 3]]) and self.progress == pytest.approx(self.state.steps[0] / 5)
        self.state.steps[0] += 1

    def loss(self, outputs: torch.Tensor, views: Views) -> torch.Tensor:
        self.state.steps[1] += 1
        one, two = outputs.chunk(2)
        assert len(one) == len(views.labels) == 5 and views.parameters.shape == (5, 2, 11)
        return 1 - torch.nn.functional.cosine_similarity(one, two).mean()

    def after_backward(self) -> None:
        assert self.state.steps[1] == 4 * self.state.steps[0] and self.head.weight.grad is not None
        self.before = self.head.weight.detach().clone()
        self.state.steps[2] += 1

    def after_step(self) -> None:
        assert not torch.equal(self.head.weight, self.before)
        self.state.steps[3] += 1


def test_the_loop_trains_whatever_objective_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Hooks come once per optimiser step, however many chunks a batch has; the state is in the checkpoint."""
    monkeypatch.setitem(OBJECTIVES, "two_views", TwoViews)
    config = quick(
        "optimizer.epochs=1", "optimizer.warmup_epochs=0", "optimizer.accumulation_steps=4", "model.projector_layers=1"
    )
    config = replace(config, objective=replace(config.objective, loss="two_views"))
    with pytest.raises(TrainingError, match="two_views needs 2 global crops of an image, not 1"):
        train(config, "builtin:faces", tmp_path)
    config = replace(config, crops=replace(config.crops, global_crops_number=2))
    assert train(config, "builtin:faces", tmp_path / "run")["finished"]
    kept = load_file(tmp_path / "run" / "checkpoint.safetensors")
    assert kept["objective/steps"].tolist() == [5, 20, 5, 5]
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]


@pytest.mark.parametrize("local_crops", [0, 2], ids=["Base", "Base+Mc"])
def test_the_models_without_a_projector_train(local_crops: int, tmp_path: Path):
    """Thesis Tab. 4.1: the cosine softmax on unit-length features, without and with multi-crop."""
    crops = [f"crops.local_crops_number={local_crops}", "crops.local_crop_size=16", "optimizer.base_lr=0.1"]
    train(quick("objective.loss=cosine_softmax", "optimizer.epochs=3", *crops), "builtin:faces", tmp_path / "run")
    curve = losses(tmp_path / "run")
    assert sum(curve[-5:]) < 0.8 * sum(curve[:5])
    _, head, classes, _ = load_run(tmp_path / "run")
    assert [tuple(p.shape) for p in head.parameters()] == [(len(classes), 512)]


@pytest.mark.slow
def test_two_processes_follow_one(tmp_path: Path):
    """The same global batches on two gloo processes: a backbone without batch norm gives the same loss curve.

    Of 96 images 4 cannot be read, some by each process.
    """
    settings = [
        "model.backbone=test_vit",
        "model.small_images=false",
        "crops.global_crop_size=160",
        "val_crop_size=160",
    ]
    settings += ["optimizer.epochs=1", "optimizer.warmup_epochs=0", "optimizer.base_lr=0.05", "optimizer.batch_size=8"]
    settings += ["optimizer.weight_decay=0", "photometric.jitter_probability=1", "bad_image_limit=0.05"]
    folder, config = image_folder(tmp_path / "images", ("a", "b"), 48), load_train_config("small", settings)
    for name in ("a/0", "a/1", "b/2", "b/3"):
        (folder / f"{name}.png").write_bytes(b"no image")
    data = f"imagefolder:{folder}"
    streams = [TrainStream(open_images(data, "train"), config, rank, 2) for rank in range(2)]
    assert all(any(batch.bad for batch in stream.batches(0, 0, 0)) for stream in streams)
    train(config, data, tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "imagenet_sd", "train", data, "--recipe", "small", "--out", str(tmp_path / "two")]
    command += [word for s in settings for word in ("--set", s)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2
    assert [epochs(tmp_path / run)[0]["bad_images"] for run in ("one", "two")] == [4, 4]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 12
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4


def test_accumulation_follows_the_whole_batch(tmp_path: Path):
    settings = ["model.backbone=test_vit", "model.small_images=false", "crops.global_crop_size=160"]
    settings += ["optimizer.epochs=1", "optimizer.warmup_epochs=0", "optimizer.base_lr=0.05"]
    for count in (1, 3):
        config = quick(*settings, f"optimizer.accumulation_steps={count}")
        train(config, "builtin:faces", tmp_path / str(count))
    pairs = zip(losses(tmp_path / "1"), losses(tmp_path / "3"), strict=True)
    assert max(abs(a - b) for a, b in pairs) < 1e-4


def test_a_loss_that_is_no_number_names_step_and_images(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+, images builtin:faces/\d+"):
        train(quick("optimizer.base_lr=1e12"), "builtin:faces", tmp_path / "run")


@pytest.mark.parametrize("bad", [1, 2])
def test_too_many_bad_images_are_an_error(tmp_path: Path, bad: int, capsys: pytest.CaptureFixture):
    folder = image_folder(tmp_path / "images", ("a", "b"), 30)
    for number in range(bad):
        (folder / "a" / f"{number}.png").write_bytes(b"no image")
    config = quick("bad_image_limit=0.015", "optimizer.epochs=1", "optimizer.warmup_epochs=0")  # of 60, 1 may be bad
    if bad == 1:
        result = train(config, f"imagefolder:{folder}", tmp_path / "run")
        assert result["bad_images"] == 1
        from imagenet_sd.cli.training import _print_summary

        _print_summary(result)
        assert "1 image skipped, unreadable" in capsys.readouterr().out
    else:
        with pytest.raises(TrainingError, match=r"2 images of imagefolder:.* cannot be read, such as a/\d"):
            train(config, f"imagefolder:{folder}", tmp_path / "run")


def test_an_unreadable_image_counts_once_and_a_run_that_goes_on_after_it_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = image_folder(tmp_path / "images", ("a", "b"), 30)
    data, config = f"imagefolder:{folder}", quick("model.backbone=test_resnet", "optimizer.batch_size=10")
    batches = [batch.image_ids for batch in TrainStream(open_images(data, "train"), config, 0, 1).batches(0, 0, 0)]
    (folder / batches[1][0]).write_bytes(b"no image")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train(config, data, whole)["bad_images"] == 1  # the limit; it is read in both epochs
    interrupt_at(2, monkeypatch)
    assert not train(config, data, run)["finished"]
    assert train(config, data, run)["bad_images"] == 1
    assert losses(run) == losses(whole) and len(losses(run)) == 12
    assert same(weights(run), weights(whole))


def test_the_scaler_of_float16_gradients_is_kept(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    one, two = (Trainer(quick(), open_images("builtin:faces", "train"), tmp_path, log_with="none") for _ in range(2))
    for trainer in (one, two):
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    start = one.accelerator.scaler.state_dict()
    one.accelerator.scaler.load_state_dict(start | {"scale": 8.0, "_growth_tracker": 3})
    one._save(path)
    two._restore(path)
    assert two.accelerator.scaler.state_dict() == start | {"scale": 8.0, "_growth_tracker": 3} != start


def test_validation_matches_classes_by_id_and_says_so():
    """Training knows b, c, x; the real set has c, a, b in another order: scored on b and c only, by name."""
    import numpy as np

    pixels = np.zeros((6, 8, 8, 3), np.uint8)
    pixels[:, 0, 0, 0] = range(6)
    real = ArraySet("real", pixels, np.array([0, 0, 2, 2, 1, 1]), ("c", "a", "b"))  # c c b b a a

    class Fixed(torch.nn.Module):
        """Logits of (b, c, x): image 0 says c, 1 says b, 2 says x then b, 3 says b."""

        def forward(self, crops: list[torch.Tensor]) -> torch.Tensor:
            table = torch.tensor([[0, 2, 1], [2, 1, 0], [2, 1, 9], [3, 1, 0]], dtype=torch.float32)
            assert len(crops[0]) == 4  # images of class a are left out
            return table

    validator = Validator(real, ("b", "c", "x"), 8)
    assert validator.note == "scored on the 2 classes in common (3 in training, 3 in real)"
    result = validator(Fixed(), torch.device("cpu"))
    assert (result.top1, result.top5, result.num_images, result.common) == (0.75, 1.0, 4, ("b", "c"))
    with pytest.raises(TrainingError, match="no class in common"):
        Validator(real, ("y", "z"), 8)


def test_the_note_on_common_classes_reaches_the_user(tmp_path: Path, cli: CliRun):
    folder = image_folder(tmp_path / "d", ("n13742358", "n13742573", "n02086910"), 8)
    arguments = f"train imagefolder:{folder} --recipe small --val builtin:mnist --out {tmp_path}/run".split()
    settings = [*QUICK, "optimizer.epochs=1", "optimizer.batch_size=8"]
    done = cli(*arguments, *[word for s in settings for word in ("--set", s)])
    assert done.returncode == 0, done.stderr
    note = "scored on the 2 classes in common (3 in training, 10 in builtin:mnist)"
    assert f"validation: {note}" in done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["validation_note"] == note and result["val_images"] == 200


def test_training_while_generation_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The trainer starts first and waits; each image is seen once."""
    from imagenet_sd.storage.dataset import Dataset
    from imagenet_sd.training.stream import GrowingSet

    out = tmp_path / "d"
    arguments = f"generate --model embedded --steps 2 --images-per-class 6 --shard-size 20 --out {out}".split()
    process = subprocess.Popen([sys.executable, "-m", "imagenet_sd", *arguments], stderr=subprocess.DEVNULL)
    wait_for(out / "dataset.json", process)
    growing = GrowingSet(Dataset.open(out), poll=0.05)
    assert growing.group_sizes == [20, 20, 20]
    result = train(quick("optimizer.epochs=2", "virtual_workers=1"), str(out), tmp_path / "run", stream=True)
    process.wait(timeout=60)
    assert result["finished"] and result["epochs"] == 1 and len(losses(tmp_path / "run")) == 3
    assert "one pass over the images, not the 2 epochs of the recipe" in capsys.readouterr().err
    whole = open_images(str(out))
    assert growing.group_sizes == list(whole.group_sizes)
    assert [r.image_id for g in range(3) for r in growing.read_group(g)] == [
        r.image_id for g in range(3) for r in whole.read_group(g)
    ]
