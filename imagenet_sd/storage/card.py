"""The dataset card: README.md with the YAML header that `load_dataset` and the Hub's viewer read.

Its text is in `card.md.j2`.
"""

import json
import re
from functools import cache
from typing import Any

import yaml

from imagenet_sd.core import layout
from imagenet_sd.core.errors import printable
from imagenet_sd.core.types import ClassSpec, PromptTemplate
from imagenet_sd.prompts.build import PromptBuilder

MAX_CLASSES = 2000  # a longer table would make the page unreadable; dataset.json holds all
_EXAMPLES = 5
_SCENE = "(a scene)"  # stands for the scene that each image has of its own
_LICENSES = {
    "embedded": "apache-2.0",
    "CompVis/stable-diffusion-v1-4": "creativeml-openrail-m",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-2-1": "openrail++",
    "stabilityai/stable-diffusion-2-1-base": "openrail++",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
}
_WNID = re.compile(r"n\d{8}", re.ASCII)
_MODEL_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def dataset_card(document: dict[str, Any]) -> str:
    """The card of a dataset.

    Args:
        document: the content of `dataset.json`; settings that are not known here are listed as they are.

    Returns:
        Markdown after a YAML header; whatever text comes from the user is escaped in both.
    """
    settings, classes = document["settings"], document["classes"]
    images = sum(entry["count"] for entry in classes) * document["rounds"]
    prompts = PromptBuilder(PromptTemplate.recorded(settings))
    spread = classes[:: max(1, len(classes) // _EXAMPLES)][:_EXAMPLES]
    lora = settings.get("lora") or {}
    license_ = "other" if lora else _LICENSES.get(settings["model_id"], "other")  # a LoRA has terms of its own
    return _template().render(
        document=document,
        header=_header(settings, license_, images, _from_wordnet(classes)),
        images=images,
        license=license_,
        lora=lora.get("name", ""),
        lora_weight=lora.get("weight", 1),
        wordnet=_from_wordnet(classes),
        places="{background}" in settings["template"] and not settings.get("backgrounds"),
        checked=settings.get("nsfw_checker") is not None,
        examples=[(entry, prompts.render(ClassSpec.from_json(entry), _SCENE)) for entry in spread],
        max_classes=MAX_CLASSES,
    )


def _from_wordnet(classes: list[dict[str, Any]]) -> bool:
    """Whether the classes are synsets of WordNet; those of a user's own list have ids of another form."""
    return all(_WNID.fullmatch(str(entry["wnid"])) for entry in classes)


@cache
def _template() -> Any:
    import jinja2

    loader = jinja2.PackageLoader("imagenet_sd.storage", ".")
    environment = jinja2.Environment(  # nothing is escaped as HTML: `cell` and `code` escape for Markdown
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"cell": _cell, "code": _code}
    return environment.get_template("card.md.j2")


def _header(settings: dict[str, Any], license_: str, images: int, wordnet: bool) -> str:
    # No features, which the Parquet files name, and no counts: `load_dataset` would refuse a dataset that is growing.
    header: dict[str, Any] = {"license": license_}
    if license_ == "other":
        header["license_name"] = "see-the-generator"
        if _MODEL_ID.fullmatch(settings["model_id"]):
            header["license_link"] = f"https://huggingface.co/{settings['model_id']}"
    name = f"{settings['class_list']}, synthetic ({settings['prompt']}, guidance scale {settings['guidance_scale']:g})"
    header |= {
        "pretty_name": printable(name),
        "task_categories": ["image-classification"],
        "annotations_creators": ["machine-generated"],
        "tags": ["synthetic", "imagenet-sd", "text-to-image", *["wordnet"] * wordnet],
        "size_categories": [_size_category(images)],
        "configs": [{"config_name": "default", "data_files": [{"split": layout.SPLIT, "path": layout.DATA_FILES}]}],
    }
    return yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=1000)


def _cell(value: object) -> str:
    """A value as text in a table: no markup, no link, no second line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = printable(text).replace("&", "&amp;")
    text = re.sub(r"([\\`*_\[\]|$~!@])", r"\\\1", text)
    text = text.replace("<", "&lt;").replace("://", "\\://").replace("www.", "www\\.")
    return text or "(empty)"


def _code(value: object) -> str:
    """A short id inside backquotes."""
    return re.sub(r"[^\w.-]", "?", str(value), flags=re.ASCII)


def _size_category(images: int) -> str:
    names = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B"]
    return names[min(len(names) - 1, max(0, len(str(images)) - 3))]
