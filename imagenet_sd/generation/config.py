"""What a generated dataset is: every choice that decides its pixels, typed and checked."""

from dataclasses import dataclass
from typing import Literal

from imagenet_sd.core.errors import PlanError
from imagenet_sd.generation.diffusion.options import DEFAULTS as LEVERS
from imagenet_sd.generation.diffusion.options import Attention, Levers

EMBEDDED = "embedded"
DEFAULT_MODEL = "CompVis/stable-diffusion-v1-4"


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationConfig:
    """Settings of `imagenet-sd generate`; the defaults are those of ImageNet-SD (thesis 5.5, implementation details).

    Raises:
        PlanError: a value is out of its range, or two values contradict each other.
    """

    classes: str = ""
    """Class list: a built-in name or a path. Empty: digits-10 for the embedded model, else imagenet-100."""
    prompt: str = "c"
    """Key of the prompt template."""
    templates: str = ""
    """Path of a YAML file with templates of the user's own; empty for none."""
    hypernym_lemmas: Literal["first", "all"] = "first"
    """How many lemmas of each direct hypernym the prompt names."""
    model: str = DEFAULT_MODEL
    """Hub id, folder of a diffusers Stable Diffusion pipeline, or "embedded"."""
    revision: str = ""
    """Commit of the hub repository; empty: the newest, which is then pinned in the plan."""
    guidance_scale: float = 7.5
    """Classifier-free guidance scale, >= 1; 1 is no guidance."""
    num_inference_steps: int = 50
    """Diffusion steps, >= 1."""
    negative_prompt: str = ""
    """Text that guidance moves away from."""
    width: int = 0
    """Pixels, a multiple of 8; 0: 512 (32 for the embedded model)."""
    height: int = 0
    """Pixels, a multiple of 8; 0: 384 (32 for the embedded model)."""
    seed: int = 0
    """Dataset seed, in [0, 2**63)."""
    images_per_class: int = 0
    """Base count of every class; 0: 1,300, the most that a class of ILSVRC-2012 has (400 for the embedded model)."""
    match: str = ""
    """Folder of a real ImageFolder whose count per class is copied; empty for none."""
    multiple: float = 1.0
    """Size as a multiple of the base count: a whole number of rounds, or a fraction in (0, 1)."""
    shard_size: int = 1000
    """Images per shard."""
    batch_size: int = 16
    """Images per batch; part of the plan, because kernels of other batch sizes round differently."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Compute dtype; auto: bfloat16 (else float16) on a GPU, float32 on a CPU."""
    scheduler: str = ""
    """pndm, ddim, dpm++, euler, euler-a or unipc, with the settings of the model's own scheduler; empty: that one."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """The guided part of the schedule, from noise (0) to image (1): 0 <= start < end <= 1. Other steps cost half."""
    cache_interval: int = 1
    """Compute the UNet's deep features on one step of this many, and reuse them on the others; 1: always, >= 1."""
    attention: Attention = "sdpa"
    """Attention kernels of the UNet; xformers is an extra and needs a GPU."""
    compile: bool = False
    """Compile the UNet and the image decoder with `torch.compile`; rounds differently, so it is part of the plan."""
    flag_nsfw: bool = False
    """Add a column `nsfw` with the verdict of the model's own safety checker; no image is changed or dropped."""

    def __post_init__(self) -> None:
        def require(condition: bool, message: str, hint: str) -> None:
            if not condition:
                raise PlanError(message, hint)

        positive = ("num_inference_steps", "shard_size", "batch_size")
        for name in positive:
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}", f"give a {name} of at least 1")
        require(
            1 <= self.guidance_scale <= 100,
            f"guidance_scale is {self.guidance_scale}",
            "give a scale from 1 (no guidance) to 100; the papers use 2 and 7.5",
        )
        require(0 <= self.seed < 1 << 63, f"seed is {self.seed}", "give a seed from 0 to 2**63 - 1")
        require(self.images_per_class >= 0, f"images_per_class is {self.images_per_class}", "give 1 or more")
        require(
            not (self.match and self.images_per_class),
            "images_per_class and match contradict each other",
            "give --images-per-class for equal counts, or --match for those of a real dataset",
        )
        require(
            (self.multiple >= 1 and float(self.multiple).is_integer()) or 0 < self.multiple < 1,
            f"multiple is {self.multiple:g}",
            "give a whole number such as 10, or a fraction below 1 such as 0.1",
        )
        require(self.multiple <= 10_000, f"multiple is {self.multiple:g}", "give at most 10000")
        require(bool(self.width) == bool(self.height), "width and height go together", "give --size WIDTHxHEIGHT")
        for name, pixels in (("width", self.width), ("height", self.height)):
            require(
                pixels % 8 == 0 and 0 <= pixels <= 4096,
                f"{name} is {pixels}",
                "give multiples of 8 up to 4096, such as --size 512x384",
            )
        choices = {"dtype": ("auto", "float32", "float16", "bfloat16"), "hypernym_lemmas": ("first", "all")}
        for name, allowed in choices.items():
            require(
                getattr(self, name) in allowed, f"{name} is {getattr(self, name)!r}", f"one of {', '.join(allowed)}"
            )

        start, end = self.levers.guidance_interval  # building the levers checks them
        require(
            start < end,
            f"guidance_interval is {self.guidance_interval!r}: it is empty",
            "give START below END, or --guidance-scale 1 for no guidance at all",
        )
        require(
            self.guidance_scale > 1 or (start, end) == (0, 1),
            "guidance_interval and guidance_scale 1 contradict each other",
            "leave out --guidance-interval: without guidance there is nothing to limit",
        )
        require(isinstance(self.flag_nsfw, bool), f"flag_nsfw is {self.flag_nsfw!r}", "true or false")

    @property
    def levers(self) -> Levers:
        """What trades pixels for speed."""
        return Levers(**{name: getattr(self, name) for name in LEVERS})

    @property
    def embedded(self) -> bool:
        """Whether the generator is the small one that ships inside this package."""
        return self.model == EMBEDDED

    @property
    def class_list(self) -> str:
        """The class list with its default filled in."""
        return self.classes or ("digits-10" if self.embedded else "imagenet-100")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels with the defaults filled in."""
        return (self.width, self.height) if self.width else ((32, 32) if self.embedded else (512, 384))

    @property
    def base_count(self) -> int:
        """Images per class of one round when neither `images_per_class` nor `match` says otherwise."""
        return self.images_per_class or (400 if self.embedded else 1300)
