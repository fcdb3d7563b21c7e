"""The generator: image requests in, checked JPEG files out, through the modules of a diffusers pipeline.

Knows nothing of shards, folders or other processes.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import numpy as np
import torch
import transformers
from diffusers import StableDiffusionPipeline
from PIL import Image

from imagenet_sd.core.errors import GenerationError, GenerationMemoryError, ModelError
from imagenet_sd.core.types import ImageRequest
from imagenet_sd.generation.config import JPEG
from imagenet_sd.generation.diffusion.acceleration import make_scheduler, prepare, warm_up
from imagenet_sd.generation.diffusion.caching import DeepFeatures, PromptProjections
from imagenet_sd.generation.diffusion.options import Levers
from imagenet_sd.generation.diffusion.safety import SafetyChecker

T = TypeVar("T")
_ENCODERS = 2


def pick_device() -> torch.device:
    """The accelerator of this process (through `accelerate`, so a launcher's local rank counts), else the CPU."""
    from accelerate import PartialState

    return PartialState().device or torch.device("cpu")


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The compute dtype: for "auto" bfloat16 on a GPU that has it, else float16; float32 on a CPU."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32


def load_pipeline(folder: Path, dtype: torch.dtype, device: torch.device) -> StableDiffusionPipeline:
    """Load a Stable Diffusion pipeline from a local folder: safetensors only, without its safety checker.

    Raises:
        ModelError: the folder is damaged or of another kind.
    """
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            safety_checker=None,
            requires_safety_checker=False,
        )
    except Exception as error:  # loaders raise many kinds on damaged files; each means the model is unusable
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{folder} cannot be loaded as a Stable Diffusion pipeline: {reason}", "download or copy the model again"
        ) from None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnImage:
    """An image as it is stored: a JPEG file, and whether the safety checker flagged it (None: nobody asked it)."""

    jpeg: bytes
    nsfw: bool | None = None


