"""The throughput levers of a plan: what buys speed for other pixels, typed and checked. Imports no heavy library."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from imagenet_sd.core.errors import PlanError

Attention = Literal["sdpa", "xformers"]
SCHEDULERS = {
    "pndm": "PNDMScheduler",
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Names of schedulers and their classes in diffusers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Levers:
    """What trades pixels for speed. Every lever changes the images, some only by rounding; all are off by default.

    Raises:
        PlanError: a value is out of its range.
    """

    scheduler: str = ""
    """A key of `SCHEDULERS`; "" is the model's own."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """(start, end) in [0, 1], start <= end: the steps that are guided, as fractions of the schedule from noise (0) to
    image (1); start is inside, end is not. The other steps run the conditional branch alone, at half the cost
    (Kynkäänniemi et al., "Applying guidance in a limited interval improves sample and distribution quality", 2024)."""
    cache_interval: int = 1
    """Deep features are computed on one step of this many, and reused on the others (Ma et al., "DeepCache", CVPR
    2024); 1 computes them always."""
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
        require(self.attention in get_args(Attention), "attention", f"one of {', '.join(get_args(Attention))}")
        require(isinstance(self.compile, bool), "compile", "true or false")

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> "Levers":
        """The levers of a `dataset.json`, whose recipe names those only that are not at their default.

        Raises:
            PlanError: a recorded value is out of its range.
        """
        values = {name: recipe[name] for name in DEFAULTS if name in recipe}
        if isinstance(values.get("guidance_interval"), list):
            values["guidance_interval"] = tuple(values["guidance_interval"])
        return cls(**values)

    def recorded(self) -> dict[str, Any]:
        """The levers that are not at their default, as a recipe names them."""
        values = {name: getattr(self, name) for name in DEFAULTS}
        values["guidance_interval"] = tuple(float(bound) for bound in self.guidance_interval)  # 0 and 0.0 are one
        return {name: value for name, value in values.items() if value != DEFAULTS[name]}

    def guides(self, step: int, steps: int) -> bool:
        """Whether step number `step` (0-based) of `steps` lies in the guidance interval."""
        start, end = self.guidance_interval
        return start <= step / steps < end


DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Levers)}
"""Every lever at its default."""


def _is_interval(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    return all(type(bound) in (int, float) for bound in value) and 0 <= value[0] <= value[1] <= 1
