"""The sampling options: against diffusers' own pipeline where it can do the same, else against a plain computation."""

import functools
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from imagenet_sd.core.errors import GenerationMemoryError, ModelError, PlanError
from imagenet_sd.core.types import ImageRequest
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.diffusion.caching import DeepCache
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.loading import load_pipeline
from imagenet_sd.generation.diffusion.options import SamplingOptions
from imagenet_sd.generation.diffusion.schedulers import SCHEDULERS
from imagenet_sd.generation.models import EMBEDDED_FOLDER, ModelIdentity
from imagenet_sd.generation.plan import difference, make_plan
from imagenet_sd.generation.worker import generator_facts
from imagenet_sd.storage.dataset import load_plan
from tests.conftest import SMALL, CliRun
from tests.generation.test_generator import TEXTS, request

MODEL = ModelIdentity(model_id="some/model", revision="abc")
REQUESTS = [request(text, 100 + i) for i, text in enumerate(TEXTS[:3])]
BATCH = len(REQUESTS)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new_pipeline():
    return load_pipeline(EMBEDDED_FOLDER, torch.float32, torch.device("cpu"))


def generator_for(pipeline=None, *, scale: float = 2.0, steps: int = 4, **options) -> ImageGenerator:
    return ImageGenerator(
        pipeline or new_pipeline(),
        guidance_scale=scale,
        num_inference_steps=steps,
        width=32,
        height=32,
        batch_size=BATCH,
        options=SamplingOptions(**options),
    )


def stock(pipeline, requests: list[ImageRequest], **options) -> np.ndarray:
    """What diffusers' own pipeline generates."""
    noise = [torch.Generator().manual_seed(r.seed) for r in requests]
    images = pipeline([r.prompt.text for r in requests], num_inference_steps=4, generator=noise, **options).images
    return np.stack([np.asarray(image) for image in images])


def calls(module: torch.nn.Module) -> list[int]:
    """Gets the batch size of every call of a module."""
    seen: list[int] = []

    def note(_, args, kwargs):
        seen.append(len(args[0] if args else kwargs["hidden_states"]))

    module.register_forward_pre_hook(note, with_kwargs=True)
    return seen


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_gives_what_diffusers_gives_with_it(name: str):
    pipeline = new_pipeline()
    own = pipeline.scheduler
    generator = generator_for(pipeline, scheduler=name)
    ours = generator.generate(REQUESTS)
    assert np.array_equal(ours, generator.generate(REQUESTS))  # a scheduler has a state, which a batch must not inherit
    assert pipeline.scheduler is own
    assert generator_facts(generator)["scheduler"] == SCHEDULERS[name]
    pipeline.scheduler = getattr(diffusers, SCHEDULERS[name]).from_config(own.config)
    assert np.array_equal(ours, stock(pipeline, REQUESTS, guidance_scale=2.0))


def test_the_guidance_interval_is_that_of_a_pipeline_switched_in_its_callback():
    """diffusers documents how to change guidance on the way: other embeddings, and `_guidance_scale` (dynamic CFG)."""
    pipeline = new_pipeline()
    ours = generator_for(pipeline, scheduler="ddim", guidance_interval=(0.25, 0.75)).generate(REQUESTS)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    empty, _ = pipeline.encode_prompt("", pipeline.device, BATCH, do_classifier_free_guidance=False)

    def switch(pipe, step, timestep, tensors):
        if step == 0:  # the next one is the second of four: fraction 0.25
            pipe._guidance_scale = 2.0
            return {"prompt_embeds": torch.cat([empty, tensors["prompt_embeds"]])}
        if step == 2:
            pipe._guidance_scale = 1.0
            return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[1]}
        return {}

    theirs = stock(
        pipeline,
        REQUESTS,
        guidance_scale=1.0,
        callback_on_step_end=switch,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )
    assert np.array_equal(ours, theirs)


def test_the_ends_of_the_guidance_interval():
    whole = generator_for().generate(REQUESTS)
    assert np.array_equal(generator_for(guidance_interval=(0, 1)).generate(REQUESTS), whole)
    unguided = generator_for(scale=1.0).generate(REQUESTS)
    assert not np.array_equal(unguided, whole)
    # PNDM takes 5 calls for 4 steps, at 0, 0.2, ... 0.8: none of them lies in [0.85, 1), nor in an empty interval.
    assert np.array_equal(generator_for(guidance_interval=(0.85, 1.0)).generate(REQUESTS), unguided)
    assert np.array_equal(generator_for(guidance_interval=(0.5, 0.5)).generate(REQUESTS), unguided)


def test_steps_outside_the_interval_run_the_conditional_branch_alone():
    generator = generator_for(scheduler="ddim", steps=8, guidance_interval=(0.25, 0.75))
    rows = calls(generator.pipeline.unet)
    generator.generate(REQUESTS)
    assert rows == [BATCH] * 2 + [2 * BATCH] * 4 + [BATCH] * 2


