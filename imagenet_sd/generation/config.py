"""What a generated dataset is: every choice that decides its pixels, typed and checked."""

from dataclasses import dataclass
from typing import Literal, get_args

from imagenet_sd.core.errors import PlanError, control_character
from imagenet_sd.generation.diffusion.options import SAMPLING_DEFAULTS, Attention, Quantize, SamplingOptions
from imagenet_sd.generation.lora import parse_lora

EMBEDDED = "embedded"
EMBEDDED_CLASSES = ("photos-10", "digits-10")
"""The class lists that the embedded model was trained on."""
DEFAULT_MODEL = "CompVis/stable-diffusion-v1-4"
JPEG = {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}
"""How images are encoded: what `dataset.json` records, and what the encoder hands to Pillow."""
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
HypernymLemmas = Literal["first", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationConfig:
    """Settings of `imagenet-sd generate`; the defaults are those of ImageNet-SD (thesis 5.5, implementation details).

    The empty string and 0 stand for the default that a field's description names.

    Raises:
        PlanError: a value is out of its range, or two values contradict each other.
    """

    classes: str = ""
    """Classes: imagenet-1k, imagenet-100, photos-10, digits-10, a .txt or .tsv; default imagenet-100 (embedded:
    digits-10)."""
    prompt: str = "c"
    """Prompt template: c, c_hc, c_dc, c_hc_b, photo, or a key of your own templates."""
    templates: str = ""
    """YAML file with prompt templates of your own, added to the shipped ones."""
    hypernym_lemmas: HypernymLemmas = "first"
    """Lemmas of each direct hypernym that the prompt names: the first, or all."""
    model: str = DEFAULT_MODEL
    """Hub id or local folder of a text-to-image pipeline of diffusers, or `embedded`."""
    revision: str = ""
    """Commit of the hub repository; default the newest, which the plan then pins."""
    lora: str = ""
    """LoRA that is fused into the model, PATH_OR_REPO[:WEIGHT]: a .safetensors file, or a folder or hub repository that
    holds one; weight 1 if none is given."""
    guidance_scale: float | None = None
    """Classifier-free guidance scale, 1 to 100; 1 is no guidance; default that of the pipeline (Stable Diffusion 1 and
    2: 7.5)."""
    num_inference_steps: int | None = None
    """Diffusion steps, at least 1; default that of the pipeline (Stable Diffusion 1 and 2: 50)."""
    negative_prompt: str = ""
    """Text that guidance moves away from."""
    width: int = 0
    """Width of the images in pixels, a multiple of 8; default 512 (embedded: 32; other pipelines: their own)."""
    height: int = 0
    """Height of the images in pixels, a multiple of 8; default 384 (embedded: 32; other pipelines: their own)."""
    seed: int = 0
    """Dataset seed, 0 to 2**63 - 1: the initial noise of every image, and its background."""
    images_per_class: int = 0
    """Images per class and round; default 1300, as in the largest class of ILSVRC-2012 (embedded: 400)."""
    match: str = ""
    """Folder of a real ImageFolder whose number of images per class is copied."""
    multiple: float = 1.0
    """Size of the dataset: a whole number of rounds such as 10, or a fraction of one round such as 0.1."""
    shard_size: int = 1000
    """Images per shard, at least 1."""
    batch_size: int = 16
    """Images per batch, or auto (0): the largest that fits the first GPU, found once; part of the plan, because other
    batch sizes round differently."""
    dtype: Dtype = "auto"
    """Compute dtype; auto is bfloat16 (else float16) on a GPU and float32 on a CPU."""
    scheduler: str = ""
    """Scheduler: pndm, ddim, dpm++, euler, euler-a or unipc, configured as the model's own; default the model's own."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Guide only this part of the denoising steps, from noise (0) to image (1); the other steps cost half."""
    cache_interval: int = 1
    """Compute the UNet's deep features on every N-th step only and reuse them on the others (DeepCache); 1 is off."""
    quantize: Quantize = "none"
    """Weights of the UNet's or transformer's linear layers in 8 bits (torchao, an extra), for less memory: int8, fp8 or
    none; computed in the dtype as before."""
    attention: Attention = "sdpa"
    """Attention kernels of the UNet: sdpa (PyTorch's), or xformers (an extra; needs a GPU)."""
    compile: bool = False
    """Compile the UNet and the image decoder with `torch.compile`; part of the plan, because it rounds differently."""
    flag_nsfw: bool = False
    """Add a column `nsfw` with the verdict of the model's own safety checker; no image is changed or dropped."""

    def __post_init__(self) -> None:
        for name in ("num_inference_steps", "shard_size"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} is {value}", f"give a {name} of at least 1")
        _require(
            self.guidance_scale is None or 1 <= self.guidance_scale <= 100,
            f"guidance_scale is {self.guidance_scale}",
            "give a scale from 1 (no guidance) to 100; the papers use 2 and 7.5",
        )
        _require(self.batch_size >= 0, f"batch_size is {self.batch_size}", "give 1 or more, or auto")
        _require(0 <= self.seed < 1 << 63, f"seed is {self.seed}", "give a seed from 0 to 2**63 - 1")
        _require(self.images_per_class >= 0, f"images_per_class is {self.images_per_class}", "give 1 or more")
        _require(
            not (self.match and self.images_per_class),
            "images_per_class and match contradict each other",
            "give --images-per-class for equal counts, or --match for those of a real dataset",
        )
        _require(
            (self.multiple >= 1 and float(self.multiple).is_integer()) or 0 < self.multiple < 1,
            f"multiple is {self.multiple:g}",
            "give a whole number such as 10, or a fraction below 1 such as 0.1",
        )
        _require(self.multiple <= 10_000, f"multiple is {self.multiple:g}", "give at most 10000")
        _require(bool(self.width) == bool(self.height), "width and height go together", "give --size WIDTHxHEIGHT")
        for name, pixels in (("width", self.width), ("height", self.height)):
            _require(
                pixels % 8 == 0 and 0 <= pixels <= 4096,
                f"{name} is {pixels}",
                "give multiples of 8 up to 4096, such as --size 512x384",
            )
        control = control_character(self.negative_prompt, allowed="\t\n")
        _require(not control, f"negative_prompt holds the control character {control}", "take it out")
        if self.lora:
            parse_lora(self.lora)
        for name, choices in (("dtype", Dtype), ("hypernym_lemmas", HypernymLemmas)):
            allowed = get_args(choices)
            _require(
                getattr(self, name) in allowed, f"{name} is {getattr(self, name)!r}", f"one of {', '.join(allowed)}"
            )
        self._check_guidance()
        _require(isinstance(self.flag_nsfw, bool), f"flag_nsfw is {self.flag_nsfw!r}", "true or false")

    def _check_guidance(self) -> None:
        start, end = self.sampling_options.guidance_interval  # building them checks them
        _require(
            start < end,
            f"guidance_interval is {self.guidance_interval!r}: it is empty",
            "give START below END, or --guidance-scale 1 for no guidance at all",
        )
        _require(
            self.guidance_scale != 1 or (start, end) == (0, 1),
            "guidance_interval and guidance_scale 1 contradict each other",
            "leave out --guidance-interval: without guidance there is nothing to limit",
        )
        _require(
            self.guidance_scale != 1 or not self.negative_prompt,
            "negative_prompt and guidance_scale 1 contradict each other",
            "leave out --negative-prompt: without guidance nothing moves away from it",
        )

    @property
    def sampling_options(self) -> SamplingOptions:
        """What trades pixels for speed."""
        return SamplingOptions(**{name: getattr(self, name) for name in SAMPLING_DEFAULTS})

    @property
    def embedded(self) -> bool:
        """Whether the generator is the small one that ships inside this package."""
        return self.model == EMBEDDED

    @property
    def class_list(self) -> str:
        """The class list with its default filled in."""
        return self.classes or ("digits-10" if self.embedded else "imagenet-100")

    @property
    def scale(self) -> float:
        """The guidance scale of a configuration whose defaults are filled in (`models.resolve`)."""
        assert self.guidance_scale is not None
        return self.guidance_scale

    @property
    def steps(self) -> int:
        """The number of steps of a configuration whose defaults are filled in (`models.resolve`)."""
        assert self.num_inference_steps is not None
        return self.num_inference_steps

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels of a configuration whose defaults are filled in (`models.resolve`)."""
        assert self.width
        return self.width, self.height

    @property
    def base_count(self) -> int:
        """Images per class of one round when neither `images_per_class` nor `match` says otherwise."""
        return self.images_per_class or (400 if self.embedded else 1300)


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise PlanError(message, hint)
