"""The number of steps: refused where the scheduler has no timesteps for it, warned of where it is too low."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from imagenet_sd.core.errors import ModelError, PlanError
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.diffusion.schedulers import (
    SCHEDULERS,
    check_steps,
    check_timesteps,
    make_scheduler,
    schedule,
    steps_warning,
)
from imagenet_sd.generation.models import EMBEDDED_FOLDER, ModelIdentity
from imagenet_sd.generation.plan import make_plan
from tests.conftest import SMALL, CliRun

TRAINING = 20  # timesteps of a small training, so that every number of steps can be tried
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": TRAINING}


def configurations() -> Iterator[dict[str, Any]]:
    """As `scheduler_config.json`: each spacing and offset, and without a word on the spacing, as old ones are."""
    for offset in (0, 1):
        yield {"_class_name": "PNDMScheduler", **BETAS, "steps_offset": offset, "skip_prk_steps": True}
        for spacing in ("leading", "trailing", "linspace"):
            yield {
                "_class_name": "PNDMScheduler", **BETAS, "steps_offset": offset, "skip_prk_steps": True,
                "timestep_spacing": spacing,
            }  # fmt: skip


def make(config: dict[str, Any], name: str) -> Any:
    own = getattr(diffusers, config["_class_name"]).from_config(config)
    return make_scheduler(SimpleNamespace(scheduler=own), name)  # pyright: ignore[reportArgumentType]


def sampled(scheduler: Any, steps: int) -> str:
    """What is wrong with sampling for real, with a model that answers a tenth of its input; "" when all is well."""
    try:
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps
        options = {"generator": torch.Generator().manual_seed(0)}
        options = options if "generator" in inspect.signature(scheduler.step).parameters else {}
        latents = torch.full((1, 1, 2, 2), 0.5) * scheduler.init_noise_sigma
        for t in timesteps:
            model_output = scheduler.scale_model_input(latents, t) * 0.1
            latents = scheduler.step(model_output, t, latents, **options, return_dict=False)[0]
    except (IndexError, ValueError, AssertionError) as error:
        return type(error).__name__
    if not latents.isfinite().all():
        return "not finite"
    if timesteps.min() < 0 or timesteps.max() >= TRAINING:
        return "out of range"
    return "" if len(set(timesteps.tolist())) >= steps else "repeated"


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_planning_knows_which_numbers_of_steps_a_scheduler_can_space(name: str):
    """Against diffusers itself: what planning accepts works and begins where it says, what it refuses goes wrong."""
    for config in configurations():
        for steps in (1, 2, 3, 5, 8, 10, 13, *range(17, TRAINING + 2), 60):
            plan, fault = schedule(config, name, steps), sampled(make(config, name), steps)
            case = f"{config}, {steps} steps: {fault}"
            if plan.usable:
                assert not fault, case
                scheduler = make(config, name)
                check_timesteps(scheduler, steps)
                assert float(scheduler.timesteps.max()) == plan.start, case
            elif steps > TRAINING:
                with pytest.raises(ModelError, match=f"no {steps} timesteps of {TRAINING}"):
                    check_timesteps(make(config, name), steps)
            else:
                assert fault, case


def test_a_division_that_rounds_does_not_lead_out_of_the_range():
    """998 steps of 1,000, spaced "trailing": diffusers gives 999 timesteps, and -1 as the last, without a word."""
    config = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "timestep_spacing": "trailing"}
    scheduler = make(config, "")
    scheduler.set_timesteps(998)
    assert scheduler.timesteps.min() == -1
    assert not schedule(config, "", 998).usable and schedule(config, "", 997).usable
    with pytest.raises(ModelError, match="no 998 timesteps"):
        check_timesteps(scheduler, 998)


def test_the_most_steps_are_named_and_work():
    for steps in (1000, 1001, 100_000):
        with pytest.raises(PlanError, match=f"num_inference_steps is {steps}") as caught:
            check_steps({}, "", steps)  # Stable Diffusion: PNDM, 1,000 timesteps, offset 1
        assert "at most 999 --steps" in caught.value.hint
    check_steps({}, "", 999)


def test_a_plan_asks_the_models_own_scheduler(tmp_path: Path):
    settings = json.loads((EMBEDDED_FOLDER / "model_index.json").read_text())
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps(settings))
    (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(next(configurations())))
    identity = ModelIdentity(model_id="x")
    for steps, refused in ((TRAINING, False), (TRAINING + 1, True)):
        config = GenerationConfig(model=str(tmp_path), classes="digits-10", num_inference_steps=steps)
        if refused:
            with pytest.raises(PlanError, match=f"trained with {TRAINING} timesteps"):
                make_plan(config, identity)
        else:
            make_plan(config, identity)


@pytest.mark.parametrize("timesteps", ["x", None, [1000], 1e999, True, 0, -5])
def test_a_scheduler_without_a_number_of_timesteps_is_one_line(tmp_path: Path, timesteps: object):
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "model_index.json").write_text((EMBEDDED_FOLDER / "model_index.json").read_text())
    for name, value in (("num_train_timesteps", timesteps), ("steps_offset", timesteps or -1)):
        scheduler = next(configurations()) | {name: value}
        (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
        with pytest.raises(ModelError, match=f"its scheduler_config.json has a {name} of"):
            make_plan(GenerationConfig(model=str(tmp_path), classes="digits-10"), ModelIdentity(model_id="x"))


@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=["generate", "dry run"])
def test_too_many_steps_are_one_line_and_nothing_is_written(tmp_path: Path, cli: CliRun, more: tuple[str, ...]):
    done = cli(*SMALL, "--steps", 1001, "--out", tmp_path / "out", *more)
    assert done.returncode == 1 and "num_inference_steps is 1001" in done.stderr and "at most" in done.stderr
    assert len(done.stderr.splitlines()) == 2 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "steps", "scale", "said"),
    [
        (
            "",
            4,
            7.5,
            "4 steps of PNDMScheduler at guidance scale 7.5: images may have nothing to do with their prompts",
        ),
        ("", 14, 7.5, "at least 15 --steps"),
        ("", 15, 7.5, ""),
        ("", 5, 2.0, "at least 6 --steps"),
        ("", 6, 2.0, ""),
        ("dpm++", 4, 7.5, ""),
        ("dpm++", 1, 7.5, "1 step of DPMSolverMultistepScheduler"),
        ("", 50, 7.5, ""),
        ("", 333, 7.5, ""),
        ("", 334, 7.5, "334 steps begin at timestep 667 of 1000, which is not pure noise"),
        ("", 600, 7.5, "600 steps begin at timestep 600 of 1000"),
        ("euler", 334, 7.5, ""),
    ],
)
def test_steps_that_are_known_to_be_too_few_are_warned_of(name: str, steps: int, scale: float, said: str):
    warning = steps_warning({}, name, steps, scale)
    assert said in warning and bool(said) == bool(warning)


def test_a_warning_names_the_next_number_of_steps_that_begins_at_noise():
    assert "333 --steps begin where they should" in steps_warning({}, "", 334, 7.5)
    assert "500 --steps begin where they should" in steps_warning({}, "", 600, 7.5)


@pytest.mark.parametrize("name", ["", "dpm++"])
def test_one_step_of_a_distilled_model_is_not_too_few(name: str):
    """SD-Turbo and SDXL-Turbo at their defaults; guided, or with another spacing, it is like any other model."""
    turbo = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "prediction_type": "epsilon"}
    assert steps_warning(turbo, name, 1, 1.0) == ""
    assert "1 step of" in steps_warning(turbo, name, 1, 2.0)
    assert "1 step of" in steps_warning(turbo | {"timestep_spacing": "linspace"}, name, 1, 1.0)
    for scheduler in ("FlowMatchEulerDiscreteScheduler", "LCMScheduler"):
        assert steps_warning({"_class_name": scheduler}, "", 1, 1.0) == ""


@pytest.mark.parametrize("run", [("--dry-run",), ("--workers", 1)], ids=["dry run", "generate"])
def test_the_command_warns_before_it_generates(tmp_path: Path, cli: CliRun, run: tuple):
    """Few steps at a high scale, as a new user may try for speed, and a template in which all classes are one."""
    (tmp_path / "t.yaml").write_text("same: a photo\n")
    few = ("--scheduler", "pndm", "--steps", 4, "--scale", 7.5, "--templates", tmp_path / "t.yaml", "--prompt", "same")
    done = cli(*SMALL, "--images-per-class", 1, *few, "--out", tmp_path / "out", *run)
    assert done.returncode == 0, done.stderr
    text = done.stdout if "--dry-run" in run else done.stderr
    assert "4 steps of PNDMScheduler at guidance scale 7.5" in text
    assert "n13742358 same-prompt: n13742573, n13743269, n13744044, n13744304, n13744521 and 4 more" in text


@pytest.mark.parametrize("name", SCHEDULERS)
def test_no_scheduler_clips_latents(name: str):
    """DDIM's default is to clip to [-1, 1], as pixels are; the published Stable Diffusion turns it off."""
    scheduler = make(next(configurations()), name)
    assert not scheduler.config.get("clip_sample", False) and not scheduler.config.get("thresholding", False)
