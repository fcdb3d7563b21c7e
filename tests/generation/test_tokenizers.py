"""Which tokenizers a model has, and what a dry run and `prompts` say with them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from imagenet_sd.core.errors import ModelError
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import EMBEDDED_FOLDER
from imagenet_sd.generation.tokenizers import model_tokenizers
from imagenet_sd.prompts.tokens import CLIP
from tests.conftest import CliRun
from tests.prompts.samples import save_clip, save_flux, save_gemma, save_t5

SD3 = {
    "_class_name": "StableDiffusion3Pipeline",
    **{f"text_encoder{i}": ["transformers", "CLIPTextModelWithProjection"] for i in ("", "_2")},
    **{f"tokenizer{i}": ["transformers", "CLIPTokenizer"] for i in ("", "_2")},
    "text_encoder_3": ["transformers", "T5EncoderModel"],
    "tokenizer_3": ["transformers", "T5TokenizerFast"],
}


def tokenizers_of(model: object) -> list[tuple[str, int, bool]]:
    """(name, limit, approximate) of each tokenizer of a model."""
    return [(t.name, t.limit, t.approximate) for t in model_tokenizers(GenerationConfig(model=str(model)))]


def write_index(folder: Path, **index: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def class_table(path: Path, *counts: int) -> Path:
    """Classes whose definitions are a number of dogs, and a bird."""
    rows = [f"x{count}\tcat\t{' '.join(['dog'] * count)} bird\ta" for count in counts]
    path.write_text("\n".join(["id\tname\tdefinition\thypernym", *rows]) + "\n")
    return path


def test_the_tokenizers_of_each_kind(tmp_path: Path):
    clip, t5 = ("CLIP", 77, False), ("T5", 256, True)
    sd3 = write_index(tmp_path / "sd3", **SD3)
    assert tokenizers_of(sd3) == [clip, clip, t5]
    save_t5(sd3 / "tokenizer_3")
    assert tokenizers_of(sd3) == [clip, clip, ("T5", 256, False)]
    for part in ("text_encoder_3", "tokenizer_3"):
        assert tokenizers_of(write_index(tmp_path / "small", **SD3 | {part: [None, None]})) == [clip, clip]
    pixart = {"_class_name": "PixArtSigmaPipeline", "tokenizer": ["transformers", "T5Tokenizer"]}
    assert tokenizers_of(write_index(tmp_path / "pixart", **pixart)) == [("T5", 300, True)]
    sana = {"_class_name": "SanaPipeline", "tokenizer": ["transformers", "GemmaTokenizerFast"]}
    save_gemma(write_index(tmp_path / "sana", **sana) / "tokenizer")
    assert tokenizers_of(tmp_path / "sana") == [("Gemma", 300, False)]
    odd = {"_class_name": "StableDiffusionPipeline", "tokenizer": ["transformers", "PreTrainedTokenizerFast"]}
    assert tokenizers_of(write_index(tmp_path / "odd", **odd)) == [("tokenizer", 77, True)]


def test_the_embedded_model_counts_with_its_own_tokenizer():
    from transformers import CLIPTokenizer

    (tokenizer,) = model_tokenizers(GenerationConfig(model="embedded"))
    stock = CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer")
    text = "an unsubstantiated xylophone"
    assert tokenizer.count(text) == len(stock(text).input_ids) != CLIP.count(text)


def test_a_model_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_tokenizers(GenerationConfig()) == (CLIP,)
    assert tokenizers_of("some/model") == []
    with pytest.raises(ModelError, match="model_index"):
        tokenizers_of(tmp_path)


@pytest.mark.parametrize(("guidance", "limit"), [(True, 512), (False, 256)], ids=["dev", "schnell"])
def test_a_dry_run_knows_the_limits_of_flux_without_torch(tmp_path: Path, guidance: bool, limit: int):
    model = save_flux(tmp_path / "model", guidance=guidance)
    classes = class_table(tmp_path / "classes.tsv", 90, limit - 10, limit + 5)
    arguments = [
        "generate",
        "--model",
        model,
        "--classes",
        classes,
        "--prompt",
        "c_dc",
        "--dry-run",
        "--format",
        "json",
    ]
    command = [sys.executable, "-X", "importtime", "-m", "imagenet_sd", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    warnings = [text for text in json.loads(done.stdout)["warnings"] if "too-long" in text]
    (warning,) = warnings
    counts = rf"T5 reads {limit} of \d+ tokens, CLIP reads 77 of {limit + 10} tokens; no text encoder reads the end"
    assert re.fullmatch(rf"x{limit + 5} too-long: {counts}: '.*bird'", warning)
    loaded = set(re.findall(r"\|\s+([\w.]+)$", done.stderr, flags=re.MULTILINE))
    assert "tokenizers" in loaded
    assert not {name for name in loaded if name.split(".")[0] in {"torch", "diffusers", "transformers"}}


def test_prompts_count_for_the_model(tmp_path: Path, cli: CliRun):
    classes = class_table(tmp_path / "classes.tsv", 100)
    arguments = ("prompts", "--classes", classes, "--prompt", "c_dc")
    rows = {}
    for model in (None, save_flux(tmp_path / "flux", guidance=True)):
        done = cli(*arguments, "--format", "json", *(("--model", model) if model else ()))
        (rows[model],) = json.loads(done.stdout)
        assert ("too-long" in done.stderr) == (model is None)
    (default, flux) = (row["num_tokens"] for row in rows.values())
    assert default == CLIP.count(rows[None]["text"]) == 105
    (_, t5) = model_tokenizers(GenerationConfig(model=str(tmp_path / "flux")))
    assert flux == t5.count(rows[None]["text"]) == 105 - 1  # 'cat' and ',' in both; one marker, not two


def test_prompts_say_about_where_the_tokenizer_is_not_here(tmp_path: Path, cli: CliRun):
    classes = class_table(tmp_path / "classes.tsv", 130)
    index = {"_class_name": "PixArtAlphaPipeline", "tokenizer": ["transformers", "T5Tokenizer"]}
    model = write_index(tmp_path / "model", **index)
    done = cli("prompts", "--classes", classes, "--prompt", "c_dc", "--model", model)
    assert done.stdout.startswith("x130  about 135 tokens  cat, dog dog")
    about, warning = (line for line in done.stderr.splitlines() if "no-hypernym" not in line)
    assert about == f"warning: the tokenizer of {model} is not here; the counts are CLIP's"
    assert "too-long: about 135 tokens by CLIP's count, the text encoder reads 120; lost: 'dog dog" in warning


def test_a_broken_tokenizer_ends_prompts_in_two_lines(tmp_path: Path, cli: CliRun):
    model = save_flux(tmp_path / "model", guidance=True)
    (model / "tokenizer_2" / "tokenizer.json").write_text("{")
    done = cli("prompts", "--classes", "digits-10", "--model", model)
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch(r"error: .*tokenizer\.json cannot be read as a tokenizer: .*\nhint: .*\n", done.stderr)


def test_a_kind_whose_limits_are_not_known_is_said(tmp_path: Path, cli: CliRun):
    model = write_index(tmp_path / "model", _class_name="AuraFlowPipeline")
    save_clip(model / "tokenizer")
    assert tokenizers_of(model) == []
    done = cli("generate", "--classes", "digits-10", "--model", model, "--dry-run", "--format", "json")
    warnings = json.loads(done.stdout)["warnings"]
    assert f"how many tokens of a prompt {model} reads is not known" in warnings
    assert not [text for text in warnings if "too-long" in text]
