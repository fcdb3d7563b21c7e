"""Every kind of pipeline: defaults, the stock pipeline's images, and all promises of a dataset, on tiny models."""

import inspect
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from imagenet_sd import pipeline
from imagenet_sd.core.errors import ModelError, PlanError
from imagenet_sd.core.files import sha256_file
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.diffusion.adapter import PipelineGenerator
from imagenet_sd.generation.diffusion.batches import BatchGenerator
from imagenet_sd.generation.diffusion.kernels import use_channels_last
from imagenet_sd.generation.diffusion.loading import load_pipeline
from imagenet_sd.generation.diffusion.options import SamplingOptions
from imagenet_sd.generation.kinds import find_kind
from imagenet_sd.generation.models import identify, resolve
from imagenet_sd.generation.plan import make_plan
from imagenet_sd.generation.worker import make_worker
from imagenet_sd.storage.dataset import Dataset
from tests.generation.test_generator import request as request_for
from tests.generation.tiny_pipelines import KINDS, build

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
UNGUIDED = ("sd-turbo", "sdxl-turbo", "flux-schnell")
IGNORE_NEGATIVE = (*UNGUIDED, "flux-dev", "lcm")
PAUSE = 0.3
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    return {kind: build(kind, folder / kind) for kind in KINDS}


def config_for(model: Path, **changes: Any) -> GenerationConfig:
    """Ten images in three shards, batches of three, so that each shard ends with padding."""
    values = {
        "classes": "photos-10",
        "images_per_class": 1,
        "shard_size": 4,
        "batch_size": 3,
        "width": 64,
        "height": 64,
    }
    return GenerationConfig(model=str(model), **{**values, "num_inference_steps": 2, **changes})


def generate_slowly(config: GenerationConfig, out: Path) -> None:
    """Target of a process that is to be killed between two batches."""
    generate = BatchGenerator.generate

    def slow(self: BatchGenerator, requests: Any) -> np.ndarray:
        time.sleep(PAUSE)
        return generate(self, requests)

    BatchGenerator.generate = slow
    pipeline.generate(config, out, workers=1)


def shard_hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.glob("data/*/*.parquet"))}


