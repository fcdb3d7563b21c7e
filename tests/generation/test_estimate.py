"""What a plan will take, by arithmetic on known figures, and what is free: shown by a dry run."""

import json
import shutil
from pathlib import Path

import pytest

from imagenet_sd.core.files import free_bytes
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.estimate import TFLOP, estimate_time, tflop_per_image
from imagenet_sd.generation.models import ModelIdentity
from imagenet_sd.generation.plan import make_plan
from tests.conftest import SMALL, CliRun

MODEL = ModelIdentity(model_id="x")


def test_operations_are_those_that_pytorch_counts():
    """Against the sum over a PNDM schedule that the benchmark makes with PyTorch's counter."""
    from imagenet_sd.generation.bench.sd14 import sd14_tflop
    from imagenet_sd.generation.bench.sd14 import tflop_per_image as counted

    assert {name: round(value, 3) for name, value in sd14_tflop(512, 384).items()} == TFLOP
    for steps, scale in ((50, 7.5), (20, 1.0)):
        settings = {"num_inference_steps": steps, "guidance_scale": scale, "width": 512, "height": 384}
        assert tflop_per_image(settings, "PNDMScheduler") == pytest.approx(counted(512, 384, steps, scale), rel=2e-3)


def test_a_distilled_unet_is_called_once_a_step():
    settings = {"num_inference_steps": 4, "guidance_scale": 8.5, "width": 512, "height": 512}
    distilled = settings | {"pipeline": "LatentConsistencyModelPipeline"}
    unguided = tflop_per_image(settings | {"guidance_scale": 1.0}, "LCMScheduler")
    assert tflop_per_image(distilled, "LCMScheduler") == unguided < tflop_per_image(settings, "LCMScheduler")


def test_the_hours_are_those_of_the_cluster_guide():
    """docs/cluster.md: ImageNet-1K-SD takes 285 hours of an A100 and 69 of an H100."""
    config = GenerationConfig(classes="digits-10", images_per_class=128_117, multiple=10, shard_size=1000)
    plan, document = make_plan(config, MODEL)
    hours = estimate_time(plan, document["settings"], config.model, "PNDMScheduler")
    per_image = {gpu: known["gpu_hours"] / plan.num_images for gpu, known in hours.items()}
    assert {gpu: round(1_281_167 * each) for gpu, each in per_image.items()} == {"A100": 286, "H100": 69}
    halved = estimate_time(
        plan, document["settings"] | {"guidance_interval": [0.25, 0.75]}, config.model, "DDIMScheduler"
    )
    assert 0.74 < halved["A100"]["gpu_hours"] / hours["A100"]["gpu_hours"] < 0.76


def test_models_of_unknown_size_have_no_estimate(tmp_path: Path):
    plan, document = make_plan(GenerationConfig(classes="digits-10"), MODEL)
    (tmp_path / "unet").mkdir()
    for channels, known in (([320, 640, 1280, 1280], True), ([64, 128], False), (None, False)):
        (tmp_path / "unet/config.json").write_text(json.dumps({"block_out_channels": channels}))
        assert bool(estimate_time(plan, document["settings"], str(tmp_path), "PNDMScheduler")) is known
    for source in ("embedded", "someone/else", str(tmp_path / "nothing")):
        assert not estimate_time(plan, document["settings"], source, "PNDMScheduler")


def test_a_dry_run_shows_time_cost_and_free_disk(tmp_path: Path, cli: CliRun):
    arguments = ("generate", "--prompt", "c_dc", "--dry-run", "--usd-per-gpu-hour", 2, "--out", tmp_path / "a/b")
    plan = json.loads(cli(*arguments, "--format", "json").stdout)
    for known in plan["estimated_time"].values():
        assert known["gpu_hours"] == pytest.approx(130_000 / known["images_per_second"] / 3600)
        assert known["usd"] == pytest.approx(2 * known["gpu_hours"])
    assert plan["free_bytes"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    text = cli(*arguments).stdout
    assert "disk      about 12 GB; " in text and "are free there" in text
    assert "29.0 GPU-hours on an A100, $58.02 (estimated; --calibrate measures)" in text
    done = cli("generate", "--model", "embedded", "--usd-per-gpu-hour", 2, "--out", tmp_path / "x")
    assert done.returncode == 1 and "give --dry-run with them" in done.stderr and not (tmp_path / "x").exists()


def test_too_little_space_is_said_before_the_first_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: CliRun):
    from imagenet_sd.pipeline import dataset

    monkeypatch.setattr(dataset, "free_bytes", lambda path: 1_000_000)
    done = cli("generate", "--model", "embedded", "--dry-run", "--out", tmp_path / "x")
    assert "warning   the images need about 4.6 MB, and 1.0 MB are free" in done.stdout, done.stdout


def test_too_little_space_is_said_when_the_work_begins_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: CliRun
):
    from imagenet_sd.pipeline import dataset

    monkeypatch.setattr(dataset, "free_bytes", lambda path: 1000)
    done = cli(*SMALL, "--out", tmp_path / "x")
    assert done.returncode == 0 and "warning: the images need about" in done.stderr, done.stderr
    assert "1.0 kB are free" in done.stderr


def test_free_bytes_of_a_path_that_is_not_there_yet(tmp_path: Path):
    assert free_bytes(tmp_path / "a/b/c") == pytest.approx(free_bytes(tmp_path), rel=0.05)
