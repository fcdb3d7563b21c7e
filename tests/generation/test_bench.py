"""The generation benchmark and the calibration: what they report is what they measured."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch

from imagenet_sd import pipeline
from imagenet_sd.cli import main
from imagenet_sd.cli.bench import bench as bench_command
from imagenet_sd.core.errors import ImagenetSDError, ModelError, PlanError
from imagenet_sd.evaluation.bench import bench_probe, bench_stream
from imagenet_sd.generation.bench import calibrate
from imagenet_sd.generation.bench.compare import compare
from imagenet_sd.generation.bench.config import BenchConfig
from imagenet_sd.generation.bench.sd14 import sd14_modules, sd14_tflop, tflop_per_image
from imagenet_sd.generation.bench.throughput import machine_seconds
from imagenet_sd.generation.bench.variants import copy_pipeline, cpu_worker, load_stock, our_generator, stock_images
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.models import identify
from imagenet_sd.generation.plan import make_plan
from imagenet_sd.generation.worker import Worker, make_worker
from imagenet_sd.storage.dataset import Dataset
from imagenet_sd.training.bench import bench_loader
from tests.conftest import ROOT

CPU = torch.device("cpu")
SMALL = BenchConfig(model="embedded", num_inference_steps=2, batch_size=2, batches=2, rounds=2).resolved(CPU)


@pytest.fixture(scope="module")
def result(cli) -> dict:
    done = cli(
        *"bench generate --model embedded --steps 2 --batch-size 2 --batches 2 --rounds 3 --workers 2".split(),
        *("--format", "json"),
    )
    assert done.returncode == 0, done.stderr
    assert "rounds 8/8" in done.stderr  # progress goes to standard error
    return json.loads(done.stdout)


def test_ratios_are_those_of_the_raw_samples(result: dict):
    seconds = result["seconds"]
    names = {"naive", "batched", "ours", "naive_cpu", "batched_cpu", "ours_cpu", "machine"}
    assert set(seconds) == names and all(len(samples) == 3 for samples in seconds.values())
    for name in ("naive", "batched"):
        for kind in ("", "_cpu"):
            expected = median(seconds[name + kind]) / median(seconds["ours" + kind])
            assert result[f"ratio_{name}{kind}"] == pytest.approx(expected)
    assert result["images_per_round"] == 4 and result["workers"] == 2
    assert result["images_per_second"] == pytest.approx(8 / median(seconds["machine"]))


def test_result_says_what_was_measured_on_what(result: dict):
    shares = result["shares"]
    assert set(shares) == {"unet", "vae", "text", "scheduler", "rest"}
    assert sum(shares.values()) == pytest.approx(1)
    assert result["denoiser_share"] == pytest.approx(shares["unet"] + shares["vae"])
    assert shares["unet"] > shares["vae"] > 0 and shares["scheduler"] > 0 and shares["rest"] > 0
    assert result["pixels_equal"] is True and result["largest_pixel_difference"] == 0
    assert result["device_type"] == "cpu" and result["threads"] == 1 and result["dtype"] == "float32"
    assert {"torch", "diffusers", "transformers", "python"} <= set(result["versions"])
    settings = {"model": "embedded", "num_inference_steps": 2, "batch_size": 2, "width": 32, "guidance_scale": 2.0}
    assert settings.items() <= result["settings"].items()


def test_table_shows_the_same_numbers(result: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(pipeline, "bench_generate", lambda **settings: result)
    monkeypatch.setattr("sys.argv", ["imagenet-sd", "bench", "generate"])
    with pytest.raises(SystemExit):
        main()
    text = capsys.readouterr().out
    assert f"{result['ratio_naive']:.2f}x as long as ours" in text
    assert f"{result['denoiser_share']:.1%}" in text and "pixels     equal" in text
    assert f"{result['images_per_second']:.2f} images/s with 2 workers" in text


class _Tampered(ImageGenerator):
    def generate(self, requests):
        pixels = super().generate(requests)
        pixels[-1, 3, 5, 1] ^= 1
        return pixels


@pytest.mark.parametrize(("kind", "difference"), [(ImageGenerator, 0), (_Tampered, 1)])
def test_one_wrong_bit_in_one_image_is_noticed(kind: type[ImageGenerator], difference: int):
    with cpu_worker(CPU):
        stock = load_stock(SMALL, CPU)
        generator = our_generator(SMALL, copy_pipeline(stock))
        generator.__class__ = kind
        _, differences = compare(SMALL, stock, generator, SMALL.requests())
    assert differences == [difference] * 2


def test_all_variants_generate_the_images_of_the_plan():
    requests = SMALL.requests()
    assert [len(images) for images in requests] == [4, 4]
    assert len({image.image_id for images in requests for image in images}) == 8
    with cpu_worker(CPU):
        stock = load_stock(SMALL, CPU)
        alone = [stock_images(SMALL, stock, [image])[0] for image in requests[0][:2]]
        together = stock_images(SMALL, stock, requests[0][:2])
    for a, b in zip(alone, together, strict=True):
        assert a.dtype == np.uint8 and a.shape == (32, 32, 3)
        assert np.abs(a.astype(int) - b).max() <= 1  # other batch sizes round differently
    assert np.abs(alone[0].astype(int) - alone[1]).max() > 50


def test_our_generator_leaves_the_stock_pipeline_alone():
    stock = load_stock(SMALL, CPU)
    copied = copy_pipeline(stock)
    next(copied.unet.parameters()).data.zero_()
    assert next(stock.unet.parameters()).abs().sum() > 0
    assert copied.scheduler is not stock.scheduler


def test_threads_are_restored():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with cpu_worker(CPU):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_worker_that_fails_is_an_error(tmp_path: Path):
    with pytest.raises(ImagenetSDError, match="ended with code 1"):
        machine_seconds(dataclasses.replace(SMALL, model=str(tmp_path)), 1, lambda: None)


@pytest.mark.parametrize("settings", [{"rounds": 0}, {"batches": 0}, {"workers": -1}, {"batch_size": 0}, {"width": 8}])
def test_settings_out_of_range_are_refused(settings: dict):
    with pytest.raises(PlanError, match=f"{next(iter(settings))}"):
        BenchConfig(**settings)


def test_a_model_that_is_no_folder_is_refused():
    with pytest.raises(ModelError, match="'no-such-model' is no folder"):
        load_stock(dataclasses.replace(SMALL, model="no-such-model"), CPU)


def test_a_pipeline_of_another_kind_is_refused(tmp_path: Path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    with pytest.raises(ModelError, match=r"is a StableDiffusionXLPipeline, and the benchmark compares") as e:
        load_stock(dataclasses.replace(SMALL, model=str(tmp_path)), CPU)
    assert "--calibrate" in e.value.hint


def test_a_gpu_gets_the_true_architecture_by_default():
    config = BenchConfig(dtype="bfloat16").resolved(torch.device("cuda"))
    assert (config.model, config.width, config.height, config.num_inference_steps) == ("sd-1.4", 512, 384, 50)
    config = BenchConfig().resolved(CPU)
    assert (config.model, config.width, config.num_inference_steps, config.dtype) == ("embedded", 32, 20, "float32")


def test_architecture_is_that_of_stable_diffusion_1_4():
    """Parameter counts as published with the weights: UNet 860 M, autoencoder 84 M, text encoder 123 M."""
    counts = [sum(weight.numel() for weight in module.parameters()) for module in sd14_modules("meta")]
    assert counts == [859_520_964, 83_653_863, 123_060_480]


def test_cost_of_an_image_is_the_known_one():
    """Against figures found independently with the true configuration files: 512x384, PNDM with 50 steps."""
    cost = sd14_tflop(512, 384)
    assert cost["unet"] == pytest.approx(0.580, rel=0.02)
    assert cost["vae"] == pytest.approx(1.879, rel=0.02)
    assert cost["text"] == pytest.approx(0.013, rel=0.03)  # given to two digits
    assert tflop_per_image(512, 384, 50, 7.5) == pytest.approx(61.1, rel=0.02)
    assert tflop_per_image(512, 384, 50, 1.0) == pytest.approx(51 * 0.580 + 1.879 + 0.013, rel=0.02)
    assert sd14_tflop(256, 192)["vae"] < cost["vae"] / 4  # the attention in it grows with the square of the pixels


def config_of(**changes) -> GenerationConfig:
    settings = {"num_inference_steps": 2, "batch_size": 4, "images_per_class": 2, "shard_size": 8, "scheduler": "pndm"}
    settings |= changes
    return GenerationConfig(model="embedded", prompt="c_dc", guidance_scale=2, **settings)


def test_calibration_adds_up(capsys: pytest.CaptureFixture):
    with cpu_worker(CPU):
        estimate = pipeline.calibrate(config_of(multiple=3), seconds=4)
    assert estimate["num_images"] == 60 and estimate["device"] and not estimate["extrapolated"]
    assert estimate["sample_images"] >= 4 and estimate["sample_images"] % 4 == 0
    assert estimate["device_hours"] == pytest.approx(60 / estimate["images_per_second"] / 3600)
    assert estimate["hours"] == pytest.approx(estimate["device_hours"] / estimate["devices"])
    assert estimate["bytes_per_image"] == pytest.approx(estimate["estimated_bytes"] / 60)


def worker_of(config: GenerationConfig, folder: Path) -> Worker:
    return make_worker(Dataset.from_document(folder, make_plan(config, identify(config))[1]))


def test_disk_estimate_meets_the_real_shards(tmp_path: Path):
    with cpu_worker(CPU):
        worker = worker_of(config_of(images_per_class=12, shard_size=60, batch_size=20), tmp_path)
        plan = worker.dataset.plan
        images = worker.generator.generate_encoded(plan.requests(plan.shard(0)))
        estimate = calibrate.shard_bytes(worker, list(images))
        for i in range(plan.num_shards):
            worker.run_shard(i)
    real = sum(path.stat().st_size for path in tmp_path.rglob("*.parquet") if "of-00002" in path.name)
    assert estimate == pytest.approx(real, rel=0.03)


class _Clock:
    """Every denoising step takes one second; nothing else takes time."""

    def __init__(self, unet):
        self.now = 0.0
        unet.register_forward_hook(self.tick)

    def tick(self, *_) -> None:
        self.now += 1

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "batches", "timed"),
    [
        (3.0, 1, 4),  # the only batch counts
        (5.9, 1, 4),  # a second one would not fit
        (6.0, 2, 4),  # the first one warms up
        (14.0, 4, 12),
    ],
)
def test_calibration_keeps_to_its_time(tmp_path: Path, seconds: float, batches: int, timed: int):
    """Two steps of PNDM are three calls, so a batch of four takes three seconds."""
    with cpu_worker(CPU):
        worker = worker_of(config_of(), tmp_path)
        clock = _Clock(worker.generator.pipeline.unet)
        whole = worker.generator.pipeline
        sample = calibrate.generate_sample(worker, seconds + 1e-6, clock)
    assert clock.now == 3 * batches
    assert sample.images_per_second == pytest.approx(4 / 3)
    assert len(sample.images) == 4 * batches and sample.timed == timed
    assert worker.generator.pipeline is whole


def test_a_batch_that_takes_too_long_is_worked_out_from_its_steps(tmp_path: Path):
    with cpu_worker(CPU):
        worker = worker_of(config_of(num_inference_steps=20), tmp_path)
        clock = _Clock(worker.generator.pipeline.unet)
        sample = calibrate.generate_sample(worker, 5, clock)
    assert clock.now == 5
    assert sample.images_per_second == pytest.approx(4 / 21) and sample.images == [] and sample.timed == 0


def test_the_probe_benchmark_compares_equal_solutions():
    result = bench_probe(rounds=1, images=60)
    (ours,), (sklearn,) = (result["seconds"][name] for name in ("ours", "sklearn"))
    assert result["ratio"] == pytest.approx(sklearn / ours)
    assert result["worst_excess"] < 1e-4 and result["agreement_with_loose_sklearn"] > 0.9
    assert len(result["sklearn_tolerances"]) == 45


def test_the_streaming_benchmark_extrapolates_the_protocol(tmp_path: Path):
    result = bench_stream(share=0.5, images=6400, dimension=16, classes=10, folder=tmp_path)
    assert result["images_in_the_pass"] == 3200 and result["weight_norm"] > 0
    passes = 25 * 100 * 0.8 + 100  # trials on the training part, and the refit
    assert result["hours_per_seed"] == pytest.approx(passes * 6400 / result["images_per_second"] / 3600)
    assert result["hours_per_seed_of_a_hundredth"] == pytest.approx(result["hours_per_seed"] / 100)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_probe_of_the_size_of_imagenet_streams_within_4_gb(tmp_path: Path):
    """1,281,167 x 2,048 features, 10.5 GB in a file (most of it holes); an eighth of a pass."""
    command = [sys.executable, "-m", "imagenet_sd", "bench", "probe", "--stream", "--format", "json"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["file_gib"] > 9.7 and result["images_in_the_pass"] > 160_000
    assert result["peak_gib"] < 4e9 / 2**30 and result["expected_gib"] < 1


def test_the_loader_benchmark_adds_up(monkeypatch: pytest.MonkeyPatch):
    def short_run(config, data, run, **options):
        run.mkdir()
        (run / "metrics.jsonl").write_text('{"data_wait_share": 0.25}\n')

    monkeypatch.setattr("imagenet_sd.training.bench.train_run", short_run)
    threads = torch.get_num_threads()
    result = bench_loader(rounds=1, samples=1)
    assert torch.get_num_threads() == threads
    (ours,), (plain,) = (result["samples"][name] for name in ("ours", "plain"))
    assert result["ours_ms"] == pytest.approx(ours, abs=0.01) and result["plain_ms"] == pytest.approx(plain, abs=0.01)
    assert result["ratio"] == pytest.approx(plain / ours, abs=0.01) and result["data_wait_share"] == 0.25


@pytest.mark.parametrize("name", ["generate", "loader", "probe"])
def test_every_benchmark_explains_itself(name: str):
    command = bench_command.commands[name]
    assert len(command.help) > 40
    assert all(option.help for option in command.params)
