"""Offloading: the same bits wherever weights rest, and the option reaches whoever loads a model."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import numpy as np
import pytest
import torch

from imagenet_sd import pipeline as commands
from imagenet_sd.core.errors import PlanError
from imagenet_sd.generation import worker as worker_module
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.diffusion import loading
from imagenet_sd.generation.diffusion.adapter import PipelineGenerator
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.loading import load_pipeline
from imagenet_sd.generation.diffusion.options import Offload, SamplingOptions
from imagenet_sd.generation.kinds import STABLE_DIFFUSION
from imagenet_sd.generation.models import EMBEDDED_FOLDER
from imagenet_sd.generation.worker import make_worker
from imagenet_sd.generation.workers.engines import child, local, ray
from imagenet_sd.storage.dataset import Dataset
from tests.conftest import SMALL, CliRun
from tests.generation.test_generator import TEXTS, request

CPU = torch.device("cpu")
REQUESTS = [request(text, 100 + i) for i, text in enumerate(TEXTS[:5])]
SAMPLING: dict[str, Any] = {"guidance_scale": 2.0, "num_inference_steps": 4, "width": 32, "height": 32, "batch_size": 2}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def encoded(generator: Any) -> list[bytes]:
    return [image.jpeg for image in generator.generate_encoded(REQUESTS)]


@pytest.mark.parametrize("offload", ["model", "sequential"])
@pytest.mark.parametrize(
    "options", [{}, {"cache_interval": 2, "guidance_interval": (0.2, 0.8)}], ids=["plain", "lossy"]
)
def test_bits_do_not_depend_on_where_weights_rest(monkeypatch: pytest.MonkeyPatch, offload: Offload, options: dict):
    """diffusers offloads from any device; here the one that computes is a CPU too."""
    cpu_offload = accelerate.cpu_offload  # gets "cpu:0", which moves parameters for ever, since they say "cpu"
    monkeypatch.setattr(accelerate, "cpu_offload", lambda model, device, **kwargs: cpu_offload(model, CPU, **kwargs))
    sampling: dict[str, Any] = SAMPLING | {"options": SamplingOptions(**options)}
    expected = encoded(ImageGenerator(load_pipeline(EMBEDDED_FOLDER, torch.float32, CPU), **sampling))
    pipeline = load_pipeline(EMBEDDED_FOLDER, torch.float32, CPU, offload=offload)
    generator = ImageGenerator(pipeline, **sampling)
    assert encoded(generator) == expected
    assert generator.device.type == "cpu" and generator.dtype == torch.float32
    if offload == "sequential":
        assert {weight.device.type for weight in pipeline.unet.parameters()} == {"meta"}  # back where they rest
    if not options:
        adapter = PipelineGenerator(
            load_pipeline(EMBEDDED_FOLDER, torch.float32, CPU, offload=offload), STABLE_DIFFUSION, **SAMPLING
        )
        assert encoded(adapter) == expected


def test_a_batch_leaves_no_part_on_the_device():
    """As at the end of diffusers' own call: else the image decoder would stay beside the next batch's UNet."""
    pipeline = load_pipeline(EMBEDDED_FOLDER, torch.float32, CPU, offload="model")
    generator, hooks = ImageGenerator(pipeline, **SAMPLING), pipeline._all_hooks
    generator.generate(REQUESTS[:2])
    assert pipeline._all_hooks is not hooks and len(pipeline._all_hooks) == len(hooks) == 3


@pytest.mark.parametrize(
    ("offload", "method"),
    [("model", "enable_model_cpu_offload"), ("sequential", "enable_sequential_cpu_offload"), ("none", "to")],
)
def test_the_pipeline_is_told_the_device(monkeypatch: pytest.MonkeyPatch, offload: Offload, method: str):
    from diffusers import StableDiffusionPipeline

    called, layouts = [], []
    for name in ("enable_model_cpu_offload", "enable_sequential_cpu_offload", "to"):

        def note(self, *args, _name=name, **kwargs):
            called.append((_name, args, kwargs))
            return self

        monkeypatch.setattr(StableDiffusionPipeline, name, note)
    monkeypatch.setattr(loading, "use_channels_last", lambda pipeline, denoiser: layouts.append(denoiser))
    gpu = torch.device("cuda:1")
    load_pipeline(EMBEDDED_FOLDER, torch.float32, gpu, offload=offload)
    assert called == [(method, (gpu,), {}) if offload == "none" else (method, (), {"device": gpu})]
    assert layouts == ([] if offload == "none" else ["unet"])  # in place before the hooks are


def test_every_worker_receives_it(small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    copied = Path(shutil.copytree(small_dataset, tmp_path / "copy"))  # workers leave their journals
    dataset = Dataset.open(copied)
    made: list[str] = []

    def load(dataset: Dataset, *, offload: str):
        made.append(offload)
        return SimpleNamespace(run_shard=None)

    monkeypatch.setattr(worker_module, "make_worker", load)
    with child.open_loop(dataset, offload="model"):
        pass
    monkeypatch.setattr("sys.argv", ["child", str(copied), "0", "60", "sequential"])
    assert child.main() == 0
    monkeypatch.setattr(ray, "_LOOPS", {})
    assert ray.generate_shard(str(copied), dataset.fingerprint, 1, "model", 0) is None  # done before
    assert made == ["model", "sequential", "model"]
    assert ray.generate_shard(str(copied), dataset.fingerprint, 1, "none", 0) is None
    assert made[3:] == ["none"] and [key[3] for key in ray._LOOPS] == ["none"]  # one model at a time in the GPU


def test_child_processes_are_started_with_it(small_dataset: Path, monkeypatch: pytest.MonkeyPatch):
    started: list[list[str]] = []

    class Process:
        pid, returncode, stdout = 1, 0, None

        def __init__(self, command: list[str], **options):
            started.append(command)

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(local._Supervisor, "_listen", lambda self, slot, process: None)
    progress: Any = SimpleNamespace(update=lambda: None)
    local.run_local(Dataset.open(small_dataset), 2, progress, 4, "sequential")
    assert [command[-1] for command in started] == ["sequential", "sequential"]


def test_it_is_no_part_of_the_plan_and_a_cpu_says_so(small_dataset: Path, tmp_path: Path, cli: CliRun):
    out = tmp_path / "out"
    done = cli(*SMALL, "--offload", "sequential", "--out", out)
    assert done.returncode == 0, done.stderr
    if not torch.accelerator.is_available():
        assert "note: --offload has no effect on a CPU" in done.stderr
        facts = json.loads((out / "data/round-000/.manifests/train-00000.json").read_text())["generator"]
        assert "offload" not in facts
    for name in ("dataset.json", "data/round-000/train-00000-of-00004.parquet"):
        assert (out / name).read_bytes() == (small_dataset / name).read_bytes()
    assert cli("verify", out, "--repair", "--offload", "model").returncode == 0
    image_id = f"{Dataset.open(out).wnids[0]}_000000"
    assert cli("regenerate", out, "--id", image_id, "--offload", "model").returncode == 0


def test_the_manifest_says_it(small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A device that is no CPU by its name alone: everything that computes with it is real."""
    load = worker_module.load_pipeline

    def load_here(folder: Path, dtype: torch.dtype, device: Any, kind: Any, **rest: Any) -> Any:
        return load(folder, dtype, CPU, kind, **rest)

    monkeypatch.setattr(worker_module, "pick_device", lambda: SimpleNamespace(type="gpu"))
    monkeypatch.setattr(worker_module, "load_pipeline", load_here)
    monkeypatch.setattr(worker_module, "pick_dtype", lambda name, device: torch.float32)
    dataset = Dataset.from_document(tmp_path, Dataset.open(small_dataset).document)
    manifest = make_worker(dataset, offload="model").run_shard(0)
    assert manifest.generator["offload"] == "model"
    assert manifest.sha256 == Dataset.open(small_dataset).manifest(dataset.plan.shard(0)).sha256  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize(
    ("offload", "settings", "message"),
    [
        ("disk", {}, "offload is 'disk'"),
        ("model", {"compile": True}, "--offload and --compile do not go together"),
        ("sequential", {"quantize": "int8"}, "--offload sequential and --quantize do not go together"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything(
    tmp_path: Path, offload: Any, settings: dict, message: str
):
    with pytest.raises(PlanError, match=message) as e:
        commands.generate(GenerationConfig(model="embedded", **settings), tmp_path / "out", offload=offload)
    assert e.value.hint and not (tmp_path / "out").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_gpu_gives_the_same_bits_with_less_memory(tmp_path: Path, quantize: Any):
    """Channels-last weights, half precision and all: images and what stays on the GPU between two batches."""
    gpu = torch.device("cuda")
    images, resting = {}, {}
    ways: list[Offload] = ["none", "model", *(["sequential"] if quantize == "none" else [])]
    for offload in ways:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        pipeline = load_pipeline(EMBEDDED_FOLDER, torch.bfloat16, gpu, quantize=quantize, offload=offload)
        generator = ImageGenerator(pipeline, options=SamplingOptions(quantize=quantize), **SAMPLING)
        images[offload] = np.concatenate([generator.generate(REQUESTS[:2]) for _ in range(2)])
        assert generator.device.type == "cuda"
        resting[offload] = torch.cuda.memory_allocated() - before
        del pipeline, generator
    for offload in ways[1:]:
        assert np.array_equal(images[offload], images["none"])
        assert resting[offload] < 0.2 * resting["none"]
