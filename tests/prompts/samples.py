"""Tokenizers and model folders for the tests, in the published layouts, with vocabularies of a few words."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from imagenet_sd.prompts.tokens import clip_tokenizer

WORDS = ("dog", "cat", "bird", "on", "a", "lawn")


def save_t5(folder: Path) -> Path:
    """As T5's: SentencePiece unigrams, `</s>` behind; padding and truncation on, as some published files have them."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *[(f"▁{word}", -2.0) for word in WORDS], ("▁", -3.0)]
    pieces += [(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyz,"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5)
    return _save(tokenizer, folder)


def save_gemma(folder: Path) -> Path:
    """As Gemma's: `<bos>` before, nothing behind."""
    vocabulary = {token: number for number, token in enumerate(("<bos>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    tokenizer.add_special_tokens(["<bos>", "<unk>"])
    return _save(tokenizer, folder)


def save_clip(folder: Path) -> Path:
    """CLIP's, as Stable Diffusion publishes it: `vocab.json` and `merges.txt`."""
    folder.mkdir(parents=True)
    clip_tokenizer().model.save(str(folder))
    return folder


def save_flux(folder: Path, *, guidance: bool) -> Path:
    """The small files of a FLUX.1 folder: dev with guidance, schnell without."""
    index = {
        "_class_name": "FluxPipeline",
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
    }
    files = {
        "model_index.json": index,
        "transformer/config.json": {"guidance_embeds": guidance},
        "scheduler/scheduler_config.json": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    }
    save_clip(folder / "tokenizer")
    save_t5(folder / "tokenizer_2")
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def _save(tokenizer: Tokenizer, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
