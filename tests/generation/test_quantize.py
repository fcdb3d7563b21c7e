"""Weights in 8 bits: against the closed-form bound of rounding, and against the images without it."""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imagenet_sd.core.errors import ModelError
from imagenet_sd.generation.diffusion.adapter import PipelineGenerator
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.kernels import set_kernels
from imagenet_sd.generation.diffusion.loading import load_pipeline
from imagenet_sd.generation.diffusion.options import SamplingOptions
from imagenet_sd.generation.diffusion.quantization import quantize_linear_layers
from imagenet_sd.generation.kinds import STABLE_DIFFUSION, find_kind
from imagenet_sd.generation.models import EMBEDDED_FOLDER
from tests.conftest import SMALL, CliRun
from tests.generation.loras import changes, original, write_lora
from tests.generation.test_generator import TEXTS, request
from tests.generation.tiny_pipelines import build

CPU = torch.device("cpu")
REQUESTS = [request(text, 100 + i) for i, text in enumerate(TEXTS[:4])]
SAMPLING: dict[str, Any] = {
    "guidance_scale": 2.0,
    "num_inference_steps": 10,
    "width": 32,
    "height": 32,
    "batch_size": 4,
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def linear_layers(pipeline) -> dict[str, torch.nn.Linear]:
    return {name: part for name, part in pipeline.unet.named_modules() if isinstance(part, torch.nn.Linear)}


def sample(**options) -> np.ndarray:
    pipeline = load_pipeline(EMBEDDED_FOLDER, torch.float32, CPU)
    return ImageGenerator(pipeline, options=SamplingOptions(**options), **SAMPLING).generate(REQUESTS)


@pytest.mark.parametrize("quantize", ["int8", "fp8"])
def test_weights_are_within_the_bound_of_rounding(tmp_path: Path, quantize):
    lora = write_lora(tmp_path / "x.safetensors")
    pipeline = load_pipeline(EMBEDDED_FOLDER, torch.float32, CPU, lora=(lora, 1.0), quantize=quantize)
    layers, before, changed = linear_layers(pipeline), original("unet"), changes(1.0)
    assert len(layers) == 50
    for name, layer in layers.items():
        stored: Any = layer.weight
        weight = before[f"{name}.weight"] + changed.get(("unet", name), 0)  # fused first
        dtype = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}[quantize]
        assert type(stored).__module__.startswith("torchao") and stored.qdata.dtype == dtype
        largest = weight.abs().amax(1, keepdim=True)
        error = (stored.dequantize() - weight).abs()
        if quantize == "int8":
            assert torch.allclose(stored.scale, largest / 127.5, rtol=1e-5)
            assert (error <= stored.scale / 2 * (1 + 1e-4) + 1e-7).all()
        else:  # 3 bits of mantissa: half a unit of 2**-3 relative, and the spacing of the smallest numbers
            scale = largest / 448
            assert (error <= (weight.abs() * 2**-4).maximum(scale * 2**-10) * (1 + 1e-4) + 1e-7).all()
        assert error.max() > 0
    assert {p.dtype for p in pipeline.unet.conv_in.parameters()} == {torch.float32}
    assert not any("torchao" in type(p).__module__ for p in pipeline.text_encoder.parameters())


@pytest.mark.parametrize(("quantize", "most"), [("int8", 0.2), ("fp8", 1.0)])
def test_images_stay_close_and_bits_repeat(quantize, most: float):
    """Measured: mean differences of 0.03 and 0.2 of 255."""
    plain, first, second = sample(), sample(quantize=quantize), sample(quantize=quantize)
    difference = np.abs(first.astype(int) - plain).mean()
    assert 0 < difference < most
    assert np.array_equal(first, second)
    pipeline = load_pipeline(EMBEDDED_FOLDER, torch.float32, CPU, quantize=quantize)
    adapter = PipelineGenerator(pipeline, STABLE_DIFFUSION, options=SamplingOptions(quantize=quantize), **SAMPLING)
    assert np.array_equal(adapter.generate(REQUESTS), first)


def test_it_goes_with_offloading_part_by_part():
    pipeline = load_pipeline(EMBEDDED_FOLDER, torch.float32, CPU, quantize="int8", offload="model")
    generator = ImageGenerator(pipeline, options=SamplingOptions(quantize="int8"), **SAMPLING)
    assert np.array_equal(generator.generate(REQUESTS), sample(quantize="int8"))


def test_a_second_time_does_nothing():
    layer = torch.nn.Sequential(torch.nn.Linear(64, 64))
    quantize_linear_layers(layer, "none")
    assert type(layer[0].weight) is torch.nn.Parameter
    quantize_linear_layers(layer, "int8")
    stored = layer[0].weight
    quantize_linear_layers(layer, "int8")
    assert layer[0].weight is stored


@pytest.mark.slow
def test_it_goes_with_compiling(monkeypatch: pytest.MonkeyPatch):
    """All but the code generator: graphs are captured and run as they are."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    plain = sample(quantize="int8")
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend=backend))
    assert np.abs(plain.astype(int) - sample(quantize="int8", compile=True)).max() <= 1
    assert graphs
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("model", "pipeline_class"), [("sdxl", "StableDiffusionXLPipeline"), ("flux-dev", "FluxPipeline")]
)
def test_other_kinds_can_be_compiled_too(tmp_path: Path, model: str, pipeline_class: str):
    """Projections become one product before compilation, but torchao's weights cannot be joined."""
    folder, kind = build(model, tmp_path / model), find_kind(pipeline_class)
    pipeline = load_pipeline(folder, torch.float32, CPU, kind, quantize="int8")
    set_kernels(pipeline, kind.denoiser, SamplingOptions(quantize="int8", compile=True), regional=True)
    denoiser = getattr(pipeline, kind.denoiser)
    assert any(module._compiled_call_impl is not None for module in denoiser.modules())
    assert not any(name.endswith("to_qkv") for name, _ in denoiser.named_modules())


def test_recorded_and_told_apart(tmp_path: Path, cli: CliRun):
    out, command = tmp_path / "out", [*SMALL, "--quantize", "int8"]
    done = cli(*command, "--out", out)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "dataset.json").read_text())["settings"]["quantize"] == "int8"
    facts = json.loads((out / "data/round-000/.manifests/train-00000.json").read_text())["generator"]
    assert "torchao" in facts["versions"]
    assert "| `quantize` | int8 |" in (out / "README.md").read_text()
    (shard,) = out.glob("data/*/train-00001-*.parquet")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    assert json.loads(cli("verify", out, "--repair", "--format", "json").stdout)["repaired"][0]["identical"] is True
    assert shard.read_bytes() == whole
    refused = cli(*SMALL, "--out", out)
    assert refused.returncode == 1 and "quantize: 'int8' there, 'none' asked for" in refused.stderr


def test_without_torchao_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ModelError, match=r"^torchao (is not installed|cannot be imported)") as e:
        sample(quantize="int8")
    assert 'pip install "imagenet-sd[quantize]"' in e.value.hint and "leave out --quantize" in e.value.hint


def test_a_device_that_cannot_is_named(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args, **options):
        raise NotImplementedError("no kernel\nfor float8 here")

    monkeypatch.setattr("torchao.quantization.quantize_", refuse)
    message = "--quantize fp8 cannot run in torch.float32 on cpu: no kernel for float8 here"
    with pytest.raises(ModelError, match=f"^{message}$") as e:
        sample(quantize="fp8")
    assert "leave out --quantize" in e.value.hint
