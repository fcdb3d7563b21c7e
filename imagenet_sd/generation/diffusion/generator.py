"""The generator for Stable Diffusion 1 and 2: a denoising loop of its own around the modules of the pipeline."""

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from imagenet_sd.core.errors import ModelError
from imagenet_sd.core.types import ImageRequest
from imagenet_sd.generation.diffusion.batches import BatchGenerator, Embeds, cached
from imagenet_sd.generation.diffusion.caching import CrossAttentionCache, DeepCache
from imagenet_sd.generation.diffusion.guidance import ClassifierFreeGuidance
from imagenet_sd.generation.diffusion.kernels import compile_now, set_kernels
from imagenet_sd.generation.diffusion.options import SamplingOptions
from imagenet_sd.generation.diffusion.quantization import quantize_linear_layers
from imagenet_sd.generation.diffusion.safety import SafetyChecker
from imagenet_sd.generation.diffusion.schedulers import check_timesteps, extra_step_kwargs, make_scheduler


class ImageGenerator(BatchGenerator):
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
        GenerationMemoryError: see `BatchGenerator.generate`.
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
        self.device, self.dtype = pipeline._execution_device, pipeline.unet.dtype
        self.guidance = ClassifierFreeGuidance(scale=guidance_scale, interval=options.guidance_interval)
        self.num_inference_steps = num_inference_steps
        self.batch_size = batch_size
        self.latent_shape = (pipeline.unet.config["in_channels"], height // factor, width // factor)
        self._prompt_embeds: dict[str, Embeds] = {}
        self._negative_prompt_embed = self._encode_prompts([negative_prompt])[0]
        self.options, self.checker = options, checker
        self.scheduler = make_scheduler(pipeline, options.scheduler)
        check_timesteps(self.scheduler, num_inference_steps)
        quantize_linear_layers(pipeline.unet, options.quantize)
        set_kernels(pipeline, "unet", options, regional=False)
        self._deep_cache = DeepCache(pipeline.unet) if options.cache_interval > 1 else None
        # torch.compile would stop at each of its hooks.
        self._cross_attention_cache = None if options.compile else CrossAttentionCache(pipeline.unet)
        if options.compile:
            latents = torch.zeros(batch_size, *self.latent_shape, device=self.device, dtype=self.dtype)
            sizes = self.guidance.unet_batch_sizes(batch_size)
            self._check_memory(lambda: compile_now(pipeline, latents, self._negative_prompt_embed, sizes))

    @property
    def denoiser(self) -> UNet2DConditionModel:  # noqa: D102  # as in the base class
        return self.pipeline.unet

    def _sample(self, requests: Sequence[ImageRequest]) -> torch.Tensor:
        prompt_embeds = self._encode_prompts([request.prompt.text for request in requests])
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        noise = torch.stack([torch.randn(self.latent_shape, generator=generator) for generator in generators])
        latents = self._denoise(noise.to(self.device, self.dtype), prompt_embeds, generators)
        vae = self.pipeline.vae
        images = vae.decode(latents / vae.config["scaling_factor"], return_dict=False)[0] * 0.5 + 0.5
        self.pipeline.maybe_free_model_hooks()  # where weights are offloaded: makes room for the next batch
        return images

    @torch.inference_mode()
    def _encode_prompts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings [texts, tokens, width], each encoded alone, so that it does not depend on its neighbours."""

        def encode(text: str) -> Embeds:
            embeds = self.pipeline.encode_prompt(text, self.device, 1, do_classifier_free_guidance=False)
            return {"prompt_embeds": embeds[0][0]}

        return torch.stack([embeds["prompt_embeds"] for embeds in cached(self._prompt_embeds, texts, encode)])

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
