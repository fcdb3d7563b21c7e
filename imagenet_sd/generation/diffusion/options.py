"""The sampling options of a plan: what trades pixels for speed, typed and checked. Imports no heavy library."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from imagenet_sd.core.errors import PlanError
from imagenet_sd.generation.diffusion.schedulers import SCHEDULERS

Attention = Literal["sdpa", "xformers"]
Quantize = Literal["none", "int8", "fp8"]
Offload = Literal["none", "model", "sequential"]
"""Where weights rest while they are not used: on the GPU, or in the CPU's memory, part by part or layer by layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions:
    """What trades pixels for speed; all are off by default, and recorded in the plan where they are not.

    The first four are lossy: they give other images. The last two change rounding only. What is lossless needs no
    option and is always on (see `ImageGenerator`).

    Raises:
        PlanError: a value is out of its range.
    """

    scheduler: str = ""
    """A key of `SCHEDULERS`; "" is the model's own."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """(start, end) in [0, 1], start <= end: the steps that are guided, see `ClassifierFreeGuidance`."""
    cache_interval: int = 1
    """Deep features are computed on one step of this many and reused on the others, see `DeepCache`; 1: always."""
    quantize: Quantize = "none"
    """How the weights of the denoiser's linear layers are stored, see `quantize_linear_layers`."""
    attention: Attention = "sdpa"
    """Attention kernels of the UNet: PyTorch's, or those of xformers."""
    compile: bool = False
    """Whether `torch.compile` fuses the UNet and the image decoder."""

    def __post_init__(self) -> None:
        def require(condition: bool, name: str, hint: str) -> None:
            if not condition:
                raise PlanError(f"{name} is {getattr(self, name)!r}", hint)

        require(self.scheduler in ("", *SCHEDULERS), "scheduler", f"one of {', '.join(SCHEDULERS)}, or none given")
        require(
            _is_interval(self.guidance_interval),
            "guidance_interval",
            "give two fractions START:END with 0 <= START <= END <= 1, such as 0.2:0.8",
        )
        require(
            type(self.cache_interval) is int and 1 <= self.cache_interval <= 1000,
            "cache_interval",
            "give a whole number from 1 (off) to 1000; 2 or 3 keep the pictures close",
        )
        require(self.quantize in get_args(Quantize), "quantize", f"one of {', '.join(get_args(Quantize))}")
        require(self.attention in get_args(Attention), "attention", f"one of {', '.join(get_args(Attention))}")
        require(isinstance(self.compile, bool), "compile", "true or false")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "SamplingOptions":
        """The options of a `dataset.json`, whose settings name only those that are not at their default.

        Raises:
            PlanError: a recorded value is out of its range.
        """
        values = {name: settings[name] for name in SAMPLING_DEFAULTS if name in settings}
        if isinstance(values.get("guidance_interval"), list):
            values["guidance_interval"] = tuple(values["guidance_interval"])
        return cls(**values)

    def recorded(self) -> dict[str, Any]:
        """The options that are not at their default, as the settings of a `dataset.json` name them."""
        values = {name: getattr(self, name) for name in SAMPLING_DEFAULTS}
        values["guidance_interval"] = tuple(float(bound) for bound in self.guidance_interval)  # 0 and 0.0 are one
        return {name: value for name, value in values.items() if value != SAMPLING_DEFAULTS[name]}


SAMPLING_DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(SamplingOptions)}
"""Every option at its default."""


def leave_out(option: str) -> str:
    """The hint where an option is not available here; without it the plan is another one."""
    return f"leave out {option} (the plan records it, so in a new folder)"


def check_offload(offload: str, options: SamplingOptions) -> None:
    """Refuse an unknown way of offloading, and what offloaded weights do not go with.

    Raises:
        PlanError: see above.
    """
    if offload not in get_args(Offload):
        raise PlanError(f"offload is {offload!r}", f"one of {', '.join(get_args(Offload))}")
    if offload != "none" and options.compile:
        raise PlanError(
            "--offload and --compile do not go together: compiled modules have to stay where they are",
            "leave out one of them",
        )
    if offload == "sequential" and options.quantize != "none":
        raise PlanError(
            "--offload sequential and --quantize do not go together: quantized layers move as a whole",
            "give --offload model, or leave out --quantize",
        )


def _is_interval(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    return all(type(bound) in (int, float) for bound in value) and 0 <= value[0] <= value[1] <= 1