class ImageGenerator:
    """Draws images with classifier-free guidance (Ho & Salimans, 2021), one CPU noise generator per image.

    The denoising loop runs the pipeline's own modules and gives the same bits as calling the pipeline with a list of
    prompts; it differs in what it leaves out: prompts are encoded once and projected for cross-attention once per
    batch, and JPEG files are written by threads while the next batch is drawn.

    Args:
        pipeline: the Stable Diffusion pipeline.
        guidance_scale: w in eps = eps(empty) + w (eps(prompt) - eps(empty)); 1 is no guidance.
        num_inference_steps: diffusion steps.
        negative_prompt: text in the place of the empty prompt.
        width: pixels, a multiple of the autoencoder's factor.
        height: likewise.
        batch_size: images per batch; a smaller last batch is padded to it and the padding dropped.
        levers: what trades pixels for speed. They change the pipeline's modules in place, except for its scheduler.
        checker: flags images; their pixels stay as they are.

    Raises:
        ModelError: the model cannot draw this, or a lever cannot be had here.
        GenerationMemoryError: see `draw`.
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        *,
        guidance_scale: float,
        num_inference_steps: int,
        negative_prompt: str = "",
        width: int,
        height: int,
        batch_size: int,
        levers: Levers = Levers(),  # noqa: B008  # frozen
        checker: SafetyChecker | None = None,
    ):
        if pipeline.unet.config.get("time_cond_proj_dim") is not None:
            raise ModelError("distilled models with an embedded guidance scale are not supported", "use a base model")
        factor = pipeline.vae_scale_factor
        if width % factor or height % factor:
            raise ModelError(f"{width}x{height} is not divisible by {factor}", "give a --size in such multiples")
        self.pipeline = pipeline
        self.device, self.dtype = pipeline.unet.device, pipeline.unet.dtype
        self.guidance_scale = guidance_scale
        self.num_inference_steps = num_inference_steps
        self.batch_size = batch_size
        self.latent_shape = (pipeline.unet.config["in_channels"], height // factor, width // factor)
        self._embeddings: dict[str, torch.Tensor] = {}
        self._negative = self._encode([negative_prompt])[negative_prompt]
        self.levers, self.checker = levers, checker
        self.scheduler = make_scheduler(pipeline, levers.scheduler)
        self._step_options = _step_options(self.scheduler)
        prepare(pipeline, levers)
        self._features = DeepFeatures(pipeline.unet) if levers.cache_interval > 1 else None
        # torch.compile would stop at each of these hooks.
        self._projections = None if levers.compile else PromptProjections(pipeline.unet)
        if levers.compile:
            self._warm_up()

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Embeddings [tokens, width] of the texts, each encoded alone, so that its value has no neighbours."""
        for text in texts:
            if text not in self._embeddings:
                embedding, _ = self.pipeline.encode_prompt(text, self.device, 1, do_classifier_free_guidance=False)
                self._embeddings[text] = embedding[0]
        found = {text: self._embeddings[text] for text in texts}
        while len(self._embeddings) > 4096:  # prompts with backgrounds are many; the oldest go
            self._embeddings.pop(next(iter(self._embeddings)))
        return found

    def draw(self, requests: Sequence[ImageRequest]) -> np.ndarray:
        """Draw one batch.

        Args:
            requests: 1 to `batch_size` images.

        Returns:
            uint8 [len(requests), height, width, 3].

        Raises:
            GenerationError: an image came out with a value that is no number, or in one single colour.
            GenerationMemoryError: the batch does not fit into the device's memory.
        """
        return self._within_memory(lambda: self._draw(requests))

    @torch.inference_mode()
    def _draw(self, requests: Sequence[ImageRequest]) -> np.ndarray:
        padded = [*requests, *[requests[-1]] * (self.batch_size - len(requests))]
        texts = [request.prompt.text for request in padded]
        table = self._encode(texts)
        prompts = torch.stack([table[text] for text in texts])
        generators = [torch.Generator().manual_seed(request.seed) for request in padded]
        noise = torch.stack([torch.randn(self.latent_shape, generator=generator) for generator in generators])
        latents = self._denoise(noise.to(self.device, self.dtype), prompts, generators)
        decoded = self.pipeline.vae.decode(latents / self.pipeline.vae.config["scaling_factor"], return_dict=False)[0]
        decoded = decoded[: len(requests)]
        _check(decoded, requests)
        pixels = (decoded * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
        return (pixels * 255).round().astype("uint8")

    def _denoise(self, noise: torch.Tensor, prompts: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        scheduler, unet = self.scheduler, self.pipeline.unet
        both = torch.cat([self._negative.expand_as(prompts), prompts])
        options: dict[str, Any] = {"generator": generators} if "generator" in self._step_options else {}
        # The scheduler's timesteps stay on the CPU, where its tables are: a look-up then never waits for the GPU.
        scheduler.set_timesteps(self.num_inference_steps)
        latents = noise * scheduler.init_noise_sigma
        guided_before = None
        steps = zip(scheduler.timesteps, scheduler.timesteps.to(self.device), strict=True)
        for i, (timestep, shown_time) in enumerate(steps):
            guided = self.guidance_scale > 1 and self.levers.guides(i, len(scheduler.timesteps))
            if self._features is not None:  # features of another number of rows are of no use
                self._features.reuse = guided == guided_before and i % self.levers.cache_interval > 0
            guided_before = guided
            shown = scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, timestep)
            context = both if guided else prompts
            predicted = unet(shown, shown_time, encoder_hidden_states=context, return_dict=False)[0]
            if guided:
                away, towards = predicted.chunk(2)
                predicted = away + self.guidance_scale * (towards - away)
            latents = scheduler.step(predicted, timestep, latents, **options, return_dict=False)[0]
        for kept in (self._features, self._projections):
            if kept is not None:
                kept.clear()
        return latents

    def _warm_up(self) -> None:
        latents = torch.zeros(self.batch_size, *self.latent_shape, device=self.device, dtype=self.dtype)
        guided = self.guidance_scale > 1
        once = not guided or self.levers.guidance_interval != (0, 1)
        rows = [self.batch_size] * once + [2 * self.batch_size] * guided
        self._within_memory(lambda: warm_up(self.pipeline, latents, self._negative, rows))

    def _within_memory(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
            if not memory:
                raise
        # Out of the handler, so that the failed call's tensors are let go.
        way_out = f"--batch-size {self.batch_size // 2}" if self.batch_size > 1 else "a smaller --size"
        raise GenerationMemoryError(
            f"the {self.device.type} device has too little memory for a batch of {self.batch_size} images",
            "free memory on the device and run the same command again, or begin a new folder with "
            f"{way_out} (the batch size is part of the plan: another one rounds differently)",
        )

    def drawn(
        self, requests: Sequence[ImageRequest], on_batch: Callable[[int], object] = lambda drawn: None
    ) -> Iterator[DrawnImage]:
        """Draw any number of images in fixed batches; yields them in order.

        Args:
            requests: the images.
            on_batch: called before each batch with the number of images drawn so far; what it raises ends the work.

        Raises:
            GenerationError: see `draw`.
        """
        with ThreadPoolExecutor(_ENCODERS, thread_name_prefix="jpeg") as pool:
            waiting: list[tuple[Future[bytes], bool | None]] = []
            for start in range(0, len(requests), self.batch_size):
                on_batch(start)
                pixels = self.draw(requests[start : start + self.batch_size])
                flags = self._flags(pixels)
                yield from (DrawnImage(jpeg=future.result(), nsfw=flag) for future, flag in waiting)
                waiting = [(pool.submit(encode_jpeg, image), flag) for image, flag in zip(pixels, flags, strict=True)]
            yield from (DrawnImage(jpeg=future.result(), nsfw=flag) for future, flag in waiting)

    def _flags(self, pixels: np.ndarray) -> Sequence[bool | None]:
        if self.checker is None:
            return [None] * len(pixels)
        checker = self.checker
        return self._within_memory(lambda: checker.flags(pixels))

    def jpegs(
        self, requests: Sequence[ImageRequest], on_batch: Callable[[int], object] = lambda drawn: None
    ) -> Iterator[bytes]:
        """As `drawn`, but yields the JPEG files alone."""
        return (image.jpeg for image in self.drawn(requests, on_batch))


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """A JPEG file, encoded as `generation.config.JPEG` says, from uint8 [height, width, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **JPEG)
    return buffer.getvalue()


def _step_options(scheduler: Any) -> set[str]:
    import inspect

    return set(inspect.signature(scheduler.step).parameters)


def _check(decoded: torch.Tensor, requests: Sequence[ImageRequest]) -> None:
    """Refuse images that are not finite (they would be stored as black) or that show one colour only."""
    flat = decoded.flatten(2).float()  # [N, 3, pixels]: a colour is constant where each of its channels is
    finite = flat.isfinite().all(2).all(1)
    spread = (flat.amax(2) - flat.amin(2)).amax(1)
    for request, ok, range_ in zip(requests, finite.tolist(), spread.tolist(), strict=True):
        if not ok or range_ < 2 / 255:
            fault = "holds values that are not numbers" if not ok else "has one single colour"
            raise GenerationError(
                f"image {request.image_id} {fault}", "check the model's weights and --dtype (try --dtype float32)"
            )
