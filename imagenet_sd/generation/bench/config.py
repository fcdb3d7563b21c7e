"""Settings of the generation benchmark, and the images that it generates. Imports no heavy library."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imagenet_sd.core.errors import PlanError
from imagenet_sd.core.types import ImageRequest
from imagenet_sd.generation.config import DEFAULT_MODEL, EMBEDDED, Dtype, GenerationConfig
from imagenet_sd.generation.models import ModelIdentity, resolve
from imagenet_sd.generation.plan import make_plan

if TYPE_CHECKING:
    import torch

SD14 = "sd-1.4"


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    """Settings of `imagenet-sd bench generate`; 0 and "" stand for defaults that depend on the device.

    Raises:
        PlanError: a value is out of its range.
    """

    model: str = ""
    """embedded, sd-1.4 (random weights) or a local folder; default sd-1.4 on a GPU, else embedded."""
    num_inference_steps: int = 0
    """Diffusion steps; default 50 (embedded: 20)."""
    guidance_scale: float = 2.0
    """Guidance scale; 1 is none, any other costs the same."""
    width: int = 0
    """Width of the images in pixels; default 512 (embedded: 32)."""
    height: int = 0
    """Height of the images in pixels; default 384 (embedded: 32)."""
    batch_size: int = 16
    """Images per batch, for the batched pipeline and for ours."""
    batches: int = 1
    """Batches per round."""
    rounds: int = 5
    """Measured rounds, after one that warms up; the median counts."""
    dtype: Dtype = "auto"
    """auto (bfloat16 on a GPU, float32 on a CPU), float32, float16 or bfloat16."""
    compile: bool = False
    """Compile our model with `torch.compile`; the stock pipeline stays as it is."""
    workers: int = 0
    """Single-threaded processes of the measurement of a whole CPU machine; default one per core."""
    seed: int = 0
    """Seed of the images."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("batches", 1), ("rounds", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise PlanError(f"{name} is {getattr(self, name)}", f"give {least} or more")
        self.generation()  # checks the rest

    def resolved(self, device: "torch.device") -> "BenchConfig":
        """These settings with every default filled in for a device."""
        from imagenet_sd.generation.diffusion.loading import pick_dtype

        model = self.model or (SD14 if device.type == "cuda" else EMBEDDED)
        steps = self.num_inference_steps or (20 if model == EMBEDDED else 50)
        full = dataclasses.replace(self, model=model, num_inference_steps=steps)
        width, height = resolve(full.generation()).size
        dtype = str(pick_dtype(self.dtype, device)).removeprefix("torch.")
        return dataclasses.replace(full, width=width, height=height, dtype=dtype)  # pyright: ignore[reportArgumentType]

    def generation(self) -> GenerationConfig:
        """The dataset whose first images are generated: the ten digits with their definitions."""
        model = self.model or EMBEDDED
        if model != EMBEDDED and not Path(model).is_dir():  # SD14; other names are refused when the model is loaded
            model = DEFAULT_MODEL
        return GenerationConfig(
            model=model,
            classes="digits-10",
            prompt="c_dc",
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps or 1,
            width=self.width,
            height=self.height,
            batch_size=self.batch_size,
            images_per_class=self.num_images,
            shard_size=max(1, 10 * self.num_images),  # all in one shard
            dtype=self.dtype,
            compile=self.compile,
            seed=self.seed,
        )

    @property
    def images_per_round(self) -> int:
        """Images that each variant generates in one round."""
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
