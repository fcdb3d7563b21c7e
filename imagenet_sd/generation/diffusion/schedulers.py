"""Which scheduler samples, and with how many steps. Imports diffusers only when one is made."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imagenet_sd.core.errors import ModelError, PlanError
from imagenet_sd.core.progress import counted
from imagenet_sd.generation.kinds.base import distilled_euler

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

SCHEDULERS = {
    "pndm": "PNDMScheduler",
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Names of schedulers and their classes in diffusers."""

FEWEST_STEPS = {
    "PNDMScheduler": (6, 15),
    "DDIMScheduler": (4, 4),
    "EulerDiscreteScheduler": (4, 4),
    "EulerAncestralDiscreteScheduler": (4, 4),
    "DPMSolverMultistepScheduler": (2, 2),
    "UniPCMultistepScheduler": (2, 2),
}
"""Fewest steps at guidance scales up to `HIGH_SCALE`, and above. From these on, at scale 2 and at 7.5, a classifier of
real digits reads at least 95% of the embedded model's digits as asked for; with fewer it may be hardly any (PNDM, 4
steps, scale 7.5: 16%). Measured by `benchmarks/useful_steps.py` on the embedded model of commit 78c9a3a, which predicts
noise, as Stable Diffusion 1 does; today's asks for less. A lower bound: larger models and finer pictures need more,
such as the 15 to 20 of DPM++ with guidance (Lu et al., "DPM-Solver++", 2022)."""
HIGH_SCALE = 3.0
_STABLE_DIFFUSION: dict[str, Any] = {"_class_name": "PNDMScheduler", "steps_offset": 1}
"""What Stable Diffusion 1 and 2 publish, where it differs from the defaults below."""
_LINSPACE = ("DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
             "UniPCMultistepScheduler")  # fmt: skip
"""Schedulers whose `timestep_spacing` is "linspace" where the configuration names none; "leading" in the others."""
_ONE_MORE = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
"""Schedulers that space one timestep more than they are asked for and leave the last out."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The timesteps that a scheduler would visit, as far as its configuration tells without loading diffusers.

    Attributes:
        start: the first and noisiest timestep.
        training: number of timesteps of the training, T; timesteps are 0 to T - 1.
        usable: whether the timesteps lie in that range and differ from each other.
    """

    start: float
    training: int
    usable: bool


def schedule(config: Mapping[str, Any], name: str, steps: int) -> Schedule:
    """The schedule of a number of steps.

    The three spacings are those of Table 2 in Lin et al., "Common diffusion noise schedules and sample steps are
    flawed" (WACV 2024), as diffusers computes them.

    Args:
        config: the model's `scheduler_config.json`; {} for that of Stable Diffusion.
        name: a key of `SCHEDULERS`; "" for the model's own.
        steps: number of steps, at least 1.
    """
    kind, config = scheduler_class(config, name), config or _STABLE_DIFFUSION
    training, more = int(config.get("num_train_timesteps", 1000)), kind in _ONE_MORE
    if kind not in FEWEST_STEPS:  # of flow matching or consistency models: from pure noise, any number of steps
        return Schedule(training - 1, training, True)
    spacing = config.get("timestep_spacing", "linspace" if kind in _LINSPACE else "leading")
    if spacing == "leading":
        stride = training // (steps + more)
        start = (steps - 1 + more) * stride + int(config.get("steps_offset", 0))
        return Schedule(start, training, stride >= 1 and start < training)
    if spacing == "trailing":  # the division rounds: 998 steps of 1000 give 999 timesteps, the last of which is -1
        return Schedule(training - 1, training, steps <= training and math.ceil(training / (training / steps)) == steps)
    start = training - 1 if steps + more > 1 else 0  # one point of an interval is its beginning
    return Schedule(start, training, steps + more <= training)


def check_steps(config: Mapping[str, Any], name: str, steps: int) -> None:
    """Refuse a number of steps that the scheduler has no timesteps for: it would fail, or show noise.

    Raises:
        PlanError: there are too many; the hint says how many there may be. Arguments as in `schedule`.
    """
    if (asked := schedule(config, name, steps)).usable:
        return
    most = next((n for n in range(min(steps, asked.training), 0, -1) if schedule(config, name, n).usable), 0)
    raise PlanError(
        f"num_inference_steps is {steps}: the model's scheduler was trained with {asked.training} timesteps and cannot "
        "space so many of them",
        f"give at most {most} --steps; 20 to 50 are usual",
    )


