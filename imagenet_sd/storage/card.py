"""The dataset card: README.md with the YAML header that `load_dataset` and the Hub's viewer read."""

import json
import re
import string
from typing import Any

import yaml

MAX_CLASSES = 2000  # a longer table would make the page unreadable; dataset.json holds all
_EXAMPLES = 5
_LICENSES = {
    "embedded": "apache-2.0",
    "CompVis/stable-diffusion-v1-4": "creativeml-openrail-m",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-2-1": "openrail++",
    "stabilityai/stable-diffusion-2-1-base": "openrail++",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
}
_MODEL_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

_CITATION = r"""```bibtex
@inproceedings{sariyildiz2023fake,
  title     = {Fake it till you make it: Learning transferable representations from synthetic {ImageNet} clones},
  author    = {Sar{\i}y{\i}ld{\i}z, Mert B{\"u}lent and Alahari, Karteek and Larlus, Diane and Kalantidis, Yannis},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2023}
}
```

Please cite the generator and WordNet (Miller, 1995) too."""

_LIMITS = """\
The authors of the method looked closely at such datasets, drawn by Stable Diffusion 1.4 for the 100 classes of
ImageNet-100 (M. B. Sariyildiz's thesis, section 5.6 and appendix E). Expect the same here:

- **The label is what was asked for, not what was seen.** Nobody has checked every image. Class names have several
  senses: with the name alone as the prompt, "papillon" (a dog) gave butterflies, and "wing" was wrong as well; "green
  mamba" (a snake) was partly a car, "walking stick" (an insect) partly a cane, and "iron" partly wrong. A hypernym or a
  definition in the prompt mends many such classes and spoils a few: "shih-tzu, toy dog" gave toys, and "boathouse,
  shed" gave sheds on dry land.
- **Backgrounds can crowd out the object.** Where the prompt names a scene, some images show the scene alone, at times
  with only a shape or a colour of the object left in it.
- **Images of a class look alike**, the more so the higher the guidance scale. A lower scale and scenes in the prompt
  make them more varied, and semantic errors more frequent.
- **Not all images are photo-like.** A noticeable part are illustrations, renderings or paintings.
- **Biodiversity is misrepresented.** Species of animals and fungi are often drawn as a generic relative: fiddler crabs
  without the one large claw, rock crabs of many shapes and colours. Dog breeds fared better. Do not learn or teach
  species from these images. (Real ImageNet is no gold standard either: 12% of its wild-animal images are mislabelled,
  for some classes over 90%; Luccioni and Rolnick, 2022.)
- **Bias.** The generator learned from LAION-2B, scraped from the web and filtered by a machine, which is known to hold
  problematic content (Birhane et al., 2021). Who and what is shown, where and how follows that data; stereotypes are
  kept and can be amplified (Bianchi et al., 2022), and the class list brings ImageNet's own bias along (Denton et al.,
  2021).
- **Memorisation.** Such generators can reproduce images that they were trained on (Carlini et al., 2023; Somepalli et
  al., 2022). An image here can resemble a real photograph, its subject or its author's work.
"""

_NSFW = """\
- **Unsafe images.** Without a filter, two harmless classes of the 100 gave some nudity: "sarong" (more so with its
  definition in the prompt) and "ski mask" (with certain scenes). """

_EMBEDDED = """\
- **This generator is a small one for demonstrations.** It ships with `imagenet-sd`, draws 32x32 digits and has learned
  from 4,000 real handwritten digits of MNIST, so numbers obtained with these images are not zero-shot. The points above
  on web data, nature and people speak of large generators.
"""


def dataset_card(document: dict[str, Any]) -> str:
    """The card of a dataset.

    Args:
        document: the content of `dataset.json`; recipe settings that are not known here are listed as they are.

    Returns:
        Markdown after a YAML header; whatever text comes from the user is escaped in both.
    """
    recipe, classes = document["recipe"], document["classes"]
    images = sum(entry["count"] for entry in classes) * document["rounds"]
    settings = "\n".join(f"| `{_code(key)}` | {_cell(value)} |" for key, value in recipe.items())
    return f"""---
{_header(recipe, images)}---

# A synthetic image dataset

{images:,} images of {len(classes)} classes, drawn by a text-to-image diffusion model from WordNet prompts with
`imagenet-sd` after "Fake it till you make it: Learning transferable representations from synthetic ImageNet clones"
(Sariyildiz, Alahari, Larlus and Kalantidis, CVPR 2023). No photograph is among them.

```python
from datasets import load_dataset

dataset = load_dataset("NAMESPACE/NAME", split="train")  # or the folder that this file lies in
```

Every row has the image, its label and class id, and what made it: prompt, scene, seed, guidance scale, steps, model.

## Recipe

| setting | value |
|---|---|
{settings}

Fingerprint `{_code(document["fingerprint"])}`, {document["rounds"]} round(s), made with {_cell(document["made_with"])}.
The seed of an image is a hash of (dataset seed, class id, index), so variants of this dataset made with the same seed
start from the same noise image by image.

## Example prompts

| class | prompt |
|---|---|
{_examples(recipe, classes)}

## Known limits

{_limits(recipe)}
Use it for research on representation learning and on synthetic data. It is not fit for decisions about people, for
identifying species, or as evidence of how anything looks.

## Licence

{_license_text(recipe)}

## Citation

{_CITATION}

## Classes (count per round)

| label | id | names | images |
|---|---|---|---|
{_class_table(classes)}
"""


