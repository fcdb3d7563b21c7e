"""Which scheduler samples. Imports diffusers only when one is made."""

import inspect
from typing import TYPE_CHECKING, Any

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


def make_scheduler(pipeline: "StableDiffusionPipeline", name: str) -> Any:
    """The scheduler of that name with the configuration of the pipeline's own, which "" stands for."""
    if not name:
        return pipeline.scheduler
    import diffusers

    return getattr(diffusers, SCHEDULERS[name]).from_config(pipeline.scheduler.config)


def extra_step_kwargs(scheduler: Any, generators: "list[torch.Generator]") -> dict[str, Any]:
    """What `scheduler.step` takes beyond the common arguments: generators, where the scheduler adds noise."""
    return {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
