"""The worker: one shard of the plan becomes one published file. Called the same way whoever shares out the shards."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from imagenet_sd import __version__
from imagenet_sd.core.types import GenerationPlan, ShardManifest
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.loading import load_pipeline, pick_device, pick_dtype, set_up_cpu_worker
from imagenet_sd.generation.diffusion.options import SamplingOptions
from imagenet_sd.generation.diffusion.safety import SafetyChecker
from imagenet_sd.generation.models import ModelIdentity
from imagenet_sd.generation.weights import fetch
from imagenet_sd.storage.schema import Row
from imagenet_sd.storage.writer import write_shard


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """Draws shards with one generator on one device.

    Attributes:
        out: dataset folder.
        plan: what to draw.
        recipe: the `recipe` of `dataset.json`.
        generator: draws the images.
    """

    out: Path
    plan: GenerationPlan
    recipe: dict[str, Any]
    generator: ImageGenerator

    def run_shard(self, i: int, on_batch: Callable[[int], object] = lambda drawn: None) -> ShardManifest:
        """Draw shard `i` of the plan and publish it; a shard that is there already is replaced by equal bytes.

        Args:
            i: number of the shard.
            on_batch: called before each batch with the number of images drawn; what it raises hands the shard back.

        Raises:
            GenerationError: an image is unusable; nothing is published.
            OSError: the shard cannot be written; nothing half-written is left under its name.
        """
        shard = self.plan.shard(i)
        requests = self.plan.requests(shard)
        started = time.monotonic()
        rows = [
            Row(
                jpeg=image.jpeg,
                label=request.prompt.class_index,
                wnid=request.prompt.wnid,
                image_id=request.image_id,
                prompt=request.prompt.text,
                template=request.prompt.template,
                background=request.prompt.background,
                seed=request.seed,
                guidance_scale=self.recipe["guidance_scale"],
                num_inference_steps=self.recipe["num_inference_steps"],
                model_id=self.recipe["model_id"],
                nsfw=image.nsfw,
            )
            for request, image in zip(requests, self.generator.generate_encoded(requests, on_batch), strict=True)
        ]
        facts = generator_facts(self.generator) | {"seconds": round(time.monotonic() - started, 3)}
        return write_shard(
            self.out,
            shard,
            rows,
            [spec.wnid for spec in self.plan.classes],
            fingerprint=self.plan.fingerprint,
            generator=facts,
        )


def make_worker(
    out: Path, plan: GenerationPlan, document: dict[str, Any], kind: type[ImageGenerator] = ImageGenerator
) -> Worker:
    """Load the model that `dataset.json` names onto this process's device, for a generator of the given class.

    On a CPU the process uses one thread: bits then do not depend on the number of cores, and as many workers as cores
    run side by side without hindering each other.

    Raises:
        ModelError: the weights cannot be loaded, or are not those of the plan.
    """
    recipe = document["recipe"]
    identity = ModelIdentity(**{key: recipe[key] for key in ("model_id", "revision", "weights_sha256")})
    flag_nsfw = recipe.get("nsfw_checker") is not None
    folder = fetch(document["model_source"], identity, flag_nsfw=flag_nsfw)
    device = pick_device()
    if device.type == "cpu":
        set_up_cpu_worker()
    pipeline = load_pipeline(folder, pick_dtype(recipe["dtype"], device), device)
    generator = kind(
        pipeline,
        guidance_scale=recipe["guidance_scale"],
        num_inference_steps=recipe["num_inference_steps"],
        negative_prompt=recipe["negative_prompt"],
        width=recipe["width"],
        height=recipe["height"],
        batch_size=recipe["batch_size"],
        options=SamplingOptions.from_settings(recipe),
        checker=SafetyChecker.load(folder, device) if flag_nsfw else None,
    )
    return Worker(out=out, plan=plan, recipe=recipe, generator=generator)


def generator_facts(generator: ImageGenerator) -> dict[str, object]:
    """What the bits of a shard depend on beyond the plan: device, dtype, batch size and versions."""
    device = generator.device
    extras = {"xformers": version("xformers")} if generator.options.attention == "xformers" else {}
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "dtype": str(generator.dtype).removeprefix("torch."),
        "batch_size": generator.batch_size,
        "scheduler": type(generator.scheduler).__name__,
        "threads": torch.get_num_threads(),
        "versions": {
            "imagenet-sd": __version__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            **extras,
        },
    }
