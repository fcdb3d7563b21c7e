"""How many tokens a prompt has for a text encoder, and what its end loses; without a network and without torch.

A text encoder reads a fixed number of tokens, start and end markers included (CLIP, that of Stable Diffusion: 77); the
rest is cut off unseen. CLIP's tokenizer is always at hand: its merges file is the one that the `open-clip-torch`
package ships (Radford et al., 2021). Others are read from a model's folder; `tokenizers` does the work.
"""

import gzip
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from imagenet_sd.core.errors import ImagenetSDError, ModelError, one_line

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_MAX_BYTES = 64 << 20  # of a tokenizer.json; Gemma's, with 256,000 tokens, has 34 MB
_MAX_TOKEN = 2000  # characters
_HINT = "download the model's tokenizer folders again"
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


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTokenizer:
    """How one text encoder of a model takes a prompt apart.

    Attributes:
        name: such as "CLIP" or "T5".
        limit: how many tokens the encoder reads, start and end markers included.
        markers: how many of these are start and end markers.
        tokenizer: returns the tokenizer.
        approximate: whether it is CLIP's in place of the model's own, which is not here.
    """

    name: str
    limit: int
    markers: int
    tokenizer: Callable[[], "Tokenizer"]
    approximate: bool = False

    def count(self, text: str) -> int:
        """Number of tokens of a prompt, the start and end markers included.

        Raises:
            ModelError: the model's tokenizer fails on this text.
        """
        return len(self._encode(text).ids) + self.markers

    def lost(self, text: str) -> str:
        """The end of the prompt that the text encoder never sees: "" when all of it is within the limit.

        Raises:
            ModelError: as `count`.
        """
        encoding = self._encode(text)
        kept = self.limit - self.markers
        return text[encoding.offsets[kept][0] :].strip() if len(encoding.ids) > kept else ""

    def _encode(self, text: str) -> "Encoding":
        with _as_model_error(f"the tokenizer {self.name} fails on {text!r}"):
            return self.tokenizer().encode(text, add_special_tokens=False)


CLIP = PromptTokenizer(name="CLIP", limit=77, markers=2, tokenizer=clip_tokenizer)


def folder_tokenizer(folder: Path | None, name: str, limit: int) -> PromptTokenizer:
    """The tokenizer in a folder of a model, in one of the layouts of `transformers`.

    Without a `tokenizer.json`, "CLIP" is the published one, whose folders hold `vocab.json` and `merges.txt`; in place
    of any other (older T5 folders hold `spiece.model` alone), CLIP's counts approximately.

    Args:
        folder: of one tokenizer; None for a model whose files are not here.
        name: of the kind of tokenizer, see `PromptTokenizer`.
        limit: see `PromptTokenizer`.

    Raises:
        ModelError: `tokenizer.json` is broken, or too large.
    """
    path = folder / "tokenizer.json" if folder is not None else None
    if path is None or not path.is_file():
        return replace(CLIP, name=name, limit=limit, approximate=name != CLIP.name)
    tokenizer = _read_tokenizer(path)
    markers = tokenizer.num_special_tokens_to_add(is_pair=False)
    return PromptTokenizer(name=name, limit=limit, markers=markers, tokenizer=lambda: tokenizer)


def largest(tokenizers: Sequence[PromptTokenizer]) -> PromptTokenizer:
    """The tokenizer of the text encoder that reads most; CLIP's, approximately, where a model's are not known."""
    return max(tokenizers, key=lambda tokenizer: tokenizer.limit, default=replace(CLIP, approximate=True))


def _read_tokenizer(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    if (num_bytes := path.stat().st_size) > _MAX_BYTES:
        raise ModelError(f"{path} has {num_bytes:,} bytes, and no tokenizer has over {_MAX_BYTES:,}", _HINT)
    with _as_model_error(f"{path} cannot be read as a tokenizer"):
        _check_lengths(path)
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return tokenizer


def _check_lengths(path: Path) -> None:
    """Refuse a token of many thousand characters: freeing the tree of a Unigram model then overflows the stack."""
    content = json.loads(path.read_text(encoding="utf-8"))
    model = content.get("model") if isinstance(content, dict) else None
    tokens = model.get("vocab") if isinstance(model, dict) else None
    for entry in tokens if isinstance(tokens, list | dict) else ():  # Unigram: [token, score] each
        token = entry[0] if isinstance(entry, list) and entry else entry
        if isinstance(token, str) and len(token) > _MAX_TOKEN:
            raise ModelError(f"{path} has a token of {len(token):,} characters", _HINT)


@contextmanager
def _as_model_error(message: str) -> Iterator[None]:
    """Whatever `tokenizers` raises as an error of one line; its panics are no `Exception`, and of no public class."""
    try:
        yield
    except BaseException as error:
        known = isinstance(error, ImagenetSDError)
        if known or not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
            raise
        raise ModelError(f"{message}: {one_line(error)}", _HINT) from None
