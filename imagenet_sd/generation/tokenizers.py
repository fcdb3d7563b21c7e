"""Which tokenizers read the prompts of a model, and how much of them. Imports no heavy library."""

import json
import re
from typing import Any

from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import config_folder, model_kind
from imagenet_sd.prompts.tokens import CLIP, PromptTokenizer, folder_tokenizer


def model_tokenizers(config: GenerationConfig, revision: str = "") -> tuple[PromptTokenizer, ...]:
    """The tokenizers of `config.model`, each with the limit of its text encoder; never asks the network.

    Args:
        config: names the model.
        revision: commit of a model of the hub.

    Returns:
        One for each text encoder that the model has; none for a model of the hub whose files are not in the cache, and
        for a kind of pipeline whose limits are not known.

    Raises:
        ModelError: the folder is no pipeline, or a tokenizer is broken.
    """
    folder, kind = config_folder(config, revision), model_kind(config, revision)
    if kind is None:
        return ()
    if folder is None:  # of the default model
        return tuple(folder_tokenizer(None, CLIP.name, limit) for limit in kind.tokenizers.values())
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return tuple(
        folder_tokenizer(folder / part, _name(index, part), limit)
        for part, limit in kind.tokenizers.items()
        if not _left_out(index, part) and not _left_out(index, part.replace("tokenizer", "text_encoder"))
    )


def _name(index: dict[str, Any], part: str) -> str:
    """What kind of tokenizer a part is, after its class: "T5" for `T5TokenizerFast`; otherwise its folder."""
    entry = index.get(part)
    name = re.fullmatch(r"(\w+)Tokenizer(Fast)?", str(entry[-1])) if isinstance(entry, list) and entry else None
    return name[1] if name and name[1] != "PreTrained" else part


def _left_out(index: dict[str, Any], part: str) -> bool:
    """Whether a model was saved without this part, as Stable Diffusion 3 may be without T5."""
    return index.get(part) == [None, None]
