"""`make gpu-check` in its reduced form: what it prints and writes, and that each check can fail."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from imagenet_sd.generation.diffusion.adapter import PipelineGenerator
from imagenet_sd.generation.diffusion.options import SamplingOptions
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import gpu_check
    from gpu_checks import generation, kernels, probes, training
    from gpu_checks.check import OUT_OF_TIME, Check, Outcome, Setting, passed_if, run_checks
    from gpu_checks.children import Child
    from gpu_checks.pixels import difference, parity, shows_something
finally:
    sys.path.remove(str(ROOT / "benchmarks"))

SCRIPT = ROOT / "benchmarks" / "gpu_check.py"


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(device=torch.device("cpu"), reduced=True, folder=tmp_path)


def start(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)


def check(name: str, run=lambda setting: passed_if(True, "fine", {"n": 1}), seconds: float = 60.0) -> Check:
    return Check(name=name, about="a test", seconds=seconds, run=run)


def test_a_cpu_passes_the_reduced_form(tmp_path: Path):
    done = start("--only", "sdxl", "batch-sizes", "xformers", "compile", "--out", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {row["name"]: row for row in found["checks"]}
    assert list(rows) == ["sdxl", "batch-sizes", "xformers", "compile"]
    assert [row["status"] for row in rows.values()] == ["passed", "passed", "skipped", "skipped"]
    assert found["passed"] is True and found["reduced"] is True and found["seconds"] > 0
    facts = found["facts"]
    assert facts["versions"]["torch"] == torch.__version__ and facts["dtype"] == "float32" and facts["device"]
    assert set(rows["batch-sizes"]["figures"]["images_per_second"]) == {"1", "4"}
    assert rows["sdxl"]["figures"]["repeated_bits_equal"] is True
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["check", "result", "seconds", "remark"]
    assert [line.split()[0] for line in lines[1:5]] == list(rows)
    assert len({line.index(row["status"]) for line, row in zip(lines[1:5], rows.values(), strict=True)}) == 1
    assert lines[-1].startswith("2 passed, 0 failed, 2 skipped") and "reduced form" in lines[-1]
    assert "no GPU" in done.stderr and "[1/4] sdxl" in done.stderr and "sdxl" not in done.stderr.split("[4/4]")[1]


@pytest.mark.slow
def test_the_whole_reduced_form_passes(tmp_path: Path):
    done = start("--out", tmp_path / "found.json")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "found.json").read_text())["checks"]
    assert [row["name"] for row in rows] == [check.name for check in gpu_check.CHECKS]
    skipped = {row["name"]: row["remark"] for row in rows if row["status"] == "skipped"}
    assert set(skipped) == {"xformers", "compile", "compile-sd-1.4"} and all(skipped.values())


def test_one_that_fails_or_raises_is_a_row_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def raises(setting: Setting) -> Outcome:
        raise ZeroDivisionError("no such\nthing")

    checks = [check("bad", lambda s: passed_if(False, "3 is not 4", {"n": 3})), check("ill", raises), check("good")]
    monkeypatch.setattr(gpu_check, "CHECKS", checks)
    with pytest.raises(SystemExit) as end:
        gpu_check.main(["--out", str(tmp_path / "found.json")])
    assert end.value.code == 1
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["passed"] is False
    assert [(row["name"], row["status"]) for row in found["checks"]] == [
        ("bad", "failed"),
        ("ill", "failed"),
        ("good", "passed"),
    ]
    assert found["checks"][0]["figures"] == {"n": 3}
    out = capsys.readouterr().out
    assert "3 is not 4" in out and "ZeroDivisionError: no such thing" in out
    assert "1 passed, 2 failed, 0 skipped" in out
    with pytest.raises(SystemExit) as end:
        gpu_check.main(["--only", "good", "--out", str(tmp_path / "found.json")])
    assert end.value.code == 0


def test_time_is_limited_for_each_and_for_all(setting: Setting):
    ran = []

    def sleeps(run: Setting) -> Outcome:
        ran.append("sleeps")
        time.sleep(30)
        return passed_if(True, "slept", {})

    def stubborn(run: Setting) -> Outcome:
        with suppress(Exception):
            time.sleep(30)
        return passed_if(True, "slept", {})

    started, published = time.monotonic(), []
    checks = [check("long", stubborn, seconds=0.2), check("quick"), check("cut", sleeps), check("late", sleeps)]
    rows = run_checks(checks, setting, 4.0, lambda rows: published.append(len(rows)))
    assert time.monotonic() - started < 25
    assert [row["status"] for row in rows] == ["failed", "passed", "skipped", "skipped"]
    assert rows[0]["remark"] == "took longer than its 0 s"
    assert rows[2]["remark"] == rows[3]["remark"] == OUT_OF_TIME
    assert ran == ["sleeps"]  # the last one did not even begin
    assert published == [1, 2, 3, 4]


def test_a_run_out_of_time_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu_check, "CHECKS", [check("one")])
    with pytest.raises(SystemExit) as end:
        gpu_check.main(["--budget", "0", "--out", str(tmp_path / "found.json")])
    assert end.value.code == 0
    (row,) = json.loads((tmp_path / "found.json").read_text())["checks"]
    assert row["status"] == "skipped" and row["remark"] == OUT_OF_TIME


def test_list_names_every_check(capsys: pytest.CaptureFixture):
    gpu_check.main(["--list"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [check.name for check in gpu_check.CHECKS] and len(set(names)) == len(names) == 11
    assert sum(check.seconds for check in gpu_check.CHECKS if check.name == "sd-1.4") < gpu_check.BUDGET < 8 * 60 + 1


def test_pixels_are_judged_by_what_rounding_costs():
    rng = np.random.default_rng(0)
    exact = rng.integers(20, 200, (2, 8, 8, 3)).astype(np.uint8)
    found = difference(exact, exact + np.uint8(2))
    assert (found.mean, found.largest) == (2, 2)
    assert parity(exact + np.uint8(3), exact, None)[0] and not parity(exact + np.uint8(4), exact, None)[0]
    eager = exact + np.uint8(5)  # the dtype costs 5 levels; from the other side of `exact` that makes 10
    assert parity(exact - np.uint8(5), eager, exact)[0] and not parity(exact - np.uint8(6), eager, exact)[0]
    spot = eager.copy()
    spot[0, 0, 0, 0] += 19  # too little for the mean, too much for one pixel: 2 * 5 + 8 are allowed
    assert not parity(spot, eager, exact)[0]
    grey = np.full((1, 8, 8, 3), 7, np.uint8)
    assert shows_something(exact) and not shows_something(grey)


def test_a_dtype_that_gives_other_pictures_fails(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Setting, "dtypes", ["float32", "float16"])
    assert generation.embedded(setting).status == "passed"
    generate = generation.make_generator

    def other_scale(config, device):
        return generate(
            dataclasses.replace(config, guidance_scale=4.0) if config.dtype == "float16" else config, device
        )

    monkeypatch.setattr(generation, "make_generator", other_scale)
    assert generation.embedded(setting).status == "failed"


def test_pictures_unlike_the_stock_ones_fail(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    outcome = generation.sd14(setting)
    assert outcome.status == "passed" and outcome.figures["largest_difference"] == 0
    assert set(outcome.figures["images_per_second"]) == {"naive", "batched", "ours"}
    stock = generation.stock_images
    monkeypatch.setattr(generation, "stock_images", lambda *args: [image // 2 for image in stock(*args)])
    assert generation.sd14(setting).status == "failed"


def test_more_work_than_the_device_can_do_fails(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(generation, "ceiling", lambda device, dtype: 100.0)
    good, line, figures = generation._work(setting, "float32", 40.0)
    assert good and line == "40 TFLOP/s, 40% of a float32 matrix product's 100" and figures["tflops"] == 40
    assert not generation._work(setting, "float32", 120.0)[0]


def test_repeated_calls_with_other_bits_fail(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    make = generation.sdxl_pipeline

    def drifting(*args, **kwargs):
        pipeline = make(*args, **kwargs)
        decode = pipeline.vae.decode

        def decode_and_drift(*args, **kwargs):
            pipeline.vae.decoder.conv_out.bias += 0.05
            return decode(*args, **kwargs)

        pipeline.vae.decode = decode_and_drift
        return pipeline

    monkeypatch.setattr(generation, "sdxl_pipeline", drifting)
    outcome = generation.sdxl(setting)
    assert outcome.status == "failed" and "REPEATED BITS DIFFER" in outcome.remark


def test_pictures_unlike_those_of_one_stock_call_fail(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    def more_steps(*args, num_inference_steps: int, **settings):
        return PipelineGenerator(*args, num_inference_steps=num_inference_steps + 1, **settings)

    monkeypatch.setattr(generation, "PipelineGenerator", more_steps)
    outcome = generation.sdxl(setting)
    assert outcome.status == "failed" and outcome.figures["repeated_bits_equal"]
    assert outcome.figures["largest_difference"] > 3


def test_the_sweep_ends_where_memory_does_and_knows_its_first_picture(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
):
    from imagenet_sd.core.errors import GenerationMemoryError

    make = generation.make_generator

    def limited(wrong_seed: bool):
        def make_limited(config, device):
            generator = make(config, device)
            generate = generator.generate

            def generate_some(requests):
                if generator.batch_size > 1 and not wrong_seed:
                    raise GenerationMemoryError("too large")
                return generate(requests[::-1] if wrong_seed else requests)

            generator.generate = generate_some
            return generator

        return make_limited

    monkeypatch.setattr(generation, "make_generator", limited(wrong_seed=False))
    outcome = generation.batch_sizes(setting)
    assert outcome.status == "passed" and "no memory for 4" in outcome.remark
    assert set(outcome.figures["images_per_second"]) == {"1"}
    monkeypatch.setattr(generation, "make_generator", limited(wrong_seed=True))
    assert generation.batch_sizes(setting).status == "failed"


@pytest.mark.slow
def test_a_worker_that_writes_other_bytes_fails(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    make = generation.make_worker

    def other_steps(dataset):
        worker = make(dataset)
        worker.generator.num_inference_steps += 1
        return worker

    monkeypatch.setattr(generation, "make_worker", other_steps)
    outcome = generation.workers(setting)
    assert outcome.status == "failed" and "0 of 4 shards equal" in outcome.remark


def fake_training(encoders: dict[str, float], interrupted: bool = True, wrapped: str = "DistributedDataParallel"):
    """`_train` without training: the encoder of each run is one number."""

    def train(setting: Setting, folder: Path, launcher=(), **runs: int) -> dict:
        for name in runs:
            (folder / name).mkdir(parents=True, exist_ok=True)
            save_file({"w": torch.tensor([encoders[name], 1.0])}, folder / name / "encoder.safetensors")
            (folder / name / "result.json").write_text("{}")
        return {"interrupted": {name: interrupted for name, step in runs.items() if step}, "wrapped": [wrapped]}

    return train


@pytest.mark.parametrize(
    ("again", "resumed", "interrupted", "status"),
    [(1, 1, True, "passed"), (1, 2, True, "failed"), (2, 1, True, "failed"), (1, 1, False, "failed")],
)
def test_a_resumed_run_must_have_been_interrupted_and_end_alike(
    again: float, resumed: float, interrupted: bool, status: str, setting: Setting, monkeypatch: pytest.MonkeyPatch
):
    encoders = {"whole": 1.0, "again": again, "resumed": resumed}
    monkeypatch.setattr(training, "_train", fake_training(encoders, interrupted))
    assert training.resume(setting).status == status


@pytest.mark.parametrize(
    ("launched", "wrapped", "status"),
    [
        (1.0, "DistributedDataParallel", "passed"),
        (1.0005, "DistributedDataParallel", "passed"),  # within the tolerance
        (1.01, "DistributedDataParallel", "failed"),
        (1.0, "EncoderWithHead", "failed"),
    ],
)
def test_torchrun_must_distribute_and_end_alike(
    launched: float, wrapped: str, status: str, setting: Setting, monkeypatch: pytest.MonkeyPatch
):
    fake = fake_training({"whole": 1.0, "launched": launched}, wrapped=wrapped)
    monkeypatch.setattr(training, "_train", fake)
    outcome = training.ddp(setting)
    assert outcome.status == status
    on_a_gpu = training.ddp(dataclasses.replace(setting, device=torch.device("cuda")))  # which alone is not distributed
    assert on_a_gpu.status == ("failed" if launched == 1.01 else "passed")
    assert outcome.figures["bits_equal"] is (launched == 1)


def test_a_process_that_ends_badly_is_told_of_and_none_is_left(setting: Setting):
    child = Child(setting, "train", "folder", "no JSON")
    with pytest.raises(RuntimeError, match=r"ended with 1: json\.decoder\.JSONDecodeError"), child:
        child.expect("trained")
    with pytest.raises(ZeroDivisionError), Child(setting, "shards", "folder", 0, 1) as child:
        raise ZeroDivisionError
    assert child.process.returncode == -signal.SIGTERM


def test_probes_away_from_the_reference_fail(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    outcome = probes.probe(setting)
    assert outcome.status == "passed" and min(outcome.figures["accuracy"]) > 60
    (x, y), (test, labels) = probes._digits("train", 400), probes._digits("test", 400)
    found = probes._scikit_learn(x, y)
    shifted = dataclasses.replace(found, weights=found.weights + 1e-3)
    monkeypatch.setattr(probes, "_scikit_learn", lambda x, y: shifted)
    assert probes.probe(setting).status == "failed"
    assert probes._sgd_accuracy(torch.device("cpu"), x, y, test, labels) > 60


def test_kernels_that_change_more_than_rounding_fail(setting: Setting):
    config = kernels._embedded_config(setting)
    outcome = kernels._against_eager(setting, config, SamplingOptions())
    assert outcome.status == "passed" and outcome.figures["largest_difference"] == 0
    lossy = kernels._against_eager(setting, config, SamplingOptions(cache_interval=3))
    assert lossy.status == "failed" and lossy.figures["largest_difference"] > 3


def test_scripts_are_named_in_the_documents():
    assert "\ngpu-check: setup\n\t$(BIN)/python benchmarks/gpu_check.py\n" in (ROOT / "Makefile").read_text()
    assert "make gpu-check" in (ROOT / "benchmarks" / "README.md").read_text()
