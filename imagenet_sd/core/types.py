"""The core types: small frozen records that the subpackages hand to each other."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, Protocol

from imagenet_sd.core.layout import shard_name
from imagenet_sd.core.seeds import Permutation, image_seed

if TYPE_CHECKING:
    import numpy as np

MAX_IMAGES, MAX_SHARDS = 10**9, 10**6
"""The largest plan. A worker lists all shards and keeps their numbers in memory; a million take some seconds."""

Suite = Literal[
    "imagenet", "transfer", "fewshot", "analysis", "cog", "imagenet-probe", "label-noise", "invariance", "readout"
]  # fmt: skip
"""What an evaluation measures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassSpec:
    """One class of a dataset.

    Attributes:
        wnid: WordNet 3.0 id such as "n02086910", or the id of a user's own class. The key of the class, always.
        class_index: rank of the id in sorted order, as in `ImageFolder`; in [0, number of classes).
        lemmas: the synset's lemmas in WordNet's order, with spaces for underscores.
        hypernyms: names of the direct hypernyms in WordNet's order; empty when there is none.
        definition: the gloss without its examples; empty when there is none.
    """

    wnid: str
    class_index: int
    lemmas: tuple[str, ...]
    hypernyms: tuple[str, ...] = ()
    definition: str = ""

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> "ClassSpec":
        """The class that an entry of `dataset.json` describes.

        Raises:
            KeyError, TypeError: the entry is garbled.
        """
        names = {key: tuple(entry[key]) for key in ("lemmas", "hypernyms")}
        texts = [entry["wnid"], entry["definition"], *names["lemmas"], *names["hypernyms"]]
        sound = all(isinstance(text, str) for text in texts) and all(isinstance(entry[key], list) for key in names)
        if not sound or not names["lemmas"] or type(entry["class_index"]) is not int:
            raise TypeError(f"the class {entry['wnid']!r}")
        return cls(**names, **{key: entry[key] for key in ("wnid", "class_index", "definition")})


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTemplate:
    """A prompt template; `text` may hold the fields {name} {hypernym} {definition} {background}.

    Attributes:
        key: its name.
        text: the text with its fields.
        backgrounds: what {background} stands for, one after the other; () for the 365 scenes of Places365.
    """

    key: str
    text: str
    backgrounds: tuple[str, ...] = ()

    @classmethod
    def recorded(cls, settings: Mapping[str, Any]) -> "PromptTemplate":
        """The template that the settings in `dataset.json` describe."""
        own = tuple(settings.get("backgrounds", ()))
        return cls(key=settings["prompt"], text=settings["template"], backgrounds=own)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One rendered prompt.

    Attributes:
        prompt_id: unique within a dataset: wnid, template key and scene.
        wnid: class id.
        class_index: see `ClassSpec`.
        template: key of the template.
        background: the scene as a phrase, "" when the template names none.
        text: what the text encoder reads.
    """

    prompt_id: str
    wnid: str
    class_index: int
    template: str
    background: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRequest:
    """An image to generate: id `{wnid}_{index:06d}`, prompt, and the seed of its initial noise in [0, 2**63)."""

    image_id: str
    prompt: Prompt
    seed: int


class PromptSource(Protocol):
    """Something that writes the prompt of image `index` of a class."""

    def prompt(self, spec: ClassSpec, index: int = 0) -> Prompt: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A unit of work: positions [start, stop) of the permutation of one round.

    Attributes:
        round: 0-based round.
        index: 0-based index of the shard within its round.
        num_shards: number of shards of the round.
        start: first position.
        stop: one past the last position.
    """

    round: int
    index: int
    num_shards: int
    start: int
    stop: int

    @property
    def filename(self) -> str:
        """Name of the Parquet file; see `layout.shard_name`."""
        return shard_name(self.index, self.num_shards)

    @property
    def num_rows(self) -> int:
        """Number of images in the shard."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardManifest:
    """What is known of a finished shard; it is written after the shard.

    Attributes:
        fingerprint: of the plan the shard belongs to.
        round: 0-based round.
        index: 0-based index within the round.
        num_rows: number of images.
        sha256: of the Parquet file, hexadecimal.
        num_bytes: size of the Parquet file; 0 in manifests that do not know it.
        generator: facts about what generated it: model, device, dtype, batch size, library versions, seconds.
    """

    fingerprint: str
    round: int
    index: int
    num_rows: int
    sha256: str
    num_bytes: int = 0
    generator: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationPlan:
    """Which image stands where. Computed, never stored per image: its size depends on the classes alone.

    Round r holds images r * n_c ... (r + 1) * n_c - 1 of every class c, in a seeded permutation of its own that mixes
    the classes; shards are runs of `shard_size` positions of it.

    Attributes:
        fingerprint: hash of all that decides the pixels and their place, the number of rounds left out.
        classes: the classes, sorted by id.
        counts: n_c, the images of each class in one round; at least 0 each, at least 1 in all.
        rounds: number of rounds, at least 1.
        shard_size: images per shard, at least 1.
        batch_size: images per batch, at least 1; the last batch of a shard is padded to it.
        seed: dataset seed.
        prompts: writes the prompt of an image.
    """

    fingerprint: str
    classes: tuple[ClassSpec, ...]
    counts: tuple[int, ...]
    rounds: int = 1
    shard_size: int = 1000
    batch_size: int = 16
    seed: int = 0
    prompts: PromptSource

    @property
    def images_per_round(self) -> int:
        """Number of images of one round."""
        return sum(self.counts)

    @property
    def shards_per_round(self) -> int:
        """Number of shards of one round."""
        return -(-self.images_per_round // self.shard_size)

    @property
    def num_images(self) -> int:
        """Number of images of the whole dataset."""
        return self.images_per_round * self.rounds

    @property
    def num_shards(self) -> int:
        """Number of shards of the whole dataset."""
        return self.shards_per_round * self.rounds

    @property
    def excess(self) -> str:
        """What is too large about the plan, in words; "" when it can be worked on."""
        if self.num_images > MAX_IMAGES:
            return f"more than {MAX_IMAGES:,} images"
        return f"more than {MAX_SHARDS:,} shards" if self.num_shards > MAX_SHARDS else ""

    def shard(self, i: int) -> Shard:
        """Shard `i` of the whole dataset, 0 <= i < num_shards; the shards of round 0 come first.

        Raises:
            IndexError: there is no such shard.
        """
        if not 0 <= i < self.num_shards:
            raise IndexError(f"shard {i} of {self.num_shards}")
        round_, index = divmod(i, self.shards_per_round)
        start = index * self.shard_size
        stop = min(start + self.shard_size, self.images_per_round)
        return Shard(round=round_, index=index, num_shards=self.shards_per_round, start=start, stop=stop)

    def number(self, round_: int, index: int) -> int:
        """Number in the whole dataset of shard `index` of a round: the inverse of `shard`."""
        return round_ * self.shards_per_round + index

    def shards(self) -> Iterator[Shard]:
        """All shards in order."""
        return map(self.shard, range(self.num_shards))

    def requests(self, shard: Shard) -> list[ImageRequest]:
        """The images of a shard, in the order of its rows."""
        order = Permutation(self.images_per_round, "shard-order", self.seed, shard.round)
        ends = _running_total(self.counts)
        requests = []
        for position in range(shard.start, shard.stop):
            element = order[position]
            c = bisect_right(ends, element)
            index = element - (ends[c] - self.counts[c]) + shard.round * self.counts[c]
            requests.append(self.request(self.classes[c], index))
        return requests

    def locate(self, image_id: str) -> tuple[int, int]:
        """(number of the shard, row in it) of an image.

        Raises:
            KeyError: the plan has no such image.
        """
        wnid, _, digits = image_id.rpartition("_")
        c = next((c for c, spec in enumerate(self.classes) if spec.wnid == wnid), None)
        if c is None or not (digits.isascii() and digits.isdigit()) or f"{wnid}_{int(digits):06d}" != image_id:
            raise KeyError(image_id)
        round_, index = divmod(int(digits), self.counts[c]) if self.counts[c] else (self.rounds, 0)
        if round_ >= self.rounds:
            raise KeyError(image_id)
        order = Permutation(self.images_per_round, "shard-order", self.seed, round_)
        position = order.index(_running_total(self.counts)[c] - self.counts[c] + index)
        shard, row = divmod(position, self.shard_size)
        return self.number(round_, shard), row

    def request(self, spec: ClassSpec, index: int) -> ImageRequest:
        """Image `index` of a class."""
        return ImageRequest(
            image_id=f"{spec.wnid}_{index:06d}",
            prompt=self.prompts.prompt(spec, index),
            seed=image_seed(self.seed, spec.wnid, index),
        )


@lru_cache(maxsize=8)
def _running_total(counts: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(accumulate(counts))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeatureSet:
    """Features float32 [N, D] and labels int64 [N]."""

    features: "np.ndarray"
    labels: "np.ndarray"
