"""CLIP's tokenizer, without a network and without torch: how long a prompt is, and what its end loses.

Stable Diffusion's text encoder reads 77 tokens, start and end markers included; the rest is cut off unseen. The merges
file is the one that the `open-clip-torch` package ships (Radford et al., 2021); `tokenizers` does the work.
"""

import gzip
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from imagenet_sd.core.errors import ImagenetSDError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TOKENS = 77
_NUM_MERGES = 49152 - 256 - 2
_WORD = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def _merges_file() -> Path:
    spec = importlib.util.find_spec("open_clip")  # finds the folder; importing the package would load torch
    if spec is None or not spec.submodule_search_locations:
        raise ImagenetSDError("the package open-clip-torch is missing", "pip install open-clip-torch")
    return Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"


@lru_cache(maxsize=1)
def clip_tokenizer() -> "Tokenizer":
    """CLIP's byte-pair tokenizer: lower-cased, 49,408 tokens, without start and end markers."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    with gzip.open(_merges_file(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : _NUM_MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    alphabet = _byte_alphabet()
    vocabulary = alphabet + [letter + "</w>" for letter in alphabet] + [left + right for left, right in merges]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(vocabulary)},
            merges=merges,
            end_of_word_suffix="</w>",
            unk_token="<|endoftext|>",
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes, in CLIP's order: printable bytes first, then the others."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def num_tokens(text: str) -> int:
    """Number of CLIP tokens of a prompt, the start and end markers included."""
    return len(clip_tokenizer().encode(text).ids) + 2


def lost_words(text: str) -> str:
    """The end of the prompt that the text encoder never sees: "" when all of it fits into 77 tokens."""
    encoding = clip_tokenizer().encode(text)
    kept = MAX_TOKENS - 2
    if len(encoding.ids) <= kept:
        return ""
    return text[encoding.offsets[kept][0] :].strip()