def test_no_cache_is_the_default_bits():
    pipeline = new_pipeline()
    generator = generator_for(pipeline, cache_interval=1)
    assert np.array_equal(generator.generate(REQUESTS), stock(pipeline, REQUESTS, guidance_scale=2.0))
    hooked = [name for name, module in pipeline.unet.named_modules() if hasattr(module, "_diffusers_hook")]
    assert all(name.endswith(("attn2.to_k", "attn2.to_v")) for name in hooked)  # the deep blocks have none


def test_prompts_are_projected_once_per_batch_and_the_bits_stay():
    pipeline = new_pipeline()
    other = [replace(r, seed=r.seed + 50) for r in REQUESTS[::-1]]
    expected = [stock(pipeline, requests, guidance_scale=2.0) for requests in (REQUESTS, other)]
    projections = [m for name, m in pipeline.unet.named_modules() if name.endswith((".attn2.to_k", ".attn2.to_v"))]
    computed = []
    for module in projections:
        module.forward = lambda x, forward=module.forward: computed.append(len(x)) or forward(x)
    generator = generator_for(pipeline)
    assert np.array_equal(generator.generate(REQUESTS), expected[0])
    assert computed == [2 * BATCH] * len(projections) and projections
    assert np.array_equal(generator.generate(other), expected[1])  # other prompts: nothing of the first batch is left
    assert len(computed) == 2 * len(projections)
    computed.clear()
    generator_for(pipeline, guidance_interval=(0.5, 1.0)).generate(REQUESTS)  # first without guidance, then with it
    assert computed == [BATCH] * len(projections) + [2 * BATCH] * len(projections)


def test_the_cache_skips_the_deep_blocks_and_keeps_the_pictures_close():
    plain = generator_for(steps=20, scheduler="ddim").generate(REQUESTS).astype(float)
    generator = generator_for(steps=20, scheduler="ddim", cache_interval=3)
    unet = generator.pipeline.unet
    deep = [calls(block.resnets[0]) for block in (*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1])]
    shallow = [calls(block.resnets[0]) for block in (unet.down_blocks[0], unet.up_blocks[-1])]
    cached = generator.generate(REQUESTS)
    assert [len(seen) for seen in deep] == [7] * len(deep)  # steps 0, 3, ... 18
    assert [len(seen) for seen in shallow] == [20, 20]
    assert np.array_equal(cached, generator.generate(REQUESTS))
    others = generator_for(steps=20, scheduler="ddim").generate([replace(r, seed=r.seed + 50) for r in REQUESTS])
    error, spread = np.abs(cached - plain).mean(), np.abs(others - plain).mean()
    assert 0 < error < 0.25 * spread


def test_a_cached_step_is_the_shallow_path_over_the_kept_feature():
    unet = new_pipeline().unet
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 12, 8, 8).unbind()
    context = torch.randn(3, 77, 128)
    kept = []
    unet.up_blocks[-2].register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.inference_mode():
        plain = unet(first, torch.tensor(500), encoder_hidden_states=context).sample
        fresh = unet(second, torch.tensor(480), encoder_hidden_states=context).sample
        features = DeepCache(unet)
        assert torch.equal(unet(first, torch.tensor(500), encoder_hidden_states=context).sample, plain)
        features.reuse = True
        cached = unet(second, torch.tensor(480), encoder_hidden_states=context).sample

        time = unet.time_embedding(unet.get_time_embed(second, torch.tensor(480)))
        entry = unet.conv_in(second)
        _, skips = unet.down_blocks[0](entry, time)
        last = unet.up_blocks[-1]
        hidden = last(kept[0], (entry, *skips)[: len(last.resnets)], time)
        expected = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
        assert torch.equal(cached, expected)
        assert not torch.equal(cached, fresh)

        features.clear()
        assert torch.equal(unet(second, torch.tensor(480), encoder_hidden_states=context).sample, fresh)
        again = DeepCache(unet)  # replaces the other, which has no effect any more
        features.reuse = True
        assert torch.equal(unet(second, torch.tensor(480), encoder_hidden_states=context).sample, fresh)
        again.clear()


