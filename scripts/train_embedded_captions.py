"""`make embedded`, the words: captions of training pictures, and the tokenizer that knows them."""

import json
import random
from collections import Counter

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from imagenet_sd.core.types import ClassSpec
from imagenet_sd.data.colours import COLOURS, Appearance
from imagenet_sd.prompts.build import PromptBuilder
from imagenet_sd.prompts.classes import load_classes
from imagenet_sd.prompts.places import load_places
from imagenet_sd.prompts.templates import load_templates

START, END = "<|startoftext|>", "<|endoftext|>"
TEMPLATE_SHARES = {"c": 4, "c_hc": 3, "c_dc": 3, "c_hc_b": 1, "photo": 3, "article": 2}
MAX_TOKENS = 77


class Captions:
    """Captions: the project's prompts, single lemmas, and what is measured in the picture.

    Args:
        seed: seeds the choices.
        looks: the appearance of all photographs, to even out how often a colour is named.
        labels: their classes.
    """

    def __init__(self, seed: int, looks: list[Appearance], labels: list[int]):
        self.photos, self.digits = load_classes("photos-10"), load_classes("digits-10")
        self.random = random.Random(seed)
        templates = load_templates()
        self.builders = {key: PromptBuilder(templates[key]) for key in TEMPLATE_SHARES if key in templates}
        counts = Counter((label, look.object) for label, look in zip(labels, looks, strict=True) if look.object)
        most = {label: max(n for (c, _), n in counts.items() if c == label) for label in set(labels)}
        self.colour_share = {
            (label, colour): min(0.8, 0.4 * (most[label] / n) ** 0.5) for (label, colour), n in counts.items()
        }

    def photo(self, label: int, look: Appearance, painted: bool) -> str:
        """One caption for a photograph of class `label`; of a recoloured one the colour is always told."""
        chance = self.random.random
        spec = self._short(self.photos[label], 0.6)
        share = 1.0 if painted else self.colour_share.get((label, look.object), 0)
        if look.object and chance() < share:
            spec = self._named(spec, f"{self._word(look.object)} {', '.join(spec.lemmas)}")
        with_background = bool(look.background) and chance() < 0.4
        text = self._render(spec, plain=with_background or chance() < 0.2)
        if look.light and chance() < 0.4:
            text = f"{look.light} {text.removeprefix('a ')}" if chance() < 0.3 else f"{text}, {look.light}"
        if with_background:
            background = f"{self._word(look.background)} background"
            text += self.random.choice((f", on a {background}", f" on a {background}", f", {background}"))
        return text

    def digit(self, label: int, attributes: str) -> str:
        """One caption for a digit with its measured `attributes` (such as "thin right leaning")."""
        spec = self._short(self.digits[label], 0.35)
        if attributes and self.random.random() < 0.3:
            spec = self._named(spec, f"{attributes} {', '.join(spec.lemmas)}")
        return self._render(spec)

    def _render(self, spec: ClassSpec, plain: bool = False) -> str:
        shares = {"c": 2, "photo": 2, "article": 2} if plain else TEMPLATE_SHARES
        key = self.random.choices(list(shares), list(shares.values()))[0]
        if key == "article":
            name = ", ".join(spec.lemmas)
            return f"an {name}" if name[0] in "aeiou" and self.random.random() < 0.8 else f"a {name}"
        return self.builders[key].prompt(spec, self.random.randrange(365)).text

    def _word(self, colour: str) -> str:
        return "gray" if colour == "grey" and self.random.random() < 0.3 else colour

    def _short(self, spec: ClassSpec, share: float) -> ClassSpec:
        """The class under one of its names for `share` of the calls, mostly the first; else under all of them."""
        if self.random.random() >= share:
            return spec
        first = self.random.random() < 0.5
        return self._named(spec, spec.lemmas[0] if first else self.random.choice(spec.lemmas))

    @staticmethod
    def _named(spec: ClassSpec, name: str) -> ClassSpec:
        return ClassSpec(
            wnid=spec.wnid,
            class_index=spec.class_index,
            lemmas=(name,),
            hypernyms=spec.hypernyms,
            definition=spec.definition,
        )

    def corpus(self) -> list[str]:
        """Every text that the tokenizer must know how to spell well."""
        specs = self.photos + self.digits
        texts = [builder.prompt(spec).text for builder in self.builders.values() for spec in specs] * 4
        colours = [f"a photo of a {colour} thing on a {colour} background, dark" for colour in (*COLOURS, "gray")] * 4
        words = ["bold thin left right leaning bright dark an the in at and with of its"] * 4
        return texts + colours + words + [f"inside {phrase}" for _, phrase in load_places()]


def train_tokenizer(corpus: list[str]) -> CLIPTokenizer:
    """A byte-pair tokenizer of CLIP's kind over the prompts, about 2,500 tokens."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=2300, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False),
    )
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    pieces = alphabet + [letter + "</w>" for letter in alphabet] + [a + b for a, b in merges] + [START, END]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )
