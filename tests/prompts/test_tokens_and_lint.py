import statistics

import pytest

from imagenet_sd.core.types import ClassSpec, Prompt, PromptTemplate
from imagenet_sd.prompts.build import build_prompts
from imagenet_sd.prompts.classes import load_classes
from imagenet_sd.prompts.lint import lint, lint_classes, lint_prompt, lint_same_prompts
from imagenet_sd.prompts.templates import load_templates
from imagenet_sd.prompts.tokens import CLIP, clip_tokenizer

DEFINED = [prompt.text for prompt in build_prompts(load_classes("imagenet-1k"), load_templates()["c_dc"])]


def test_tokens_equal_open_clips_tokenizer():
    """open_clip's own tokenizer is OpenAI's pure-Python code; ours is the Rust library on the same merges."""
    from open_clip.tokenizer import SimpleTokenizer

    reference = SimpleTokenizer()
    odd = ["it's 1,234 tests!! éàü", "a  b\tc", "don't we'll", "日本語 text", "½ cup"]
    for text in DEFINED + odd:
        assert clip_tokenizer().encode(text).ids == reference.encode(text), text


def test_published_counts():
    """On ImageNet-1k "c, d_c" has a median of 21 tokens and a maximum of 65 (the platypus)."""
    counts = [CLIP.count(text) for text in DEFINED]
    assert statistics.median(counts) == 21
    assert max(counts) == 65 and "platypus" in DEFINED[counts.index(65)]


def test_lost_words_are_what_the_encoder_does_not_see():
    words = [f"dog{i % 10}" for i in range(60)]  # two tokens each: "dog" and the digit
    text = " ".join(words)
    assert CLIP.count(text) == 122
    assert CLIP.lost(text) == text[len(" ".join(words[:37]) + " dog") :]
    assert CLIP.lost("a dog") == ""
    prompt = Prompt(prompt_id="x", wnid="x", class_index=0, template="c", background="", text=text)
    (warning,) = lint_prompt(prompt)
    assert warning.code == "too-long" and "122 tokens" in warning.message


def test_shared_names_of_imagenet_1k():
    shared = {w.wnid for w in lint_classes(load_classes("imagenet-1k")) if w.code == "shared-name"}
    crane, maillot, cardigan = {"n02012849", "n03126707"}, {"n03710637", "n03710721"}, {"n02113186", "n02963159"}
    assert shared == crane | maillot | cardigan


@pytest.mark.parametrize("text", ["a photo", "a {hypernym}", "{hypernym} in {background}"])
def test_classes_whose_prompts_coincide_are_named(text: str):
    specs = [
        ClassSpec(wnid=f"n{i}", class_index=i, lemmas=(f"thing {i}",), hypernyms=("rare",) if i == 9 else ("thing",))
        for i in range(10)
    ]
    warnings = lint(specs, PromptTemplate(key="t", text=text))
    (same,) = [warning for warning in warnings if warning.code == "same-prompt"]
    more = 4 if text == "a photo" else 3
    assert same.wnid == "n0" and f"n1, n2, n3, n4, n5 and {more} more have the same prompt: " in same.message
    assert not lint_same_prompts(specs, PromptTemplate(key="t", text="{name}"))


def test_the_cranes_are_the_only_classes_of_imagenet_that_share_a_prompt():
    """With the name alone. Checked by hand: n02012849 is the bird, n03126707 the machine, both named "crane" only."""
    shared = {key: lint_same_prompts(load_classes("imagenet-1k"), t) for key, t in load_templates().items()}
    assert {key for key, warnings in shared.items() if warnings} == {"c", "photo", "on_colour"}
    for warnings in (shared["c"], shared["photo"]):
        assert [(w.wnid, w.message.split()[0]) for w in warnings] == [("n02012849", "n03126707")]


@pytest.mark.parametrize(("key", "codes"), [("c", set()), ("c_hc", {"no-hypernym"}), ("c_dc", {"no-definition"})])
def test_only_fields_in_use_are_missed(key: str, codes: set[str]):
    bare = ClassSpec(wnid="x", class_index=0, lemmas=("thing",))
    assert {warning.code for warning in lint([bare], load_templates()[key])} == codes


def test_unsafe_words_are_whole_words():
    specs = [
        ClassSpec(wnid="a", class_index=0, lemmas=("bikini", "two-piece"), hypernyms=("x",), definition="y"),
        ClassSpec(wnid="b", class_index=1, lemmas=("cockatoo",), hypernyms=("x",), definition="shotgunner"),
    ]
    assert [(w.wnid, w.code) for w in lint_classes(specs)] == [("a", "unsafe-word")]
