"""What a generation benchmark runs: its settings, its model, its images. Measures nothing itself."""

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imagenet_sd.core.errors import ModelError, PlanError
from imagenet_sd.core.types import ImageRequest
from imagenet_sd.generation.config import EMBEDDED, GenerationConfig
from imagenet_sd.generation.diffusion.options import Levers
from imagenet_sd.generation.identity import EMBEDDED_FOLDER, ModelIdentity
from imagenet_sd.generation.plan import make_plan

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

    from imagenet_sd.generation.diffusion.generator import ImageGenerator

SD14 = "sd-1.4"


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    """Settings of `imagenet-sd bench generate`; 0 and "" stand for defaults that depend on the device.

    Raises:
        PlanError: a value is out of its range.
    """

    model: str = ""
    """"embedded", "sd-1.4" (its architecture with random weights), or a local folder; "": sd-1.4 on a GPU, else
    embedded."""
    num_inference_steps: int = 0
    """Diffusion steps; 0: 20 for the embedded model, else 50."""
    guidance_scale: float = 2.0
    """Guidance scale; 1 is none, any other costs the same."""
    width: int = 0
    """Pixels; 0: 512 (32 for the embedded model)."""
    height: int = 0
    """Pixels; 0: 384 (32 for the embedded model)."""
    batch_size: int = 16
    """Images per batch, for the batched pipeline and for ours."""
    batches: int = 1
    """Batches per round; each variant draws `batches * batch_size` images a round."""
    rounds: int = 5
    """Measured rounds, after one that warms up."""
    dtype: str = "auto"
    """auto (bfloat16 on a GPU, float32 on a CPU), float32, float16 or bfloat16."""
    compile: bool = False
    """Whether ours runs with `torch.compile`; the stock pipeline never does."""
    workers: int = 0
    """Single-threaded processes of the whole-machine measurement on a CPU; 0: one per core."""
    seed: int = 0
    """Seed of the images."""

    def __post_init__(self) -> None:
        for name, least in (("batches", 1), ("rounds", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise PlanError(f"{name} is {getattr(self, name)}", f"give {least} or more")
        self.generation()  # checks the rest

    def resolved(self, device: "torch.device") -> "BenchConfig":
        """These settings with every default filled in for a device."""
        from imagenet_sd.generation.diffusion.generator import pick_dtype

        model = self.model or (SD14 if device.type == "cuda" else EMBEDDED)
        steps = self.num_inference_steps or (20 if model == EMBEDDED else 50)
        full = dataclasses.replace(self, model=model, num_inference_steps=steps)
        width, height = full.generation().size
        dtype = str(pick_dtype(self.dtype, device)).removeprefix("torch.")
        return dataclasses.replace(full, width=width, height=height, dtype=dtype)

    def generation(self) -> GenerationConfig:
        """The dataset whose first images are drawn: the ten digits with their definitions."""
        return GenerationConfig(
            model=self.model or EMBEDDED,
            classes="digits-10",
            prompt="c_dc",
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps or 1,
            width=self.width,
            height=self.height,
            batch_size=self.batch_size,
            images_per_class=self.num_images,
            shard_size=max(1, 10 * self.num_images),  # all in one shard
            dtype=self.dtype,  # pyright: ignore[reportArgumentType]  # GenerationConfig checks it
            compile=self.compile,
            seed=self.seed,
        )

    @property
    def images_per_round(self) -> int:
        """Images that each variant draws in one round."""
        return self.batches * self.batch_size

    @property
    def num_images(self) -> int:
        """Images of all rounds together."""
        return self.rounds * self.images_per_round

    def requests(self) -> list[list[ImageRequest]]:
        """The images of every round, [rounds][images_per_round]."""
        plan, _ = make_plan(self.generation(), ModelIdentity(model_id=self.model))
        images = plan.requests(plan.shard(0))
        size = self.images_per_round
        return [images[k * size : (k + 1) * size] for k in range(self.rounds)]


def load_stock(config: BenchConfig, device: "torch.device") -> "StableDiffusionPipeline":
    """The stock pipeline of a resolved configuration.

    Raises:
        ModelError: there is no such folder, or it is damaged.
    """
    from imagenet_sd.generation.bench.model import sd14_pipeline
    from imagenet_sd.generation.diffusion.generator import load_pipeline, pick_dtype

    dtype = pick_dtype(config.dtype, device)
    if config.model == SD14:
        return sd14_pipeline(dtype, device, config.seed)
    folder = EMBEDDED_FOLDER if config.model == EMBEDDED else Path(config.model)
    if not folder.is_dir():
        raise ModelError(f"{config.model!r} is no folder", f"give `embedded`, `{SD14}`, or a local diffusers folder")
    return load_pipeline(folder, dtype, device)


def our_copy(stock: "StableDiffusionPipeline") -> "StableDiffusionPipeline":
    """A pipeline with modules of its own, so that what our generator does to them leaves the stock one as it is."""
    from diffusers import StableDiffusionPipeline

    parts = dict(stock.components)
    parts |= {name: copy.deepcopy(parts[name]) for name in ("unet", "vae", "scheduler")}
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def our_generator(config: BenchConfig, pipeline: "StableDiffusionPipeline") -> "ImageGenerator":
    """Our generator as `generate` would build it from a resolved configuration."""
    from imagenet_sd.generation.diffusion.generator import ImageGenerator

    return ImageGenerator(
        pipeline,
        guidance_scale=config.guidance_scale,
        num_inference_steps=config.num_inference_steps,
        width=config.width,
        height=config.height,
        batch_size=config.batch_size,
        levers=Levers(compile=config.compile),
    )


@contextmanager
def worker_threads(device: "torch.device") -> Iterator[None]:
    """On a CPU one thread, as a worker of `generate` has it; the number before is restored at the end."""
    import torch

    from imagenet_sd.generation.diffusion.acceleration import keep_freed_memory

    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
        keep_freed_memory()
    try:
        yield
    finally:
        torch.set_num_threads(before)
