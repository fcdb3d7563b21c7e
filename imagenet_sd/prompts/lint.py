"""Lint: what would make a synthetic dataset worse than its class list promises. Warnings only; nothing is changed."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from imagenet_sd.core.files import data_path
from imagenet_sd.core.types import ClassSpec, Prompt, PromptTemplate
from imagenet_sd.prompts.build import PromptBuilder
from imagenet_sd.prompts.templates import parse_template
from imagenet_sd.prompts.tokens import CLIP, PromptTokenizer, largest

_NAMED = 5  # of the classes that share a prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class LintWarning:
    """One warning: the class, a stable code (e.g. "shared-name"), and one line of text."""

    wnid: str
    code: str
    message: str


def lint_classes(classes: Sequence[ClassSpec]) -> list[LintWarning]:
    """Warnings that do not depend on a template: shared names, nothing to say, words that lead to unsafe images."""
    warnings = []
    wnids_of = defaultdict(list)
    for spec in classes:
        wnids_of[spec.lemmas[0].lower()].append(spec.wnid)
    for spec in classes:
        others = [wnid for wnid in wnids_of[spec.lemmas[0].lower()] if wnid != spec.wnid]
        if others:
            text = f"the name {spec.lemmas[0]!r} is also the name of {', '.join(others)}"
            warnings.append(LintWarning(wnid=spec.wnid, code="shared-name", message=text))
        if not spec.hypernyms:
            warnings.append(LintWarning(wnid=spec.wnid, code="no-hypernym", message="the class has no hypernym"))
        if not spec.definition:
            warnings.append(LintWarning(wnid=spec.wnid, code="no-definition", message="the class has no definition"))
        words = sorted(unsafe_words(" ".join((*spec.lemmas, *spec.hypernyms, spec.definition))))
        if words:
            text = f"known to lead to unsafe images: {', '.join(words)}"
            warnings.append(LintWarning(wnid=spec.wnid, code="unsafe-word", message=text))
    return warnings


def lint_prompt(prompt: Prompt, tokenizers: Sequence[PromptTokenizer] = (CLIP,)) -> list[LintWarning]:
    """Warnings about one prompt: longer than the text encoder with the largest limit reads, with the words lost.

    A prompt that CLIP alone cuts, where T5 reads it in full beside it, is none.

    Args:
        prompt: the prompt.
        tokenizers: those of the model; without any, nothing is known of its limits.
    """
    counts = [(tokenizer, tokenizer.count(prompt.text)) for tokenizer in tokenizers]
    if not counts or largest(tokenizers) not in [tokenizer for tokenizer, count in counts if count > tokenizer.limit]:
        return []
    if len({(tokenizer.name, tokenizer.limit) for tokenizer in tokenizers}) == 1:
        tokenizer, count = counts[0]
        reader = "the text encoder" if len(counts) == 1 else "each text encoder"
        text = f"{_tokens(tokenizer, count)}, {reader} reads {tokenizer.limit}; lost: {tokenizer.lost(prompt.text)!r}"
    else:
        text = _cut_by_several(prompt.text, counts)
    return [LintWarning(wnid=prompt.wnid, code="too-long", message=text)]


def _cut_by_several(text: str, counts: Sequence[tuple[PromptTokenizer, int]]) -> str:
    """Which text encoders cut a prompt, the largest limit first, and what is lost to all of them."""
    counts = sorted(counts, key=lambda pair: -pair[0].limit)
    cut = [(tokenizer, count) for tokenizer, count in counts if count > tokenizer.limit]
    whole = dict.fromkeys(tokenizer.name for tokenizer, count in counts if count <= tokenizer.limit)
    reads = dict.fromkeys(
        f"{tokenizer.name} reads {tokenizer.limit} of {_tokens(tokenizer, count)}" for tokenizer, count in cut
    )
    lost = min((tokenizer.lost(text) for tokenizer, _ in cut), key=len)
    end = f"{' and '.join(whole)} alone reads the end" if whole else "no text encoder reads the end"
    return f"{', '.join(reads)}; {end}: {lost!r}"


def _tokens(tokenizer: PromptTokenizer, count: int) -> str:
    return f"about {count} tokens by CLIP's count" if tokenizer.approximate else f"{count} tokens"


def lint_same_prompts(classes: Sequence[ClassSpec], template: PromptTemplate) -> list[LintWarning]:
    """Classes whose prompts coincide, in the same scene where there is one: one warning for each such text."""
    builder, wnids_of = PromptBuilder(template), defaultdict(list)
    for spec in classes:
        wnids_of[builder.render(spec, "(a scene)")].append(spec.wnid)
    warnings = []
    for text, (first, *others) in wnids_of.items():
        if others:
            more = f" and {len(others) - _NAMED:,} more" if len(others) > _NAMED else ""
            message = f"{', '.join(others[:_NAMED])}{more} have the same prompt: {text!r}"
            warnings.append(LintWarning(wnid=first, code="same-prompt", message=message))
    return warnings


def lint(
    classes: Sequence[ClassSpec], template: PromptTemplate, tokenizers: Sequence[PromptTokenizer] = (CLIP,)
) -> list[LintWarning]:
    """All warnings for a class list under a template; fields the template does not use are not complained about.

    Args:
        classes: the class list.
        template: the template.
        tokenizers: those of the model that will read the prompts, see `lint_prompt`; by default Stable Diffusion's.
    """
    builder = PromptBuilder(template)
    used = {field for _, field in parse_template(template.text)}
    unused = {f"no-{field}" for field in ("hypernym", "definition") if field not in used}
    warnings = [warning for warning in lint_classes(classes) if warning.code not in unused]
    warnings += lint_same_prompts(classes, template)
    for spec in classes:
        warnings += lint_prompt(builder.prompt(spec), tokenizers)
    return warnings


@lru_cache(maxsize=1)
def _unsafe() -> frozenset[str]:
    lines = data_path("prompts", "unsafe_words.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def unsafe_words(text: str) -> set[str]:
    """The words of `text` that are on the shipped list."""
    return set(re.findall(r"[a-z]+", text.lower())) & _unsafe()
