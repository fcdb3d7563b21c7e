"""Tokenizers of models: counts against those of transformers on the same folders, and what is said of long ends."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from imagenet_sd.core.errors import ModelError
from imagenet_sd.core.types import ClassSpec, Prompt, PromptTemplate
from imagenet_sd.generation.models import EMBEDDED_FOLDER
from imagenet_sd.prompts import tokens
from imagenet_sd.prompts.build import build_prompts
from imagenet_sd.prompts.classes import load_classes
from imagenet_sd.prompts.lint import lint, lint_prompt
from imagenet_sd.prompts.templates import load_templates
from imagenet_sd.prompts.tokens import CLIP, PromptTokenizer, folder_tokenizer, largest
from tests.prompts.samples import WORDS, save_clip, save_gemma, save_t5

TEXTS = ["", "a dog", "a  bird,\ton a lawn", "Ünknown ½ wörds 日本", "it's a dog </s> on a lawn", "a cat " * 40]


def message(text: str, *tokenizers: PromptTokenizer) -> str:
    """The one warning about a text; "" for none."""
    prompt = Prompt(prompt_id="x", wnid="x", class_index=0, template="c", background="", text=text)
    warnings = lint_prompt(prompt, tokenizers)
    assert len(warnings) <= 1 and {warning.code for warning in warnings} <= {"too-long"}
    return warnings[0].message if warnings else ""


@pytest.fixture
def t5(tmp_path: Path) -> PromptTokenizer:
    return folder_tokenizer(save_t5(tmp_path / "t5"), "T5", 256)


@pytest.mark.parametrize(("save", "markers"), [(save_t5, ["</s>"]), (save_gemma, ["<bos>"])], ids=["t5", "gemma"])
def test_counts_and_lost_words_equal_those_of_transformers(
    tmp_path: Path, save: Callable[[Path], Path], markers: list[str]
):
    from transformers import PreTrainedTokenizerFast

    stock = PreTrainedTokenizerFast(tokenizer_file=str(save(tmp_path / "tokenizer") / "tokenizer.json"))
    ours = folder_tokenizer(tmp_path / "tokenizer", "T", 12)
    assert stock.convert_ids_to_tokens(stock("").input_ids) == markers
    for text in TEXTS:
        assert ours.count(text) == len(stock(text, padding=False, truncation=False).input_ids), text
    text = " ".join(WORDS * 3)
    read = stock(text, padding=False, truncation=True, max_length=12).input_ids
    assert len(read) == 12 and ours.lost(text) == " ".join((WORDS * 3)[12 - len(markers) :])
    assert str(stock.decode(read, skip_special_tokens=True)).replace("▁", " ").split() + ours.lost(text).split() == [
        *(WORDS * 3)
    ]


@pytest.mark.parametrize("layout", ["tokenizer.json", "vocab.json and merges.txt"])
def test_counts_of_clip_folders_equal_those_of_transformers(tmp_path: Path, layout: str):
    from transformers import CLIPTokenizer

    folder = EMBEDDED_FOLDER / "tokenizer" if layout == "tokenizer.json" else save_clip(tmp_path / "clip")
    stock, ours = CLIPTokenizer.from_pretrained(folder), folder_tokenizer(folder, "CLIP", 77)
    assert not ours.approximate
    templates = load_templates()
    prompts = [
        p.text for key in ("c_dc", "on_colour") for p in build_prompts(load_classes("photos-10"), templates[key])
    ]
    for text in [*prompts, *TEXTS[:4], TEXTS[-1]]:
        assert ours.count(text) == len(stock(text).input_ids), text


def test_a_limit_counts_the_markers(t5: PromptTokenizer):
    for tokenizer, most in ((t5, 255), (CLIP, 75)):
        for words, lost in ((most, ""), (most + 1, "dog"), (most + 3, "dog dog dog")):
            text = " ".join(["dog"] * words)
            assert tokenizer.count(text) == words + tokenizer.limit - most
            assert tokenizer.lost(text) == lost
            expected = f"{tokenizer.count(text)} tokens, the text encoder reads {tokenizer.limit}; lost: {lost!r}"
            assert message(text, tokenizer) == (expected if lost else "")


def test_what_t5_reads_is_no_warning_beside_a_clip_that_cuts(t5: PromptTokenizer):
    text = " ".join(["dog"] * 76)
    assert CLIP.count(text) == 78 and message(text, CLIP) and not message(text, CLIP, CLIP, t5)
    longest = " ".join(["dog"] * 255)
    assert not message(longest, CLIP, CLIP, t5)
    assert message(f"{longest} bird cat", t5, CLIP, CLIP) == message(f"{longest} bird cat", CLIP, CLIP, t5)
    assert message(f"{longest} bird cat", CLIP, CLIP, t5) == (
        "T5 reads 256 of 258 tokens, CLIP reads 77 of 259 tokens; no text encoder reads the end: 'bird cat'"
    )


def test_an_end_that_one_of_several_text_encoders_reads(t5: PromptTokenizer):
    """Words that T5's vocabulary lacks are letters to it, and one token each to CLIP."""
    text = " ".join(["house"] * 70)
    assert message(text, CLIP, t5) == f"T5 reads 256 of 421 tokens; CLIP alone reads the end: {t5.lost(text)!r}"
    assert text.endswith(t5.lost(text)) and t5.lost(text).count("house") == (421 - 256) // 6


