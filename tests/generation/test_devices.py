"""GPUs that fail, are missing, have too little memory, or no bfloat16: acted out on a CPU."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import accelerate
import pytest
import torch

from imagenet_sd.core import layout
from imagenet_sd.core.errors import DeviceError, GenerationMemoryError
from imagenet_sd.generation.workers.status import failures
from imagenet_sd.storage.dataset import Dataset
from tests.fakes import replay_loop
from tests.generation.test_resume import shard_hashes

BROKEN = "CUDA error: an illegal memory access was encountered"


@pytest.mark.parametrize(
    ("failure", "error", "message", "hint"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), GenerationMemoryError, "batch of 4",
         "--batch-size 2"),
        (RuntimeError(f"{BROKEN}\nCUDA kernel errors might be reported late"), DeviceError, f"the GPU failed: {BROKEN}",
         "a new process"),
    ],
    ids=["memory", "broken"],
)  # fmt: skip
def test_what_every_shard_would_meet_stops_the_worker_and_marks_none(
    failure: Exception, error: type[Exception], message: str, hint: str, small_dataset: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """Too little memory, and a GPU after whose failure every call fails: the shards are left to other workers."""
    from diffusers import UNet2DConditionModel

    from imagenet_sd.generation.workers.engines.child import open_loop

    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(small_dataset / "dataset.json", out)
    calls = []

    def failing(*args, **options):
        calls.append(1)
        raise failure

    with open_loop(Dataset.open(out)) as loop:
        with monkeypatch.context() as patch:
            patch.setattr(UNet2DConditionModel, "forward", failing)
            with pytest.raises(error, match=message) as caught:
                loop.run()
        assert hint in caught.value.hint and len(calls) == 1
        assert not shard_hashes(out) and not failures(loop.dataset)
        assert not list((out / layout.LEASES).glob("*.lease"))
    with open_loop(Dataset.open(out)) as loop:
        loop.run()
    assert shard_hashes(out) == shard_hashes(small_dataset)


def test_a_ray_worker_whose_gpu_failed_makes_room_for_another(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It ends without an answer: Ray runs the task of a lost process again; an error would end the whole run."""
    from imagenet_sd.generation.workers.engines import ray

    def broken(i: int, on_batch: object) -> None:
        raise DeviceError("the GPU failed")

    with replay_loop(small_dataset, tmp_path / "out") as (loop, _):
        loop.run_shard = broken
        monkeypatch.setitem(ray._LOOPS, ("out", "f", 1, "none"), (None, loop))
        monkeypatch.setattr(os, "_exit", lambda code: sys.exit(code))
        with pytest.raises(SystemExit) as ended:
            ray.generate_shard("out", "f", 1, "none", 0)
        assert ended.value.code == 2 and not failures(loop.dataset)
        assert not list((tmp_path / "out" / layout.LEASES).glob("*.lease"))


@pytest.mark.parametrize("text", ["CUBLAS_STATUS_ALLOC_FAILED when calling", "CUDA error: out of memory"])
def test_memory_that_a_library_lacks_is_memory(text: str):
    from imagenet_sd.generation.diffusion.batches import device_failed, out_of_memory

    assert out_of_memory(RuntimeError(text)) and not out_of_memory(RuntimeError(BROKEN))
    assert device_failed(RuntimeError(BROKEN)) and not device_failed(RuntimeError("a kernel failed"))
    assert not device_failed(RuntimeError(text)) and not device_failed(RuntimeError("CUDA error: no kernel image is"))


def test_too_little_memory_for_the_weights_is_said(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from diffusers import StableDiffusionPipeline

    from imagenet_sd.generation.worker import make_worker

    def hungry(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(StableDiffusionPipeline, "to", hungry)
    with pytest.raises(GenerationMemoryError, match="cpu device has too little memory for the weights of embedded"):
        make_worker(Dataset.open(small_dataset))

    def broken(*args, **options):
        raise RuntimeError(BROKEN)

    monkeypatch.setattr(StableDiffusionPipeline, "to", broken)
    with pytest.raises(DeviceError, match="the GPU failed"):
        make_worker(Dataset.open(small_dataset))


def test_a_gpu_that_is_named_and_missing_is_an_error(monkeypatch: pytest.MonkeyPatch):
    """Not a worker on the CPU, whose images have other bits and take days."""
    from imagenet_sd.generation.diffusion.loading import pick_device

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(accelerate, "PartialState", lambda: SimpleNamespace(device=torch.device("cpu")))
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    for value in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert pick_device().type == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES is 3, and no GPU"):
        pick_device()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert pick_device().type == "cpu"


def test_a_gpu_without_bfloat16_takes_float16(monkeypatch: pytest.MonkeyPatch):
    """GPUs before Ampere emulate it: PyTorch says yes unless asked for instructions."""
    from imagenet_sd.generation.diffusion.loading import pick_dtype

    class Turing:
        major = 7

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name, value in (("is_available", True), ("current_device", 0), ("get_device_properties", Turing)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert pick_dtype("auto", torch.device("cuda")) is torch.float16
    Turing.major = 8
    assert pick_dtype("auto", torch.device("cuda")) is torch.bfloat16