def stock_images(model: Path, requests: Any, settings: dict[str, Any], **arguments: Any) -> np.ndarray:
    """uint8 [N, 64, 64, 3] of the stock pipeline, called with a list of prompts and one generator each."""
    stock: Any = DiffusionPipeline.from_pretrained(model, use_safetensors=True, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    if model.name.startswith(("sana", "pixart")):
        arguments["use_resolution_binning"] = False
    if model.name.startswith("pixart"):
        arguments["clean_caption"] = False
    if model.name == "flux-schnell":
        arguments["max_sequence_length"] = 256
    images = stock(
        [request.prompt.text for request in requests],
        generator=[torch.Generator().manual_seed(request.seed) for request in requests],
        width=settings["width"],
        height=settings["height"],
        num_inference_steps=settings["num_inference_steps"],
        guidance_scale=settings["guidance_scale"],
        output_type="np",
        **arguments,
    ).images
    return (images * 255).round().astype("uint8")


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_those_of_the_stock_pipeline(models: dict[str, Path], kind: str):
    """Bit for bit when it gets one prompt at a time; a list it encodes together, which may round to the next level."""
    for text in {"", "" if kind in IGNORE_NEGATIVE else "blurred"}:
        config = config_for(models[kind], negative_prompt=text)
        plan, document = make_plan(config, identify(config))
        generator = make_worker(Dataset.from_document(Path("unused"), document)).generator
        requests, settings = plan.requests(plan.shard(0))[:3], document["settings"]
        negative = {"negative_prompt": [text] * 3} if text else {}
        together = stock_images(models[kind], requests, settings, **negative)
        assert np.abs(generator.generate(requests).astype(int) - together).max() <= 1
        generator.batch_size = 1
        for request in requests[:2]:
            alone = stock_images(models[kind], [request], settings, **{key: [text] for key in negative})
            assert np.array_equal(generator.generate([request]), alone)
        assert not np.array_equal(together[0], together[1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_resumed_verified_regenerated(models: dict[str, Path], kind: str, tmp_path: Path):
    config = config_for(models[kind])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    pipeline.generate(config, whole, workers=1)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.generation.test_kinds"])
    process = context.Process(target=generate_slowly, args=(config, killed))
    process.start()
    until = time.monotonic() + 120
    while not list(killed.glob("data/*/.manifests/*.json")) and time.monotonic() < until and process.is_alive():
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -9
    assert 1 <= len(list(killed.glob("data/*/.manifests/*.json"))) < 3
    pipeline.generate(config, killed, workers=1)
    assert len(shard_hashes(whole)) == 3
    assert shard_hashes(killed) == shard_hashes(whole)
    assert pipeline.verify(killed)["sound"]
    assert pipeline.regenerate(killed, "n02958343_000000")["identical_bytes"]
    own = json.loads((models[kind] / "model_index.json").read_text())["_class_name"]
    assert Dataset.open(killed).settings.get("pipeline", "StableDiffusionPipeline") == own


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_those_of_the_pipeline(models: dict[str, Path], kind: str):
    index = json.loads((models[kind] / "model_index.json").read_text())
    call = inspect.signature(getattr(diffusers, index["_class_name"]).__call__).parameters
    found = find_kind(index["_class_name"])
    assert (found.steps, found.guidance_scale) == (call["num_inference_steps"].default, call["guidance_scale"].default)
    config = resolve(GenerationConfig(model=str(models[kind])))
    if kind in UNGUIDED:
        assert config.guidance_scale == 1
        assert config.num_inference_steps == {"sd-turbo": 1, "sdxl-turbo": 1, "flux-schnell": 4}[kind]
    else:
        assert (config.num_inference_steps, config.guidance_scale) == (found.steps, found.guidance_scale)
    native = {"sd15": (512, 384), "sd-turbo": (512, 384), "pixart-alpha": (1024, 1024)}
    flux = (1024, 1024) if kind.startswith("flux") else (64, 64)
    assert config.size == native.get(kind, flux)


def test_guidance_is_refused_where_there_is_none(models: dict[str, Path]):
    with pytest.raises(PlanError, match="schnell generates without guidance"):
        resolve(config_for(models["flux-schnell"], guidance_scale=2))
    assert resolve(config_for(models["flux-schnell"], guidance_scale=1)).guidance_scale == 1


@pytest.mark.parametrize("kind", ["sd-turbo", "sdxl-turbo"])
def test_a_scheduler_as_of_turbo_forbids_no_guidance(models: dict[str, Path], kind: str):
    """A model that is not distilled may have it too."""
    config = config_for(models[kind], guidance_scale=2, negative_prompt="blurred")
    plan, document = make_plan(config, identify(config))
    requests, settings = plan.requests(plan.shard(0))[:3], document["settings"]
    ours = make_worker(Dataset.from_document(Path("unused"), document)).generator.generate(requests)
    stock = stock_images(models[kind], requests, settings, negative_prompt=["blurred"] * 3)
    assert np.abs(ours.astype(int) - stock).max() <= 1
    unguided = stock_images(models[kind], requests, settings | {"guidance_scale": 1.0})
    assert np.abs(ours.astype(int) - unguided).max() > 1


def test_the_last_part_of_a_name_says_what_configurations_do_not():
    sd3, flux = find_kind("StableDiffusion3Pipeline"), find_kind("FluxPipeline")
    for kind, word in ((sd3, "turbo"), (flux, "schnell")):
        assert kind.of(lambda part: {}, f"/home/{word}/medium").guidance == kind.guidance
        assert kind.of(lambda part: {}, f"someone/large-{word.title()}").guidance == "none"


@pytest.mark.parametrize(
    ("pipeline_class", "multiple"),
    [("FluxPipeline", 16), ("StableDiffusion3Pipeline", 16), ("PixArtSigmaPipeline", 16), ("SanaPipeline", 32)],
)
def test_a_size_that_a_model_cannot_generate_is_refused(pipeline_class: str, multiple: int):
    kind = find_kind(pipeline_class)
    kind.check("my/model", kind.guidance_scale, "", size=(multiple, 5 * multiple))
    with pytest.raises(PlanError, match=rf"^size is 64x72, and my/model \({kind.pipeline}\) .* of {multiple} pixels"):
        kind.check("my/model", kind.guidance_scale, "", size=(64, 72))


@pytest.mark.parametrize(
    ("kind", "compiled", "message"),
    [
        ("flux-dev", False, "^FluxPipeline generates 64x64 where 64x72 is asked for"),
        ("sana", True, "^SanaPipeline refuses: .* divisible by 32"),  # and is not taken for a fault of the compiler
    ],
)
def test_images_of_another_size_are_refused(models: dict[str, Path], kind: str, compiled: bool, message: str):
    found = find_kind(json.loads((models[kind] / "model_index.json").read_text())["_class_name"])
    sampling: dict[str, Any] = {
        "guidance_scale": 2.0,
        "num_inference_steps": 1,
        "width": 64,
        "height": 72,
        "batch_size": 1,
    }
    with pytest.raises(ModelError, match=message):
        PipelineGenerator(
            load_pipeline(models[kind], torch.float32, CPU, found),
            found,
            **sampling,
            options=SamplingOptions(compile=compiled),
        ).generate([request_for("a photo of a dog", 0)])


@pytest.mark.parametrize("kind", IGNORE_NEGATIVE)
def test_a_negative_prompt_is_refused_where_it_is_ignored(models: dict[str, Path], kind: str):
    with pytest.raises(PlanError, match=r"negative.prompt"):
        resolve(config_for(models[kind], negative_prompt="blurred"))


@pytest.mark.parametrize(("name", "value"), [("guidance_interval", (0.2, 0.8)), ("cache_interval", 2)])
def test_options_of_the_own_loop_are_refused(models: dict[str, Path], name: str, value: Any):
    with pytest.raises(PlanError, match=f"{name} is for Stable Diffusion 1 and 2"):
        resolve(config_for(models["sdxl"], **{name: value}))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("sd3", {"scheduler": "ddim"}, "samples with FlowMatchEulerDiscreteScheduler"),
        ("flux-dev", {"attention": "xformers"}, "is for UNets"),
        ("lcm", {"num_inference_steps": 60}, "was distilled from 50 steps"),
        ("sana", {"width": 48, "height": 48}, "size is 48x48, and .* generates multiples of 32 pixels"),
    ],
)
def test_what_a_pipeline_cannot_do_is_said_before_anything_is_written(
    models: dict[str, Path], tmp_path: Path, kind: str, options: dict[str, Any], message: str
):
    with pytest.raises(PlanError, match=message):
        pipeline.generate(config_for(models[kind], **options), tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_another_scheduler_samples_an_sdxl(models: dict[str, Path], tmp_path: Path):
    pipeline.generate(config_for(models["sdxl"], scheduler="dpm++"), tmp_path / "out", workers=1)
    manifest = json.loads(next(tmp_path.glob("out/data/*/.manifests/*.json")).read_text())
    assert manifest["generator"]["scheduler"] == "DPMSolverMultistepScheduler"


def test_a_pipeline_without_a_file_of_its_own_gets_its_prompts_as_text(tmp_path: Path, models: dict[str, Path]):
    """PAG's variant of SDXL is the same model; without its guidance (scale 0) it gives the images of SDXL."""
    model = build("sdxl", tmp_path / "pag")
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLPAGPipeline"}))
    config = config_for(model, shard_size=10)
    pipeline.generate(config, tmp_path / "out", workers=1)
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.settings["pipeline"] == "StableDiffusionXLPAGPipeline"
    requests = dataset.plan.requests(dataset.plan.shard(0))[:3]
    ours = make_worker(dataset).generator.generate(requests)
    assert np.array_equal(ours, stock_images(model, requests, dataset.settings))
    with pytest.raises(ModelError, match="is no pipeline that turns texts alone into images"):
        find_kind("StableVideoDiffusionPipeline")


def test_qwen_is_guided_by_the_argument_that_it_takes():
    """Not by `guidance_scale`, and only if there is a negative prompt."""

    class TinyQwen(diffusers.QwenImagePipeline):
        """Random embeddings of each prompt stand for those of its text encoder, a language model."""

        def encode_prompt(self, prompt: Any, *_: Any, **__: Any) -> Any:
            rows = [torch.randn(7, 16, generator=torch.Generator().manual_seed(len(text))) for text in prompt]
            return torch.stack(rows), torch.ones(len(prompt), 7, dtype=torch.int64)

    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "text_encoder": None,
        "tokenizer": None,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
        "vae": diffusers.AutoencoderKLQwenImage(
            base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True],
            latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        ),
        "transformer": diffusers.QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
        ),
    }  # fmt: skip
    stock: Any = TinyQwen(**parts)
    stock.set_progress_bar_config(disable=True)
    use_channels_last(stock, "transformer")  # leaves the image decoder alone, whose convolutions have 5 dimensions
    kind = find_kind("QwenImagePipeline")
    assert (kind.guidance_scale, kind.scale_argument, kind.guidance) == (4.0, "true_cfg_scale", "classifier-free")
    requests = [request_for("a red dog", 0), request_for("three", 1)]
    sampling: dict[str, Any] = {"num_inference_steps": 2, "width": 32, "height": 32}
    images = []
    for scale, negative in ((4.0, ""), (4.0, "blurred"), (1.0, "")):
        generator = PipelineGenerator(
            stock, kind, **sampling, guidance_scale=scale, negative_prompt=negative, batch_size=2
        )
        images.append(generator.generate(requests))
        expected = stock(
            [request.prompt.text for request in requests],
            generator=[torch.Generator().manual_seed(request.seed) for request in requests],
            true_cfg_scale=scale,
            negative_prompt=[negative] * 2,
            output_type="np",
            **sampling,
        ).images
        assert np.array_equal(images[-1], (expected * 255).round().astype("uint8"))
    assert len({each.tobytes() for each in images}) == 3


