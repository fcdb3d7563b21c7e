"""The dataset card: read back by the Hub's own client and by a Markdown parser, with friendly and hostile content."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from imagenet_sd.pipeline import open_dataset
from imagenet_sd.storage.card import MAX_CLASSES, dataset_card

HOSTILE = (
    "<script>alert(1)</script>",
    "pipe | and \\| more",
    "new\nline\r\n\n# heading",
    "![x](http://evil.example/a.png) and [y](javascript:alert(1))",
    "`code` ``` fence",
    "*bold* _emphasis_ ~~gone~~ $x$",
    "see http://evil.example or www.evil.example or someone@evil.example",
    "&lt;b&gt; &amp; &#60;",
    "---\nlicense: stolen\n---",
    "\"quoted\": {yes} 'no' #comment",
    "\x1b[31mred\u202e",
)


class Page(HTMLParser):
    """The text of table cells, and the tags that the page has."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self._in_cell = False
        self.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


@pytest.fixture
def document(small_dataset: Path) -> dict[str, Any]:
    return json.loads((small_dataset / "dataset.json").read_text())


def body(card: str) -> str:
    return card.split("---\n", 2)[2]


def shown(text: str) -> str:
    """What is left of a text in one line of a table."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def test_the_hubs_client_reads_the_header(document: dict[str, Any]):
    data = DatasetCard(dataset_card(document | {"rounds": 600})).data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["task_categories"] == ["image-classification"]
    assert data["size_categories"] == ["10K<n<100K"]
    assert data["pretty_name"] == "digits-10, synthetic (c_dc, guidance scale 2)"
    assert "synthetic" in data["tags"]
    assert data["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/round-*/train-*.parquet"}]}
    ]
    assert "dataset_info" not in data, "counts in the header make a growing dataset unreadable"


@pytest.mark.parametrize(
    ("model", "license_", "name"),
    [
        ("CompVis/stable-diffusion-v1-4", "creativeml-openrail-m", None),
        ("someone/else", "other", "https://huggingface.co/someone/else"),
        ("a: b\n- c #", "other", None),
    ],
)
def test_the_licence_is_the_generators(document: dict[str, Any], model: str, license_: str, name: str | None):
    document["settings"]["model_id"] = model
    data = DatasetCard(dataset_card(document)).data.to_dict()
    assert (data["license"], data.get("license_link")) == (license_, name)
    assert ("license_name" in data) == (license_ == "other")


def test_settings_classes_and_prompts_are_listed(small_dataset: Path, document: dict[str, Any]):
    plan = open_dataset(small_dataset).plan
    document["settings"] |= {"scheduler": "dpm++", "guidance_interval": [0.2, 0.8]}
    card = dataset_card(document)
    rows = Page(body(card)).rows
    for key, value in document["settings"].items():
        text = value if isinstance(value, str) else json.dumps(value)
        assert [key, shown(text) or "(empty)"] in rows
    for spec, count in zip(plan.classes, plan.counts, strict=True):
        assert [str(spec.class_index), spec.wnid, ", ".join(spec.lemmas), str(count)] in rows
    prompts = {spec.wnid: plan.prompts.prompt(spec).text for spec in plan.classes}
    listed = [row for row in rows if len(row) == 2 and row[0] in prompts]
    assert len(listed) >= 5 and all(prompts[wnid] == text for wnid, text in listed)
    assert "20 images of 10 classes" in card and document["fingerprint"] in card
    assert "@inproceedings" in card and "CVPR 2023" in card


def test_example_prompts_name_a_scene(document: dict[str, Any]):
    document["settings"]["template"] = "{name}, {hypernym} inside {background}"
    document["classes"][0] |= {"lemmas": ["papillon"], "hypernyms": ["toy spaniel"]}
    document["classes"][2] |= {"lemmas": ["entity"], "hypernyms": []}
    rows = Page(body(dataset_card(document))).rows
    assert [document["classes"][0]["wnid"], "papillon, toy spaniel inside (a scene)"] in rows
    assert [document["classes"][2]["wnid"], "entity inside (a scene)"] in rows


def test_known_limits_are_told(document: dict[str, Any]):
    card = dataset_card(document)
    for word in ("papillon", "green\n  mamba", "boathouse", "sarong", "ski mask", "fiddler crabs", "12%", "LAION-2B"):
        assert word in card, word
    assert "Carlini et al., 2023" in card and "Bianchi et al., 2022" in card and "not zero-shot" in card
    assert "No filter was used" in card and "`nsfw`" not in card
    document["settings"] |= {"nsfw_checker": {"model_id": "x/y", "revision": "1"}, "model_id": "x/y"}
    checked = dataset_card(document)
    assert "column `nsfw`" in checked and "No filter was used" not in checked and "not zero-shot" not in checked


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(document: dict[str, Any], text: str):
    plain = Page(body(dataset_card(document))).tags
    document["classes"][0] |= {"lemmas": [text], "definition": text}
    document["settings"] |= {"negative_prompt": text, "class_list": text, "model_id": text, "prompt": text}
    card = dataset_card(document)
    data = DatasetCard(card).data.to_dict()
    assert data["license"] == "other" and data["pretty_name"].startswith(shown(text)) and "stolen" not in data.values()
    page = Page(body(card))
    assert page.tags <= plain, page.tags - plain
    for link in ("http://evil", "www.evil", "someone@evil"):  # what the Hub would turn into a link of its own accord
        assert link not in body(card)
    assert ["negative_prompt", shown(text)] in page.rows
    assert ["0", document["classes"][0]["wnid"], shown(text), "2"] in page.rows


def test_a_hostile_key_or_id_is_no_markup(document: dict[str, Any]):
    plain = Page(body(dataset_card(document))).tags
    document["settings"]["`</code><img src=x>|"] = 1
    document["classes"][0]["wnid"] = "`<img src=x>`|x"
    document["fingerprint"] = "`<img src=x>`"
    assert Page(body(dataset_card(document))).tags <= plain


def test_a_long_class_list_is_cut(document: dict[str, Any]):
    first = document["classes"][0]
    document["classes"] = [first | {"class_index": i, "wnid": f"n{i:08d}"} for i in range(21_000)]
    card = dataset_card(document)
    assert f"n{MAX_CLASSES - 1:08d}" in card and f"`n{MAX_CLASSES:08d}`" not in card
    assert "and 19,000 more" in card and "42,000 images of 21000 classes" in card


def test_the_card_speaks_of_wordnet_only_where_the_classes_are_its_synsets(document: dict[str, Any]):
    own = json.loads(json.dumps(document))
    for entry in own["classes"]:
        entry["wnid"] = f"dish-{entry['class_index']}"
    ours, theirs = dataset_card(document), dataset_card(own)
    assert "from WordNet prompts" in ours and "WordNet (Miller, 1995) too" in ours
    assert "wordnet" in DatasetCard(ours).data.to_dict()["tags"]
    assert "wordnet" not in theirs.lower()
    assert "from prompts for a class list of its own" in theirs and "Please cite the generator too." in theirs
    own["settings"]["template"] = "{name} inside {background}"
    assert "Please cite the generator, Places365 (Zhou et al., 2018) too." in dataset_card(own)