def scheduler_class(config: Mapping[str, Any], name: str) -> str:
    """Name of the class in diffusers of the scheduler that samples; arguments as in `schedule`."""
    return SCHEDULERS.get(name) or str((config or _STABLE_DIFFUSION).get("_class_name"))


def steps_warning(config: Mapping[str, Any], name: str, steps: int, guidance_scale: float) -> str:
    """What will be wrong with the images of so many steps, though they can be generated; "" for nothing known.

    Few are enough for distilled models: those with the scheduler of SD-Turbo, at guidance scale 1, and all whose
    scheduler has no entry in `FEWEST_STEPS`.

    Args:
        config: as in `schedule`; the number of steps is usable.
        name: likewise.
        steps: likewise.
        guidance_scale: the higher it is, the more steps are needed.
    """
    kind = scheduler_class(config, name)
    fewest = FEWEST_STEPS.get(kind, (1, 1))[guidance_scale > HIGH_SCALE]
    if steps < fewest and not (guidance_scale <= 1 and distilled_euler(config)):
        return (
            f"{counted(steps, 'step')} of {kind} at guidance scale {guidance_scale:g}: images may have nothing to do "
            f"with their prompts; give at least {fewest} --steps, or a --scheduler that needs fewer (dpm++)"
        )
    if _skipped(asked := schedule(config, name, steps)) > max(0.1, 1.5 / steps):
        better = next((n for n in range(steps - 1, 0, -1) if _skipped(schedule(config, name, n)) <= 0.1), 1)
        return (
            f"{steps} steps begin at timestep {asked.start:g} of {asked.training}, which is not pure noise: images "
            f"will lack contrast (Lin et al., 2024); {better} --steps begin where they should"
        )
    return ""


def _skipped(plan: Schedule) -> float:
    """Share of the noisiest timesteps before the first one."""
    return 1 - plan.start / (plan.training - 1)


def check_timesteps(scheduler: Any, steps: int) -> None:
    """As `check_steps`, asked of the scheduler itself; those of flow matching take any number.

    Raises:
        ModelError: it fails, or repeats a timestep, or leaves the range that it was trained on.
    """
    if type(scheduler).__name__.startswith("FlowMatch"):
        return
    training = scheduler.config.get("num_train_timesteps", 1000)
    try:
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.tolist()
        in_range = min(timesteps) >= 0 and max(timesteps) < training and steps <= training
        usable = in_range and 2 * len({*timesteps}) > steps  # a few repeat with Karras' spacing, which is rounded
    except (ValueError, IndexError, AssertionError):
        usable = False
    if not usable:
        raise ModelError(
            f"{type(scheduler).__name__} of this model has no {steps} timesteps of {training}", "give fewer --steps"
        )


def make_scheduler(pipeline: "StableDiffusionPipeline", name: str) -> Any:
    """The scheduler of that name with the configuration of the pipeline's own, which "" stands for.

    Predicted latents are never clipped to [-1, 1]: that is for pixels, and DDIM does it where nothing else is said.
    """
    if not name:
        return pipeline.scheduler
    import diffusers

    kind = getattr(diffusers, SCHEDULERS[name])
    unclipped = {"clip_sample": False} if "clip_sample" in inspect.signature(kind.__init__).parameters else {}
    return kind.from_config(pipeline.scheduler.config, **unclipped)


def exchange_scheduler(pipeline: Any, name: str) -> None:
    """Give a pipeline of any kind the scheduler of that name, in place; "" leaves its own.

    Raises:
        ModelError: the model was trained for schedulers of another family, such as flow matching.
    """
    kinds = [kind.__name__ for kind in (type(pipeline.scheduler), *getattr(pipeline.scheduler, "compatibles", ()))]
    if name and SCHEDULERS[name] not in kinds:
        raise ModelError(
            f"{type(pipeline).__name__} samples with {kinds[0]}, which --scheduler {name} cannot replace",
            "leave out --scheduler",
        )
    pipeline.scheduler = make_scheduler(pipeline, name)


def extra_step_kwargs(scheduler: Any, generators: "list[torch.Generator]") -> dict[str, Any]:
    """What `scheduler.step` takes beyond the common arguments: generators, where the scheduler adds noise."""
    return {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