def _header(recipe: dict[str, Any], images: int) -> str:
    """The YAML that the Hub reads. It names no features and no counts.

    The features are in the Parquet files; and counts would make `load_dataset` refuse a dataset that is still growing.
    """
    license_ = _LICENSES.get(recipe["model_id"], "other")
    header: dict[str, Any] = {"license": license_}
    if license_ == "other":
        header["license_name"] = "see-the-generator"
        if _MODEL_ID.fullmatch(recipe["model_id"]):
            header["license_link"] = f"https://huggingface.co/{recipe['model_id']}"
    name = f"{recipe['class_list']}, synthetic ({recipe['prompt']}, guidance scale {recipe['guidance_scale']:g})"
    header |= {
        "pretty_name": _line(name),
        "task_categories": ["image-classification"],
        "annotations_creators": ["machine-generated"],
        "tags": ["synthetic", "imagenet-sd", "text-to-image", "wordnet"],
        "size_categories": [_size_category(images)],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/round-*/train-*.parquet"}]}
        ],
    }
    return yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=1000)


def _limits(recipe: dict[str, Any]) -> str:
    checked = recipe.get("nsfw_checker") is not None
    verdict = (
        "The column `nsfw` holds the\n  verdict of the generator's own safety checker, which errs both ways; nothing "
        "was removed.\n"
        if checked
        else "No filter was used here\n  and nothing was removed.\n"
    )
    return _LIMITS + _NSFW + verdict + (_EMBEDDED if recipe["model_id"] == "embedded" else "")


def _license_text(recipe: dict[str, Any]) -> str:
    license_ = _LICENSES.get(recipe["model_id"], "other")
    if license_ == "other":
        return f"The terms of the generator ({_cell(recipe['model_id'])}) apply to its images; look them up before use."
    if recipe["model_id"] == "embedded":
        return "`apache-2.0`, that of the generator shipped with `imagenet-sd`."
    return f"`{license_}`, that of the generator, with its restrictions on use."


def _examples(recipe: dict[str, Any], classes: list[dict[str, Any]]) -> str:
    """Prompts of classes spread over the list; a scene stands for the one that each image has of its own."""
    step = max(1, len(classes) // _EXAMPLES)
    chosen = classes[::step][:_EXAMPLES]
    return "\n".join(f"| {_cell(entry['wnid'])} | {_cell(_prompt(recipe['template'], entry))} |" for entry in chosen)


def _prompt(template: str, entry: dict[str, Any]) -> str:
    values = {
        "name": ", ".join(entry["lemmas"]),
        "hypernym": ", ".join(entry["hypernyms"]),
        "definition": entry["definition"],
        "background": "(a scene)",
    }
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError:
        return template
    text = "".join(literal + values.get(field or "", "") for literal, field, _, _ in pieces)
    return re.sub(r"^[\s,]+|[\s,]+$", "", re.sub(r",?\s{2,}", " ", text))


def _class_table(classes: list[dict[str, Any]]) -> str:
    rows = [
        f"| {int(entry['class_index'])} | `{_code(entry['wnid'])}` | {_cell(', '.join(entry['lemmas']))} "
        f"| {int(entry['count'])} |"
        for entry in classes[:MAX_CLASSES]
    ]
    if len(classes) > MAX_CLASSES:
        rows.append(f"| ... | | and {len(classes) - MAX_CLASSES:,} more, listed in `dataset.json` | |")
    return "\n".join(rows)


def _cell(value: object) -> str:
    """A value as text in a table: no markup, no link, no second line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = _line(text).replace("&", "&amp;")
    text = re.sub(r"([\\`*_\[\]|$~!@])", r"\\\1", text)
    text = text.replace("<", "&lt;").replace("://", "\\://").replace("www.", "www\\.")
    return text or "(empty)"


def _line(text: str) -> str:
    """A text in one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _code(value: object) -> str:
    """A short id inside backquotes."""
    return re.sub(r"[^\w.-]", "?", str(value), flags=re.ASCII)


def _size_category(images: int) -> str:
    names = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B"]
    return names[min(len(names) - 1, max(0, len(str(images)) - 3))]
