"""The dataset card: README.md with the YAML header that `load_dataset` and the Hub's viewer read."""

import json
from typing import Any

_LICENSES = {"embedded": "apache-2.0", "CompVis/stable-diffusion-v1-4": "creativeml-openrail-m"}


def dataset_card(document: dict[str, Any]) -> str:
    """The card of a dataset.

    Args:
        document: the content of `dataset.json`.

    Returns:
        Markdown; every text that comes from the user is quoted as JSON or code.
    """
    recipe, classes = document["recipe"], document["classes"]
    images = sum(entry["count"] for entry in classes) * document["rounds"]
    license_ = _LICENSES.get(recipe["model_id"], "other")
    settings = "\n".join(f"| `{key}` | {_cell(value)} |" for key, value in recipe.items())
    listed = "\n".join(
        f"| {entry['class_index']} | `{entry['wnid']}` | {_cell(', '.join(entry['lemmas']))} | {entry['count']} |"
        for entry in classes
    )
    return f"""---
license: {license_}
task_categories:
- image-classification
tags:
- synthetic
- imagenet-sd
size_categories:
- {_size_category(images)}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/round-*/train-*.parquet
---

# A synthetic image dataset

{images:,} images of {len(classes)} classes, drawn by a text-to-image diffusion model from WordNet prompts with
`imagenet-sd` after "Fake it till you make it: Learning transferable representations from synthetic ImageNet clones"
(Sariyildiz, Alahari, Larlus and Kalantidis, CVPR 2023). No photograph is among them.

## Recipe

| setting | value |
|---|---|
{settings}

Fingerprint `{document["fingerprint"]}`, {document["rounds"]} round(s). The seed of an image is a hash of (dataset seed,
class id, index), so variants of this dataset made with the same seed start from the same noise image by image.

## Known limits

- The label of an image is the class it was asked for. The generator may have drawn another sense of the word, several
  objects, or no object at all; nobody has looked at every image.
- The generator's biases are in the images: who and what is shown, where, and in which style follows its training data.
- Images may be unsafe for some audiences even where the class is harmless, and may repeat parts of the generator's
  training images. Species and other fine-grained classes are often drawn wrongly.

## Classes (count per round)

| label | id | names | images |
|---|---|---|---|
{listed}
"""


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
    return text or "(empty)"


def _size_category(images: int) -> str:
    names = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B"]
    return names[min(len(names) - 1, max(0, len(str(images)) - 3))]