def test_features_are_computed_again_where_guidance_begins_and_ends():
    generator = generator_for(scheduler="ddim", steps=8, guidance_interval=(0.25, 0.625), cache_interval=4)
    deep = calls(generator.pipeline.unet.mid_block.resnets[0])
    generator.generate(REQUESTS)
    # Steps 0 and 4 by the interval of the cache, step 2 as guidance begins, step 5 as it ends.
    assert deep == [BATCH, 2 * BATCH, 2 * BATCH, BATCH]


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again():
    """Page faults of a process that asks for three large tensors and frees them, again and again."""
    code = (
        "import resource, torch\n"
        "{}\n"
        "for k in range(40):\n"
        "    if k == 10: before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    tensors = [torch.zeros(2 << 20) for _ in range(3)]\n"  # 8 MiB each
        "    del tensors\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    calls = ("pass", "from imagenet_sd.generation.diffusion.loading import keep_freed_memory; keep_freed_memory()")
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "131072"}  # else glibc's default depends on what came before
    commands = [[sys.executable, "-c", code.format(call)] for call in calls]
    default, kept = (int(subprocess.check_output(command, text=True, env=environment)) for command in commands)
    assert kept < default / 10, (default, kept)


@pytest.mark.slow
def test_compiled_modules_see_one_shape_each_and_compile_once(monkeypatch: pytest.MonkeyPatch):
    """The whole path but for the code generator: graphs are captured and run as they are."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend=backend))
    options = {"scheduler": "ddim", "guidance_interval": (0.0, 0.5)}
    plain = generator_for(**options).generate(REQUESTS)
    generator = generator_for(compile=True, **options)
    warm = len(graphs)
    assert warm >= 3  # UNet guided and not, decoder
    images = generator.generate(REQUESTS)
    generator.generate(REQUESTS[:1])
    assert len(graphs) == warm  # neither a new timestep nor a short batch compiles anything
    assert np.abs(images.astype(int) - plain).max() <= 1  # channels last adds up in another order
    torch._dynamo.reset()


@pytest.mark.slow
def test_without_a_compiler_nothing_is_generated(tmp_path: Path, cli: CliRun):
    env = {**os.environ, "CXX": str(tmp_path / "no-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = cli(*SMALL, "--compile", "--out", tmp_path / "out", env=env)
    assert done.returncode == 1
    assert "cannot be compiled here" in done.stderr and "leave out --compile" in done.stderr
    assert not list(tmp_path.glob("out/data/*/*.parquet"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="xformers may run here")
def test_xformers_that_cannot_run_is_reported_before_the_first_image():
    with pytest.raises(ModelError, match=r"^xformers (is not installed|cannot be imported|has no attention that)") as e:
        generator_for(attention="xformers")
    assert "leave out --attention xformers" in e.value.hint


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ImportError('undefined symbol: _ZN3c10')", r"cannot be imported: undefined symbol"),
        (
            "def memory_efficient_attention(q, k, v):\n    raise NotImplementedError('No operator\\nfound')",
            "on cpu: No o",
        ),
    ],
)
def test_a_broken_xformers_is_a_known_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str):
    (tmp_path / "xformers").mkdir()
    (tmp_path / "xformers" / "__init__.py").touch()
    (tmp_path / "xformers" / "ops.py").write_text(code)
    for name in [name for name in sys.modules if name.partition(".")[0] == "xformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=message) as e:
        generator_for(attention="xformers")
    assert "\n" not in str(e.value)
    for name in ("xformers", "xformers.ops"):
        sys.modules.pop(name, None)


def _cuda_says_no(*args, **options):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")


def _the_cpu_says_no(*args, **options):
    return torch.empty(1 << 58)


@pytest.mark.parametrize("fault", [_cuda_says_no, _the_cpu_says_no])
def test_too_little_memory_names_a_remedy(monkeypatch: pytest.MonkeyPatch, fault):
    generator = generator_for(cache_interval=2)
    before = generator.generate(REQUESTS)
    with monkeypatch.context() as patch:
        patch.setattr(generator.pipeline.unet, "forward", fault)
        with pytest.raises(GenerationMemoryError, match="a batch of 3 images") as e:
            generator.generate(REQUESTS)
        assert "--batch-size 1 " in e.value.hint and "part of the plan" in e.value.hint and "new folder" in e.value.hint
        generator.batch_size = 1
        with pytest.raises(GenerationMemoryError) as e:
            generator.generate(REQUESTS[:1])
        assert "a smaller --size" in e.value.hint
    generator.batch_size = BATCH
    assert np.array_equal(generator.generate(REQUESTS), before)


def test_another_runtime_error_stays_what_it_is(monkeypatch: pytest.MonkeyPatch):
    generator = generator_for()
    monkeypatch.setattr(generator.pipeline.unet, "forward", lambda *_, **__: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        generator.generate(REQUESTS)


def plan_document(own_classes: Path, **settings) -> dict:
    return make_plan(GenerationConfig(classes=str(own_classes), **settings), MODEL)[1]


def test_datasets_from_before_these_options_keep_their_fingerprint(own_classes: Path):
    """Computed by the version before there were such options; their settings lack the keys, and still open."""
    document = plan_document(own_classes)
    assert document["fingerprint"] == "49d780ef90a0ff157fe114ae37bcbb2e"
    assert not {"scheduler", "guidance_interval", "cache_interval", "attention", "compile", "nsfw_checker"} & set(
        document["settings"]
    )
    assert load_plan(document).fingerprint == document["fingerprint"]
    assert SamplingOptions.from_settings(document["settings"]) == SamplingOptions()


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"scheduler": "ddim"}, "scheduler: '' there, 'ddim' asked for"),
        ({"guidance_interval": (0, 0.5)}, "guidance_interval: [0.0, 1.0] there, [0.0, 0.5] asked for"),
        ({"cache_interval": 3}, "cache_interval: 1 there, 3 asked for"),
        ({"attention": "xformers"}, "attention: 'sdpa' there, 'xformers' asked for"),
        ({"compile": True}, "compile: False there, True asked for"),
    ],
)
def test_an_option_is_recorded_and_told_apart_both_ways(own_classes: Path, setting: dict, line: str):
    without, with_ = plan_document(own_classes), plan_document(own_classes, **setting)
    assert set(with_["settings"]) - set(without["settings"]) == set(setting)
    assert with_["fingerprint"] != without["fingerprint"]
    assert difference(without, with_) == [line]
    name, there, asked = line.split(": ")[0], *line.split(": ")[1].removesuffix(" asked for").split(" there, ")
    assert difference(with_, without) == [f"{name}: {asked} there, {there} asked for"]
    read_back = json.loads(json.dumps(with_))
    assert SamplingOptions.from_settings(read_back["settings"]) == SamplingOptions(**setting)
    assert load_plan(read_back).fingerprint == with_["fingerprint"]


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"scheduler": "DDIM"}, "scheduler is 'DDIM'"),
        ({"guidance_interval": (0.5, 0.5)}, "guidance_interval is .* empty"),
        ({"guidance_interval": (0.8, 0.2)}, "guidance_interval is"),
        ({"guidance_interval": (-0.1, 0.5)}, "guidance_interval is"),
        ({"guidance_interval": (0.1, 1.5)}, "guidance_interval is"),
        ({"guidance_interval": (0.1, float("nan"))}, "guidance_interval is"),
        ({"guidance_interval": (0.1,)}, "guidance_interval is"),
        ({"guidance_interval": (0.1, 0.5), "guidance_scale": 1}, "contradict"),
        ({"negative_prompt": "blurred", "guidance_scale": 1}, "negative_prompt and guidance_scale 1 contradict"),
        ({"cache_interval": 0}, "cache_interval is 0"),
        ({"cache_interval": 2.0}, r"cache_interval is 2\.0"),
        ({"attention": "flash"}, "attention is 'flash'"),
        ({"compile": "no"}, "compile is 'no'"),
        ({"flag_nsfw": "no"}, "flag_nsfw is 'no'"),
    ],
)
def test_values_out_of_range_are_refused_by_name(setting: dict, named: str):
    with pytest.raises(PlanError, match=named) as e:
        GenerationConfig(**setting)
    assert e.value.hint


def test_settings_made_by_hand_are_refused_by_name():
    for settings in ({"scheduler": ["ddim"]}, {"guidance_interval": "0:1"}, {"cache_interval": True}):
        with pytest.raises(PlanError, match=f"{next(iter(settings))} is"):
            SamplingOptions.from_settings(settings)


def test_options_from_the_command_line_to_the_folder(small_dataset: Path, tmp_path: Path, cli: CliRun):
    options = "--scheduler dpm++ --guidance-interval 0.2:0.8 --cache-interval 2".split()
    out = tmp_path / "fast"
    done = cli(*SMALL, *options, "--out", out)
    assert done.returncode == 0, done.stderr
    document = json.loads((out / "dataset.json").read_text())
    recorded = {"scheduler": "dpm++", "guidance_interval": [0.2, 0.8], "cache_interval": 2}
    assert recorded.items() <= document["settings"].items()
    assert "attention" not in document["settings"]
    facts = json.loads((out / "data/round-000/.manifests/train-00000.json").read_text())["generator"]
    assert facts["scheduler"] == "DPMSolverMultistepScheduler"
    assert cli("verify", out).returncode == 0
    refused = cli(*SMALL, "--out", out)
    assert refused.returncode == 1
    assert "scheduler: 'dpm++' there, '' asked for; guidance_interval: [0.2, 0.8] there" in refused.stderr
    copy = Path(shutil.copytree(small_dataset, tmp_path / "copy"))
    refused = cli(*SMALL, *options, "--out", copy)
    assert refused.returncode == 1
    assert "cache_interval: 1 there, 2 asked for" in refused.stderr


def test_an_interval_that_cannot_be_read_is_one_line(cli: CliRun):
    done = cli(*SMALL, "--guidance-interval", "half", "--dry-run")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: --guidance-interval is 'half'"
