"""The generator: image requests in, checked images or JPEG files out, through the modules of a diffusers pipeline.

Knows nothing of shards, folders or other processes.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from imagenet_sd.core.errors import GenerationMemoryError, ModelError, UnusableImageError
from imagenet_sd.core.types import ImageRequest
from imagenet_sd.generation.config import JPEG
from imagenet_sd.generation.diffusion.caching import CrossAttentionCache, DeepCache
from imagenet_sd.generation.diffusion.guidance import ClassifierFreeGuidance
from imagenet_sd.generation.diffusion.kernels import compile_now, set_kernels
from imagenet_sd.generation.diffusion.options import SamplingOptions
from imagenet_sd.generation.diffusion.safety import SafetyChecker
from imagenet_sd.generation.diffusion.schedulers import check_timesteps, extra_step_kwargs, make_scheduler

T = TypeVar("T")
_ENCODER_THREADS = 2
_CACHED_PROMPTS = 4096  # prompts with backgrounds are many


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedImage:
    """An image as it is stored: a JPEG file, and whether the safety checker flagged it (None: it was not asked)."""

    jpeg: bytes
    nsfw: bool | None = None


class ImageGenerator:
    """Samples images with classifier-free guidance, the initial noise of each from a CPU generator of its own.

    The denoising loop runs the pipeline's own modules and gives the same bits as calling the pipeline with a list of
    prompts; it differs in what it leaves out: prompts are encoded once and projected for cross-attention once per
    batch, and JPEG files are written by threads while the next batch is generated.

    Args:
        pipeline: the Stable Diffusion pipeline.
        guidance_scale: see `ClassifierFreeGuidance`; 1 is no guidance.
        num_inference_steps: diffusion steps.
        negative_prompt: text in the place of the empty prompt.
        width: pixels, a multiple of the autoencoder's factor.
        height: likewise.
        batch_size: images per batch; a smaller last batch is padded to it and the padding dropped.
        options: what trades pixels for speed. They change the pipeline's modules in place, except for its scheduler.
        checker: flags images; their pixels stay as they are.

    Raises:
        ModelError: the model cannot generate such images, or an option is not available here.
        GenerationMemoryError: see `generate`.
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
        options: SamplingOptions = SamplingOptions(),  # noqa: B008  # frozen
        checker: SafetyChecker | None = None,
    ):
        if pipeline.unet.config.get("time_cond_proj_dim") is not None:
            raise ModelError("distilled models with an embedded guidance scale are not supported", "use a base model")
        factor = pipeline.vae_scale_factor
        if width % factor or height % factor:
            raise ModelError(f"{width}x{height} is not divisible by {factor}", "give a --size in such multiples")
        self.pipeline = pipeline
        self.device, self.dtype = pipeline.unet.device, pipeline.unet.dtype
        self.guidance = ClassifierFreeGuidance(scale=guidance_scale, interval=options.guidance_interval)
        self.num_inference_steps = num_inference_steps
        self.batch_size = batch_size
        self.latent_shape = (pipeline.unet.config["in_channels"], height // factor, width // factor)
        self._prompt_embeds: dict[str, torch.Tensor] = {}
        self._negative_prompt_embed = self._encode_prompts([negative_prompt])[0]
        self.options, self.checker = options, checker
        self.scheduler = make_scheduler(pipeline, options.scheduler)
        check_timesteps(self.scheduler, num_inference_steps)
        set_kernels(pipeline, options)
        self._deep_cache = DeepCache(pipeline.unet) if options.cache_interval > 1 else None
        # torch.compile would stop at each of its hooks.
        self._cross_attention_cache = None if options.compile else CrossAttentionCache(pipeline.unet)
        if options.compile:
            latents = torch.zeros(batch_size, *self.latent_shape, device=self.device, dtype=self.dtype)
            sizes = self.guidance.unet_batch_sizes(batch_size)
            self._check_memory(lambda: compile_now(pipeline, latents, self._negative_prompt_embed, sizes))

    def generate(self, requests: Sequence[ImageRequest]) -> np.ndarray:
        """Generate one batch.

        Args:
            requests: 1 to `batch_size` images.

        Returns:
            uint8 [len(requests), height, width, 3].

        Raises:
            UnusableImageError: an image came out with a value that is no number, or in one single colour.
            GenerationMemoryError: the batch does not fit into the device's memory.
        """
        return self._check_memory(lambda: self._sample(requests))

    def generate_encoded(
        self, requests: Sequence[ImageRequest], on_batch: Callable[[int], object] = lambda images_done: None
    ) -> Iterator[EncodedImage]:
        """Generate any number of images in fixed batches; yields them in order.

        Args:
            requests: the images.
            on_batch: called before each batch with the number of images generated so far; what it raises ends the work.

        Raises:
            UnusableImageError: see `generate`.
        """
        with ThreadPoolExecutor(_ENCODER_THREADS, thread_name_prefix="jpeg") as pool:
            encoded: Iterable[EncodedImage] = ()
            for start in range(0, len(requests), self.batch_size):
                on_batch(start)
                images = self.generate(requests[start : start + self.batch_size])
                flags = self._flags(images)
                yield from encoded
                encoded = pool.map(_encode_image, images, flags)
            yield from encoded

    @torch.inference_mode()
    def _sample(self, requests: Sequence[ImageRequest]) -> np.ndarray:
        padded = [*requests, *[requests[-1]] * (self.batch_size - len(requests))]
        prompt_embeds = self._encode_prompts([request.prompt.text for request in padded])
        generators = [torch.Generator().manual_seed(request.seed) for request in padded]
        noise = torch.stack([torch.randn(self.latent_shape, generator=generator) for generator in generators])
        latents = self._denoise(noise.to(self.device, self.dtype), prompt_embeds, generators)
        vae = self.pipeline.vae
        images = vae.decode(latents / vae.config["scaling_factor"], return_dict=False)[0][: len(requests)]
        _check_images(images, requests)
        pixels = (images * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
        return (pixels * 255).round().astype("uint8")

    @torch.inference_mode()
    def _encode_prompts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings [texts, tokens, width], each encoded alone, so that it does not depend on its neighbours."""
        for text in texts:
            if text not in self._prompt_embeds:
                embeds, _ = self.pipeline.encode_prompt(text, self.device, 1, do_classifier_free_guidance=False)
                self._prompt_embeds[text] = embeds[0]
        prompt_embeds = torch.stack([self._prompt_embeds[text] for text in texts])
        while len(self._prompt_embeds) > _CACHED_PROMPTS:  # the oldest go
            self._prompt_embeds.pop(next(iter(self._prompt_embeds)))
        return prompt_embeds

    def _denoise(
        self, noise: torch.Tensor, prompt_embeds: torch.Tensor, generators: list[torch.Generator]
    ) -> torch.Tensor:
        scheduler, unet = self.scheduler, self.pipeline.unet
        guided_prompt_embeds = torch.cat([self._negative_prompt_embed.expand_as(prompt_embeds), prompt_embeds])
        step_kwargs = extra_step_kwargs(scheduler, generators)
        # The scheduler's timesteps stay on the CPU, where its tables are: a look-up then never waits for the GPU.
        scheduler.set_timesteps(self.num_inference_steps)
        unet_timesteps = scheduler.timesteps.to(self.device)
        latents = noise * scheduler.init_noise_sigma
        was_guided = None
        for i, (timestep, unet_timestep) in enumerate(zip(scheduler.timesteps, unet_timesteps, strict=True)):
            guided = self.guidance.is_active(i, len(scheduler.timesteps))
            if self._deep_cache is not None:  # features of another batch size are of no use
                self._deep_cache.reuse = guided == was_guided and i % self.options.cache_interval > 0
            was_guided = guided
            latent_model_input = torch.cat([latents] * 2) if guided else latents
            latent_model_input = scheduler.scale_model_input(latent_model_input, timestep)
            encoder_hidden_states = guided_prompt_embeds if guided else prompt_embeds
            noise_pred = unet(
                latent_model_input, unet_timestep, encoder_hidden_states=encoder_hidden_states, return_dict=False
            )[0]
            if guided:
                noise_pred = self.guidance.combine(noise_pred)
            latents = scheduler.step(noise_pred, timestep, latents, **step_kwargs, return_dict=False)[0]
        for cache in (self._deep_cache, self._cross_attention_cache):
            if cache is not None:
                cache.clear()
        return latents

    def _flags(self, images: np.ndarray) -> Sequence[bool | None]:
        if self.checker is None:
            return [None] * len(images)
        checker = self.checker
        return self._check_memory(lambda: checker.flags(images))

    def _check_memory(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
            if not memory:
                raise
        # Outside of the handler, so that the tensors of the failed call are freed.
        remedy = f"--batch-size {self.batch_size // 2}" if self.batch_size > 1 else "a smaller --size"
        raise GenerationMemoryError(
            f"the {self.device.type} device has too little memory for a batch of {self.batch_size} images",
            "free memory on the device and run the same command again, or begin a new folder with "
            f"{remedy} (or --batch-size auto; it is part of the plan, because another one rounds differently)",
        )


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """A JPEG file, encoded as `generation.config.JPEG` says, from uint8 [height, width, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **JPEG)
    return buffer.getvalue()


def _encode_image(image: np.ndarray, nsfw: bool | None) -> EncodedImage:
    return EncodedImage(jpeg=encode_jpeg(image), nsfw=nsfw)


def _check_images(images: torch.Tensor, requests: Sequence[ImageRequest]) -> None:
    """Refuse images that are not finite (they would be stored as black) or that show one colour only."""
    flat = images.flatten(2).float()  # [N, 3, pixels]: a colour is constant where each of its channels is
    finite = flat.isfinite().all(2).all(1)
    spread = (flat.amax(2) - flat.amin(2)).amax(1)
    for request, is_finite, value_range in zip(requests, finite.tolist(), spread.tolist(), strict=True):
        if not is_finite or value_range < 2 / 255:
            fault = "has one single colour" if is_finite else "holds values that are not numbers"
            raise UnusableImageError(
                f"image {request.image_id} {fault}", "check the model's weights and --dtype (try --dtype float32)"
            )
