"""Which scheduler samples, and with how many steps. Imports diffusers only when one is made."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imagenet_sd.core.errors import ModelError, PlanError

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
    config = config or _STABLE_DIFFUSION
    kind = SCHEDULERS.get(name) or str(config.get("_class_name"))
    training, more = int(config.get("num_train_timesteps", 1000)), kind in _ONE_MORE
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


def check_timesteps(scheduler: Any, steps: int) -> None:
    """As `check_steps`, asked of the scheduler itself.

    Raises:
        ModelError: it fails, or repeats a timestep, or leaves the range that it was trained on.
    """
    training = scheduler.config.get("num_train_timesteps", 1000)
    try:
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.tolist()
        in_range = 0 <= min(timesteps) and max(timesteps) < training and steps <= training
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


def extra_step_kwargs(scheduler: Any, generators: "list[torch.Generator]") -> dict[str, Any]:
    """What `scheduler.step` takes beyond the common arguments: generators, where the scheduler adds noise."""
    return {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
