"""The kinds of text-to-image pipelines: one file each, found by the class name in a model's `model_index.json`."""

import inspect

from imagenet_sd.core.errors import ModelError, one_line
from imagenet_sd.generation.kinds import flux, lcm, pixart, sana, sd3, sdxl, stable_diffusion
from imagenet_sd.generation.kinds.base import PipelineKind

STABLE_DIFFUSION = stable_diffusion.KINDS[0]
_KINDS = {
    kind.pipeline: kind
    for module in (stable_diffusion, sdxl, sd3, flux, sana, pixart, lcm)
    for kind in module.KINDS
}  # fmt: skip


def find_kind(pipeline: str) -> PipelineKind:
    """What is known of a class of pipelines; for one without a file, what its signature in diffusers tells.

    Raises:
        ModelError: diffusers has no such class, or it does not turn texts into images.
    """
    return _KINDS.get(pipeline) or _read_signature(pipeline)


def _read_signature(name: str) -> PipelineKind:
    """A kind whose prompts are handed over as text. Imports diffusers, unlike the kinds that have a file."""
    import diffusers

    hint = f"use one of {', '.join(_KINDS)}, or another text-to-image pipeline of diffusers {diffusers.__version__}"
    try:
        pipeline = getattr(diffusers, name, None) if name.isidentifier() and name.endswith("Pipeline") else None
    except Exception as error:  # its module needs a library that is missing or another version
        raise ModelError(f"{name} of diffusers cannot be imported: {one_line(error)}", hint) from None
    call = getattr(pipeline, "__call__", None)  # noqa: B004  # its signature is what counts
    if not inspect.isfunction(call):
        raise ModelError(f"diffusers has no pipeline {name!r}", hint)
    parameters = inspect.signature(call).parameters
    missing = {"prompt", "generator", "num_inference_steps", "height", "width", "output_type"} - {*parameters}
    if missing or (set(parameters) & {"image", "images", "video", "mask_image", "num_frames", "control_image"}):
        raise ModelError(f"{name} is no pipeline that turns texts alone into images", hint)

    scale = "true_cfg_scale" if "true_cfg_scale" in parameters else "guidance_scale"

    def default(key: str, otherwise: float) -> float:
        value = parameters[key].default if key in parameters else None
        return value if isinstance(value, int | float) and value >= 1 else otherwise

    return PipelineKind(
        pipeline=name,
        steps=int(default("num_inference_steps", 50)),
        guidance_scale=float(default(scale, 1.0)),
        size=(int(default("width", 1024)), int(default("height", 1024))),
        guidance="classifier-free" if scale in parameters else "none",
        scale_argument=scale,
        negative_prompt="negative_prompt" in parameters,
        lora=hasattr(pipeline, "load_lora_weights"),
    )
