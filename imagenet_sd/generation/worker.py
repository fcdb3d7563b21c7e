"""The worker: one shard of the plan becomes one published file. Each engine calls it the same way."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import diffusers
import torch
import transformers

from imagenet_sd import __version__
from imagenet_sd.core.errors import DatasetError, GenerationMemoryError
from imagenet_sd.core.types import ShardManifest
from imagenet_sd.generation.config import JPEG
from imagenet_sd.generation.diffusion.adapter import PipelineGenerator
from imagenet_sd.generation.diffusion.batches import BatchGenerator, broken_device, device_failed, out_of_memory
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.diffusion.loading import load_pipeline, pick_device, pick_dtype, set_up_cpu_worker
from imagenet_sd.generation.diffusion.options import Offload, SamplingOptions, check_offload
from imagenet_sd.generation.diffusion.safety import SafetyChecker
from imagenet_sd.generation.kinds import STABLE_DIFFUSION
from imagenet_sd.generation.lora import fetch_lora
from imagenet_sd.generation.models import ModelIdentity, kind_of_folder
from imagenet_sd.generation.weights import fetch
from imagenet_sd.storage.dataset import Dataset
from imagenet_sd.storage.schema import Row, planned_columns
from imagenet_sd.storage.writer import write_shard


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """Generates shards of a dataset with one generator on one device.

    Attributes:
        dataset: has the plan.
        generator: generates its images.
        offload: where the weights rest; a fact of each shard's manifest.
    """

    dataset: Dataset
    generator: BatchGenerator
    offload: Offload = "none"

    def run_shard(self, i: int, on_batch: Callable[[int], object] = lambda images_done: None) -> ShardManifest:
        """Generate shard `i` of the plan and publish it; a shard that is there already is replaced by equal bytes.

        Args:
            i: number of the shard.
            on_batch: called before each batch with the number of images done; it may raise to give the shard back.

        Raises:
            GenerationError: an image is unusable; nothing is published.
            OSError: the shard cannot be written; nothing half-written is left under its name.
        """
        plan, settings = self.dataset.plan, self.dataset.settings
        shard = plan.shard(i)
        requests = plan.requests(shard)
        started = time.monotonic()
        rows = [
            Row(
                jpeg=image.jpeg,
                **planned_columns(request),
                guidance_scale=settings["guidance_scale"],
                num_inference_steps=settings["num_inference_steps"],
                model_id=settings["model_id"],
                nsfw=image.nsfw,
            )
            for request, image in zip(requests, self.generator.generate_encoded(requests, on_batch), strict=True)
        ]
        facts = generator_facts(self.generator, lora=settings.get("lora") is not None)
        facts["seconds"] = round(time.monotonic() - started, 3)
        if self.offload != "none":
            facts["offload"] = self.offload
        return write_shard(self.dataset, shard, rows, facts)


def make_worker(
    dataset: Dataset, own: type[ImageGenerator | PipelineGenerator] | None = None, *, offload: Offload = "none"
) -> Worker:
    """Load the model that the dataset's settings name onto this process's device.

    On a CPU the process uses one thread: bits then do not depend on the number of cores, and as many workers as cores
    run at the same time without slowing each other down.

    Args:
        dataset: what to generate.
        own: class of the generator; None: `ImageGenerator` for Stable Diffusion 1 and 2, else `PipelineGenerator`.
        offload: where weights rest while a GPU does not use them; on a CPU there is nowhere else.

    Raises:
        ModelError: the weights cannot be loaded, or are not those of the plan.
        GenerationMemoryError: the device has too little memory for them.
        DeviceError: the GPU cannot be used.
        PlanError: the plan does not go with offloading.
        DatasetError: the settings record another image encoding than the one of this version.
    """
    settings, options = dataset.settings, SamplingOptions.from_settings(dataset.settings)
    check_offload(offload, options)
    if settings["image"] != JPEG:
        raise DatasetError(
            f"{dataset.folder} records its images as {settings['image']}, this version writes {JPEG}",
            "use the version of imagenet-sd that made the dataset",
        )
    flag_nsfw = settings.get("nsfw_checker") is not None
    model = ModelIdentity.recorded(settings)
    folder = fetch(dataset.document["model_source"], model, flag_nsfw=flag_nsfw)
    lora = (fetch_lora(dataset.document.get("lora_source", ""), model.lora), model.lora.weight) if model.lora else None
    device = pick_device()
    if device.type == "cpu":
        set_up_cpu_worker()
        offload = "none"
    kind = kind_of_folder(folder, dataset.document["model_source"])
    dtype = pick_dtype(settings["dtype"], device)
    names = ("guidance_scale", "num_inference_steps", "negative_prompt", "width", "height", "batch_size")
    values: dict[str, Any] = {name: settings[name] for name in names} | {"options": options}
    own = own or (ImageGenerator if kind.pipeline == STABLE_DIFFUSION.pipeline else PipelineGenerator)
    try:
        pipeline = load_pipeline(folder, dtype, device, kind, lora=lora, quantize=options.quantize, offload=offload)
        values["checker"] = SafetyChecker.load(folder, device) if flag_nsfw else None
        generator = own(pipeline, kind, **values) if issubclass(own, PipelineGenerator) else own(pipeline, **values)
    except (RuntimeError, MemoryError) as error:
        if device_failed(error):
            raise broken_device(error) from error
        if not out_of_memory(error):
            raise
        less = {"none": "model", "model": "sequential"}.get(offload, "") if device.type == "cuda" else ""
        raise GenerationMemoryError(
            f"the {device.type} device has too little memory for the weights of {settings['model_id']}",
            "free memory on the device" + (f", or give --offload {less}" if less and not options.compile else ""),
        ) from None
    return Worker(dataset=dataset, generator=generator, offload=offload)


def generator_facts(generator: BatchGenerator, *, lora: bool = False) -> dict[str, object]:
    """What the bits of a shard depend on beyond the plan: device, dtype, batch size and versions.

    Args:
        generator: generates the images.
        lora: whether a LoRA is fused into its weights.
    """
    device = generator.device
    options = generator.options
    used = {"xformers": options.attention == "xformers", "torchao": options.quantize != "none", "peft": lora}
    extras = {name: version(name) for name, is_used in used.items() if is_used}
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
