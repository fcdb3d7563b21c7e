"""How a run starts: what does not fit is refused before anything is written, and the tracker is the one asked for."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import tracking
from accelerate.utils import LoggerType

from imagenet_sd.core.typed import to_mapping
from imagenet_sd.data.open import open_images
from imagenet_sd.pipeline import train
from imagenet_sd.training.config import TrainingError
from imagenet_sd.training.export import load_run
from imagenet_sd.training.knn import KnnValidator
from imagenet_sd.training.model import EncoderWithHead
from imagenet_sd.training.runlog import read_metrics
from imagenet_sd.training.validate import Validator
from tests.conftest import CliRun
from tests.training.test_loop import image_folder, interrupt_at, quick

SHORT = ["optimizer.epochs=1", "optimizer.warmup_epochs=0", "optimizer.batch_size=20"]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def command(data: object, run: Path, *more: str) -> list[object]:
    settings = [part for setting in (*SHORT, *more) for part in ("--set", setting)]
    return ["train", data, "--recipe", "small", "--out", run, *settings]


def test_data_smaller_than_a_batch_name_the_option_and_its_use_then_works(tmp_path: Path, cli: CliRun):
    data, run = f"imagefolder:{image_folder(tmp_path / 'd', ('a', 'b'), 9)}", tmp_path / "run"
    refused = cli(*command(data, run, "optimizer.batch_size=64"))
    assert refused.returncode == 1 and "18 images, fewer than a batch of 64" in refused.stderr
    hint = next(line for line in refused.stderr.splitlines() if line.startswith("hint: "))
    assert hint == "hint: add --set optimizer.batch_size=16" and not run.exists()
    done = cli(*command(data, run), *hint.removeprefix("hint: add ").split())
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((run / "recipe.yaml").read_text())["train"]["optimizer"]["batch_size"] == 16


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        (["model.backbone=vit_tiny_patch16_224", "model.small_images=false"], {},
         r"vit_tiny_patch16_224 does not take images of 32 pixels \(crops.global_crop_size\): Input height"),
        (["model.backbone=nothing"], {}, "no backbone 'nothing'"),
        ([], {"validation": "builtin:digits"}, "no class in common"),
        ([], {"log_with": "aim"}, "--log-with aim: aim is not installed"),
        (["crops.local_crops_number=1", "crops.local_crop_size=1", "model.backbone=vgg11", "model.small_images=false"],
         {}, r"vgg11 does not take images of 1 pixels \(crops.local_crop_size\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_leaves_no_folder(settings: list[str], options: dict[str, str], said: str, tmp_path: Path):
    with pytest.raises(TrainingError, match=said) as caught:
        train(quick(*settings), "builtin:faces", tmp_path / "run", **options)  # pyright: ignore[reportArgumentType]
    assert caught.value.hint and not (tmp_path / "run").exists()


def test_a_folder_whose_run_never_began_is_free(tmp_path: Path):
    """As earlier versions left it: the recipe alone."""
    run = tmp_path / "run"
    run.mkdir()
    old = {"data": "builtin:faces", "validation": "", "stream": False, "train": {"name": "old"}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(old))
    assert train(quick(*SHORT), "builtin:faces", run)["finished"]
    assert yaml.safe_load((run / "recipe.yaml").read_text())["train"]["name"] == "small"
    (run / "result.json").unlink()
    with pytest.raises(TrainingError, match=r"holds another run: train\.seed: 0 there, 7 asked for"):
        train(quick(*SHORT, "seed=7"), "builtin:faces", run)


def test_validation_on_the_training_images_is_refused(tmp_path: Path, small_dataset: Path):
    folder = image_folder(tmp_path / "d", ("a", "b"), 20)
    for data, validation in (
        (f"imagefolder:{folder}", f"imagefolder:{folder}/../d"),
        (str(small_dataset), f"parquet:{small_dataset}"),
    ):
        with pytest.raises(TrainingError, match="would be validated on the images that it trains on"):
            train(quick(*SHORT), data, tmp_path / "run", validation=validation)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("classes", ['{"a": 0, "b": 1}', '["a", "a"]', "[1, 2]", '"ab"'])
def test_classes_of_a_run_that_are_no_list_of_names_are_refused(tmp_path: Path, classes: str):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"train": to_mapping(quick())}))
    (tmp_path / "encoder.safetensors").touch()
    (tmp_path / "classes.json").write_text(classes)
    with pytest.raises(TrainingError, match=r"classes\.json is no list of different names"):
        load_run(tmp_path)


def test_validation_without_a_readable_image_is_an_error(tmp_path: Path):
    folder = image_folder(tmp_path / "images", ("a", "b"), 2)
    for path in folder.glob("*/*"):
        path.write_bytes(b"no image")
    images, model = open_images(f"imagefolder:{folder}"), EncoderWithHead(torch.nn.Flatten(), torch.nn.Identity())
    for validator in (Validator(images, ("a", "b"), 8), KnnValidator(images, images, 8)):
        with pytest.raises(TrainingError, match=r"no image of imagefolder:.* can be read, 4 are damaged"):
            validator(model, torch.device("cpu"))


def board(run: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every scalar that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_what_metrics_jsonl_holds_also_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "run"
    for step in (6, 9):  # 9 is the last: validation alone is left
        interrupt_at(step, monkeypatch)
        assert not train(quick(), "builtin:faces", run, validation="builtin:faces")["finished"]
    assert train(quick(), "builtin:faces", run, validation="builtin:faces")["finished"]
    metrics, shown = read_metrics(run / "metrics.jsonl"), board(run)
    steps = [(x["step"], pytest.approx(x["loss"])) for x in metrics if "step" in x]
    assert shown["step/loss"] == steps and [step for step, _ in steps] == list(range(10))
    epochs = [(5 * x["epoch"] - 1, pytest.approx(x["val_top1"])) for x in metrics if "epoch" in x]
    assert shown["val_top1"] == epochs and len(epochs) == 2


FAKE_WANDB = """
import json, os
class Config(dict):
    def update(self, values, allow_val_change=False):
        write(config=values)
