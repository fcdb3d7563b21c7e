"""The adapter: any text-to-image pipeline of diffusers, called as it is, with the promises of `BatchGenerator`."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline

from imagenet_sd.core.errors import ModelError, one_line
from imagenet_sd.core.types import ImageRequest
from imagenet_sd.generation.diffusion.batches import BatchGenerator, Embeds, cached
from imagenet_sd.generation.diffusion.kernels import compiling, set_kernels
from imagenet_sd.generation.diffusion.options import SamplingOptions
from imagenet_sd.generation.diffusion.quantization import quantize_linear_layers
from imagenet_sd.generation.diffusion.safety import SafetyChecker
from imagenet_sd.generation.diffusion.schedulers import check_timesteps, exchange_scheduler
from imagenet_sd.generation.kinds.base import PipelineKind


class PipelineGenerator(BatchGenerator):
    """Samples with a stock pipeline of any kind: the images of calling it with a list of prompts and generators.

    Around the call: every prompt is encoded once, alone, with all its encoders, and its embeddings are kept (a list is
    encoded together, which rounds otherwise and moves pixels by up to 1 of 255); batches have one size; images are
    checked.

    Args:
        pipeline: the pipeline, a class of `kind`.
        kind: what is known of it.
        guidance_scale: as the pipeline takes it; 1 is no guidance.
        num_inference_steps: diffusion steps.
        negative_prompt: text in the place of the pipeline's own; "" for that.
        width: pixels.
        height: likewise.
        batch_size: images per batch.
        options: what trades pixels for speed; changes the pipeline in place.
        checker: flags images; their pixels stay as they are.

    Raises:
        ModelError: the model cannot generate such images, or an option is not available here.
        GenerationMemoryError: see `BatchGenerator.generate`.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        kind: PipelineKind,
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
        self.pipeline, self.kind = pipeline, kind
        self.denoiser_name = kind.denoiser_in(pipeline.components)
        self.device, self.dtype = pipeline._execution_device, self.denoiser.dtype
        self.guidance_scale, self.num_inference_steps = guidance_scale, num_inference_steps
        self.width, self.height, self.batch_size = width, height, batch_size
        self.options, self.checker = options, checker
        exchange_scheduler(pipeline, options.scheduler)
        self.scheduler = self.pipeline.scheduler
        check_timesteps(self.scheduler, num_inference_steps)
        self._takes = _defaults(type(pipeline).__call__) | (
            {"negative_prompt": negative_prompt} if negative_prompt else {}
        )
        self._encode_takes = _encode_arguments(pipeline, kind, self._takes) if kind.embeds else {}
        self._embeds: dict[str, Embeds] = {}
        self._negative: Embeds | None = None
        quantize_linear_layers(self.denoiser, options.quantize)
        set_kernels(pipeline, self.denoiser_name, options, regional=True)
        if options.compile:
            self._check_memory(self._compile_now)

    @property
    def denoiser(self) -> Any:  # noqa: D102  # as in the base class
        return getattr(self.pipeline, self.denoiser_name)

    def _sample(self, requests: Sequence[ImageRequest]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        return self._call([request.prompt.text for request in requests], generators, self.num_inference_steps)

    def _call(self, texts: list[str], generators: list[torch.Generator], steps: int) -> torch.Tensor:
        """Images float [texts, 3, height, width] in [0, 1]."""
        try:
            images = self.pipeline(
                **(self._encode_prompts(texts) if self.kind.embeds else {"prompt": texts}),
                **self._call_arguments(len(texts)),
                width=self.width,
                height=self.height,
                num_inference_steps=steps,
                generator=generators,
                output_type="pt",
                return_dict=False,
            )[0]
        except ValueError as error:  # how pipelines refuse sizes and numbers of steps
            raise ModelError(
                f"{self.kind.pipeline} refuses: {one_line(error)}", "give another --size, or other --steps"
            ) from None
        height, width = images.shape[-2:]
        if (width, height) != (self.width, self.height):
            raise ModelError(
                f"{self.kind.pipeline} generates {width}x{height} where {self.width}x{self.height} is asked for",
                f"give --size {width}x{height} (the plan records it, so in a new folder)",
            )
        return images

    def _call_arguments(self, count: int) -> dict[str, Any]:
        """What the pipeline takes beside the prompts; a negative prompt only where it is not embedded with them."""
        arguments = dict(self.kind.call)
        if self.kind.scale_argument in self._takes:
            arguments[self.kind.scale_argument] = self.guidance_scale
        if "negative_prompt" in self._takes:
            text = None if self.kind.embeds else self._takes["negative_prompt"]
            if not text and self.kind.scale_argument == "true_cfg_scale" and self.guidance_scale > 1:
                arguments["negative_prompt"] = [""] * count  # without one there would be no guidance
            else:
                arguments["negative_prompt"] = text and [text] * count
        return arguments

    def _encode_prompts(self, texts: Sequence[str]) -> Embeds:
        """All embeddings and masks that the pipeline takes, [texts, ...] each; texts are encoded one by one."""
        prompts = [embeds | (self._negative or {}) for embeds in cached(self._embeds, texts, self._encode)]
        return {name: torch.stack([embeds[name] for embeds in prompts]) for name in prompts[0]}

    def _encode(self, text: str) -> Embeds:
        """Embeddings of one prompt; those of the negative prompt, the same for all, come with the first one."""
        guided = self.kind.guidance == "classifier-free" and self.guidance_scale > 1 and self._negative is None
        arguments = self._encode_takes | {"prompt": text, "device": self.device}
        if "do_classifier_free_guidance" in arguments:
            arguments["do_classifier_free_guidance"] = guided
        values = self.pipeline.encode_prompt(**arguments)
        embeds = {
            name: value[0] for name, value in zip(self.kind.embeds, values, strict=False) if value is not None
        }  # fmt: skip
        if guided:
            self._negative = {name: value for name, value in embeds.items() if name.startswith("negative_")}
        return {name: value for name, value in embeds.items() if not name.startswith("negative_")}

    @torch.inference_mode()
    def _compile_now(self) -> None:
        """Compile before the first image, so that what cannot be compiled fails then."""
        generators = [torch.Generator().manual_seed(0) for _ in range(self.batch_size)]
        with compiling():
            self._call([""] * self.batch_size, generators, 1)


def _defaults(function: Any) -> dict[str, Any]:
    """Argument -> default of a function; None where there is none."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    return {p.name: None if p.default is p.empty else p.default for p in parameters if p.name != "self"}


def _encode_arguments(pipeline: Any, kind: PipelineKind, call: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `encode_prompt`, as the pipeline gives them: what both take has the pipeline's own default."""
    own = _defaults(type(pipeline).encode_prompt)
    shared = {name: value for name, value in (call | dict(kind.call)).items() if name in own}
    return own | shared | {"num_images_per_prompt": 1}