def test_a_kind_is_one_short_file():
    folder = Path(find_kind.__code__.co_filename).parent
    for path in folder.glob("*.py"):
        if path.name not in ("__init__.py", "base.py"):
            assert len(path.read_text().splitlines()) < 60


@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
def test_calibration_measures_batches_or_single_steps(models: dict[str, Path], kind: str):
    whole = pipeline.calibrate(config_for(models[kind]), seconds=4)
    assert whole["sample_images"] >= 3
    assert not whole["extrapolated"]
    assert whole["device_hours"] == pytest.approx(10 / whole["images_per_second"] / 3600)
    single = pipeline.calibrate(config_for(models[kind], num_inference_steps=20), seconds=0)
    assert single["extrapolated"]
    assert single["images_per_second"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flux-dev"])
def test_compiled_images_differ_by_rounding_only(models: dict[str, Path], kind: str, tmp_path: Path):
    images = []
    for compiled in (False, True):
        config = config_for(models[kind], compile=compiled)
        plan, document = make_plan(config, identify(config))
        generator = make_worker(Dataset.from_document(tmp_path, document)).generator
        images.append(generator.generate(plan.requests(plan.shard(0))[:3]).astype(int))
    blocks = [module for module in generator.denoiser.modules() if module._compiled_call_impl is not None]
    assert {type(block).__name__ for block in blocks} == set(generator.denoiser._repeated_blocks)
    assert np.abs(images[0] - images[1]).max() <= 2
