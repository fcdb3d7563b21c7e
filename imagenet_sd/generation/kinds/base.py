"""What the tool must know of a kind of pipeline before any of its weights are loaded. Imports no heavy library."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from imagenet_sd.core.errors import ModelError, PlanError

Configs = Callable[[str], Mapping[str, Any]]
"""The configuration of a part of a model, such as "unet" or "scheduler"; empty where it is not known."""
Guidance = Literal["classifier-free", "distilled", "none"]


def _as_it_is(kind: "PipelineKind", configs: Configs, name: str) -> "PipelineKind":
    return kind


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineKind:
    """A text-to-image pipeline of diffusers, as the adapter calls it; its defaults are those of the pipeline itself."""

    pipeline: str
    """Name of the class in diffusers, as `model_index.json` gives it."""
    steps: int
    """Default number of steps."""
    guidance_scale: float
    """Default guidance scale; 1 is no guidance."""
    size: tuple[int, int] = (1024, 1024)
    """Default (width, height) in pixels where the model's configuration does not tell."""
    size_multiple: int = 8
    """What width and height are multiples of: the factor of the autoencoder times the side of a patch of latents."""
    fixed_size: bool = False
    """Whether `size` is the default whatever the configuration tells."""
    guidance: Guidance = "classifier-free"
    """Two passes of the denoiser per step, or the scale as an input of a distilled denoiser, or no guidance at all."""
    scale_argument: str = "guidance_scale"
    """The pipeline's argument for it. With "true_cfg_scale" a pipeline guides only if it gets a negative prompt too."""
    negative_prompt: bool = True
    """Whether a negative prompt has any effect."""
    lora: bool = True
    """Whether diffusers loads LoRAs into it."""
    denoiser: str = "transformer"
    """The part that runs at every step: "unet" or "transformer"."""
    embeds: tuple[str, ...] = ()
    """What `encode_prompt` returns, in order, as arguments of the pipeline; further values are left out. Empty: prompts
    are handed over as text, and encoded with every batch."""
    tokenizers: Mapping[str, int] = field(default_factory=dict)
    """Folder of each tokenizer -> how many tokens its text encoder reads, start and end markers included."""
    load: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `from_pretrained`."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the pipeline."""
    narrow: Callable[["PipelineKind", Configs, str], "PipelineKind"] = _as_it_is
    """What the configuration and the name of one model add, such as that it is distilled."""

    def of(self, configs: Configs, name: str) -> "PipelineKind":
        """This kind with what one model's configuration tells: its size, and whatever `narrow` finds.

        Args:
            configs: the model's configurations.
            name: as the user gave it.
        """
        kind = self.narrow(self, configs, name)
        pixels = None if kind.fixed_size else native_size(configs(kind.denoiser), configs("vae"))
        return replace(kind, size=(pixels, pixels)) if pixels else kind

    def without_guidance(self, steps: int) -> "PipelineKind":
        """The same kind for weights that were distilled to generate without guidance in a few steps."""
        return replace(self, steps=steps, guidance_scale=1.0, guidance="none", negative_prompt=False)

    def denoiser_in(self, components: Mapping[str, Any]) -> str:
        """The part that runs at every step, also of a pipeline of which no more than its signature is known.

        Raises:
            ModelError: none of the pipeline's components is one.
        """
        names = [name for name in (self.denoiser, "unet", "transformer") if name in components]
        if not names:
            raise ModelError(f"{self.pipeline} has neither a UNet nor a transformer", "use another model")
        return names[0]

    def check(
        self,
        model: str,
        guidance_scale: float,
        negative_prompt: str,
        lora: str = "",
        size: tuple[int, int] | None = None,
    ) -> None:
        """Refuse what the model would ignore or change.

        Args:
            model: as the user gave it.
            guidance_scale: likewise, or the default.
            negative_prompt: "" for none.
            lora: likewise.
            size: (width, height) in pixels.

        Raises:
            PlanError: a guidance scale for a model without guidance, a negative prompt without effect, a LoRA for a
                pipeline that takes none, or a size that the model cannot generate.
        """
        if self.guidance == "none" and guidance_scale > 1:
            raise PlanError(
                f"guidance_scale is {guidance_scale:g}, and {model} generates without guidance",
                "leave out --scale, or give 1",
            )
        if negative_prompt and not self.negative_prompt:
            raise PlanError(
                f"{model} ({self.pipeline}) ignores a negative prompt",
                "leave out --negative-prompt, or use another model",
            )
        if lora and not self.lora:
            raise PlanError(f"{model} ({self.pipeline}) takes no LoRA", "leave out --lora, or use another model")
        if size is not None and any(pixels % self.size_multiple for pixels in size):
            raise PlanError(
                f"size is {size[0]}x{size[1]}, and {model} ({self.pipeline}) generates multiples of "
                f"{self.size_multiple} pixels",
                "give --size WIDTHxHEIGHT in such multiples",
            )


def native_size(denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> int | None:
    """Side of the images that a model was trained on, in pixels: latents times the factor of its autoencoder.

    Args:
        denoiser: configuration of the UNet or transformer; `sample_size` is the side of the latents.
        vae: configuration of the autoencoder.
    """
    sample_size = denoiser.get("sample_size")
    widths = vae.get("encoder_block_out_channels") or vae.get("block_out_channels")  # of DC-AE; of AutoencoderKL
    if type(sample_size) is not int or not isinstance(widths, list) or not 1 <= sample_size <= 1024:
        return None
    return sample_size * 2 ** (len(widths) - 1)


def narrow_turbo(kind: PipelineKind, configs: Configs, name: str) -> PipelineKind:
    """One step without guidance is the default of SD-Turbo and SDXL-Turbo, which their scheduler alone tells apart.

    A model that is not distilled may share it, so another scale and other steps are taken as the user gives them.
    """
    return replace(kind, steps=1, guidance_scale=1.0) if distilled_euler(configs("scheduler")) else kind


def distilled_euler(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler is that of SD-Turbo and SDXL-Turbo: Euler, from the noisiest timestep, predicting noise.

    Args:
        scheduler: its configuration.
    """
    return (
        str(scheduler.get("_class_name", "")).startswith("Euler")
        and scheduler.get("timestep_spacing") == "trailing"
        and scheduler.get("prediction_type", "epsilon") == "epsilon"
    )