def test_two_text_encoders_of_one_kind_are_one_warning():
    text = " ".join(["dog"] * 76)
    assert message(text, CLIP, CLIP) == "78 tokens, each text encoder reads 77; lost: 'dog'"


def test_no_limits_known_is_no_warning_and_the_default_is_stable_diffusion():
    spec = ClassSpec(wnid="x", class_index=0, lemmas=("dog " * 75 + "bird",))
    template = PromptTemplate(key="t", text="{name}")
    assert lint([spec], template, ()) == [w for w in lint([spec], template) if w.code != "too-long"]
    assert lint([spec], template) == lint([spec], template, [CLIP]) != lint([spec], template, ())
    assert largest(()).approximate and largest(()).count("a dog") == CLIP.count("a dog")


@pytest.mark.parametrize("files", [None, ("spiece.model",)], ids=["not here", "spiece.model alone"])
def test_without_a_tokenizer_clip_counts_about(tmp_path: Path, files: tuple[str, ...] | None):
    for name in files or ():
        (tmp_path / name).write_bytes(b"\n\x00")
    tokenizer = folder_tokenizer(tmp_path if files else None, "T5", 120)
    assert tokenizer == replace(CLIP, name="T5", limit=120, approximate=True)
    text = " ".join(["dog"] * 119)
    assert message(text, tokenizer) == ("about 121 tokens by CLIP's count, the text encoder reads 120; lost: 'dog'")
    assert message(text, tokenizer, CLIP).startswith(
        "T5 reads 120 of about 121 tokens by CLIP's count, CLIP reads 77 of 121 tokens; no text encoder"
    )


BROKEN = {
    "truncated": lambda text: text[: len(text) // 2],
    "no JSON": lambda text: "\x00\x01",
    "empty": lambda text: "",
    "no model": lambda text: "{}",
    "deep": lambda text: "[" * 100_000,
    "a panic of the library": lambda text: text.replace(
        '"normalizer": {\n    "type": "NFKC"', '"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"'
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_tokenizer_is_one_line(tmp_path: Path, name: str):
    path = save_t5(tmp_path / "t5") / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(BROKEN[name](text), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != text
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read as a tokenizer: ") as caught:
        folder_tokenizer(path.parent, "T5", 256)
    assert "\n" not in str(caught.value) and caught.value.hint


@pytest.mark.parametrize("old", ["▁dog", "a"])
def test_a_token_of_many_characters_is_refused(tmp_path: Path, old: str):
    """Such a tree of tokens crashes the process when it is freed."""
    path = save_t5(tmp_path / "t5") / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f'"{old}"', f'"{"x" * 140_000}"'), encoding="utf-8")
    with pytest.raises(ModelError, match="has a token of 140,000 characters"):
        folder_tokenizer(path.parent, "T5", 256)


def test_a_tokenizer_that_fails_on_a_text_is_one_line(tmp_path: Path):
    Tokenizer(models.WordLevel({"dog": 0}, unk_token="<missing>")).save(str(tmp_path / "tokenizer.json"))
    tokenizer = folder_tokenizer(tmp_path, "T5", 256)
    assert tokenizer.count("dog") == 1
    with pytest.raises(ModelError, match="the tokenizer T5 fails on 'cat': "):
        tokenizer.count("cat")


def test_a_large_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save_t5(tmp_path / "t5") / "tokenizer.json"
    monkeypatch.setattr(tokens, "_MAX_BYTES", path.stat().st_size)
    folder_tokenizer(path.parent, "T5", 256)
    with path.open("a") as file:
        file.write(" ")
    with pytest.raises(ModelError, match="bytes, and no tokenizer has over"):
        folder_tokenizer(path.parent, "T5", 256)