config = Config()
def write(**facts):
    with open(os.environ["FAKE_WANDB"], "a") as file:
        file.write(json.dumps(facts) + "\\n")
class Run:
    def log(self, values, step=None, **kwargs):
        write(log=values, step=step)
    def finish(self):
        write(finished=True)
def init(project, **kwargs):
    if os.environ.get("WANDB_BROKEN"):
        raise RuntimeError("no API key\\nconfigured")
    write(project=project, **kwargs)
    return Run()
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `wandb` that writes down how it is called; returns the file."""
    site = tmp_path / "site"
    (site / "wandb-1.0.dist-info").mkdir(parents=True)
    (site / "wandb-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: wandb\nVersion: 1.0\n")
    (site / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("FAKE_WANDB", str(tmp_path / "calls.jsonl"))
    # accelerate looks for packages once, when it is imported
    monkeypatch.setattr(tracking, "_available_trackers", [*tracking._available_trackers, LoggerType.WANDB])
    yield tmp_path / "calls.jsonl"
    sys.modules.pop("wandb", None)


def test_another_tracker_gets_recipe_and_metrics_through_accelerate(tmp_path: Path, wandb: Path, cli: CliRun):
    run = tmp_path / "run"
    done = cli(*command("builtin:faces", run), "--log-with", "wandb")
    assert done.returncode == 0, done.stderr
    calls = [json.loads(line) for line in wandb.read_text().splitlines()]
    assert calls[0] == {"project": "imagenet-sd", "name": "run", "dir": str(run)}
    assert calls[1]["config"]["optimizer.batch_size"] == 20 and calls[1]["config"]["model.backbone"] == "resnet10t"
    metrics = read_metrics(run / "metrics.jsonl")
    losses = [(c["step"], c["log"]["step/loss"]) for c in calls if "step/loss" in c.get("log", {})]
    assert losses == [(x["step"], x["loss"]) for x in metrics if "step" in x] and len(losses) == 5
    (epoch,) = [c["log"] for c in calls if "epoch" in c.get("log", {})]
    assert epoch["loss"] == next(x["loss"] for x in metrics if "epoch" in x) and calls[-1] == {"finished": True}
    assert not (run / "tensorboard").exists()


def test_a_tracker_that_does_not_start_is_one_line(tmp_path: Path, wandb: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_BROKEN", "1")
    with pytest.raises(TrainingError, match="--log-with wandb does not start: no API key configured"):
        train(quick(*SHORT), "builtin:faces", tmp_path / "run", log_with="wandb")
    assert train(quick(*SHORT), "builtin:faces", tmp_path / "run", log_with="none")["finished"]
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_positives_from_the_command_line(cli: CliRun, tmp_path: Path):
    command = ["train", "builtin:faces", "--recipe", "stablerep-small", "--out", str(tmp_path / "run"), "--dry-run"]
    done = cli(*command, "--positives", "class")
    assert done.returncode == 0 and yaml.safe_load(done.stdout)["objective"]["positives"] == "class"
    assert cli(*command, "--positives", "colour").returncode == 2
