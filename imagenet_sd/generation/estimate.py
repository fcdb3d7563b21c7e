"""How long a plan will take, by arithmetic on known figures: an estimate for choosing, no measurement.

Cost in floating-point operations times the rate that is known for a GPU. `bench/calibrate.py` measures instead.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagenet_sd.core.types import GenerationPlan
from imagenet_sd.generation.kinds import STABLE_DIFFUSION, find_kind

TFLOP = {"unet": 0.580, "vae": 1.879, "text": 0.013}
"""Operations (10**12) of Stable Diffusion 1.4 for one image of 512x384: a UNet call, decoding, the text encoder.
Counted by `bench/sd14.py`; Stable Diffusion 1.5 is the same, 2 and 2.1 differ by a few percent."""
TFLOP_PER_SECOND = {"A100": 76.0, "H100": 316.0}
"""A100: 0.8 s for 512x512 and 50 steps, published for xformers, as `docs/cluster.md` takes it. H100: an assumption,
40% of the 790 TFLOP/s of large bfloat16 products."""
_REPOSITORIES = (
    "CompVis/stable-diffusion-v1-4",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base",
)
_CHANNELS = [320, 640, 1280, 1280]


def tflop_per_image(settings: Mapping[str, Any], scheduler: str) -> float:
    """Operations of one image, in 10**12.

    Args:
        settings: generation settings; sizes other than 512x384 cost in proportion to their pixels. A guided step calls
            the UNet twice, unless it is distilled.
        scheduler: class of the scheduler; PNDM calls the UNet once more than it has steps.
    """
    calls = settings["num_inference_steps"] + (scheduler == "PNDMScheduler")
    start, end = settings.get("guidance_interval", (0.0, 1.0))
    twice = find_kind(settings.get("pipeline", STABLE_DIFFUSION.pipeline)).guidance == "classifier-free"
    guided = end - start if twice and settings["guidance_scale"] > 1 else 0.0
    pixels = settings["width"] * settings["height"] / (512 * 384)
    return pixels * (calls * (1 + guided) * TFLOP["unet"] + TFLOP["vae"]) + TFLOP["text"]


def estimate_time(plan: GenerationPlan, settings: Mapping[str, Any], source: str, scheduler: str) -> dict[str, Any]:
    """GPU-hours of a plan on GPUs with a known rate; `cache_interval` and `compile` are left out of it.

    Args:
        plan: what is to be generated.
        settings: its settings.
        source: what the user gave as `--model`.
        scheduler: see `tflop_per_image`.

    Returns:
        GPU -> `images_per_second` and `gpu_hours`; empty for models of another size than Stable Diffusion's.
    """
    if not _is_stable_diffusion(source):
        return {}
    tflop = tflop_per_image(settings, scheduler)
    rates = {gpu: rate / tflop for gpu, rate in TFLOP_PER_SECOND.items()}
    return {gpu: {"images_per_second": rate, "gpu_hours": plan.num_images / rate / 3600} for gpu, rate in rates.items()}


def _is_stable_diffusion(source: str) -> bool:
    """Whether a model has the UNet of Stable Diffusion 1 or 2."""
    if source in _REPOSITORIES:
        return True
    with suppress(OSError, ValueError, RecursionError):
        config = json.loads((Path(source) / "unet" / "config.json").read_text(encoding="utf-8"))
        return isinstance(config, dict) and config.get("block_out_channels") == _CHANNELS
    return False
