from collections import Counter
from pathlib import Path

import pytest

from imagenet_sd.core.errors import TemplateError
from imagenet_sd.core.files import data_path
from imagenet_sd.core.types import ClassSpec, PromptTemplate
from imagenet_sd.prompts.build import PromptBuilder, build_prompts
from imagenet_sd.prompts.classes import load_classes
from imagenet_sd.prompts.places import background_of, load_places
from imagenet_sd.prompts.templates import load_templates

PAPILLON = next(spec for spec in load_classes("imagenet-100") if spec.wnid == "n02086910")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("c", "papillon"),
        ("c_hc", "papillon, toy spaniel"),
        (
            "c_dc",
            "papillon, small slender toy spaniel with erect ears and a black-spotted brown to white coat",
        ),
        ("photo", "a photo of a papillon"),
    ],
)
def test_the_papers_prompts(key: str, text: str):
    """The papillon example of ImageNet-SD, section 4.2 and figure 3."""
    assert PromptBuilder(load_templates()[key]).prompt(PAPILLON).text == text


def test_all_lemmas_make_the_name():
    robin = next(spec for spec in load_classes("imagenet-100") if spec.wnid == "n01558993")
    assert PromptBuilder(load_templates()["c"]).prompt(robin).text == "robin, American robin, Turdus migratorius"


def test_every_class_meets_every_scene_equally_often():
    template = load_templates()["c_hc_b"]
    other = load_classes("imagenet-100")[0]
    built = list(build_prompts([PAPILLON, other], template, images_per_class=730, dataset_seed=3))
    for spec in (PAPILLON, other):
        scenes = Counter(prompt.background for prompt in built if prompt.wnid == spec.wnid)
        assert len(scenes) == 365 and set(scenes.values()) == {2}
    first = built[0]
    assert first.text == f"papillon, toy spaniel inside {first.background}"
    assert [p.background for p in built[:365]] != [p.background for p in built[730 : 730 + 365]]
    assert background_of(3, PAPILLON.wnid, 0)[1] == first.background
    assert background_of(4, PAPILLON.wnid, 0) != background_of(3, PAPILLON.wnid, 0) or background_of(
        4, PAPILLON.wnid, 1
    ) != background_of(3, PAPILLON.wnid, 1)


def test_places():
    places = dict(load_places())
    assert len(places) == 365 and len(set(places.values())) == 365
    assert places["/a/arena/hockey"] == "hockey arena"
    assert places["/a/apartment_building/outdoor"] == "apartment building outdoor"
    assert places["/a/archaelogical_excavation"] == "archaeological excavation"
    assert all(phrase == phrase.strip() and "_" not in phrase and "/" not in phrase for phrase in places.values())


def test_places_are_the_published_ones():
    """tensorflow-datasets ships the list; a copy may lie beside the checkout. Checked where there is one."""
    candidates = [data_path("..", "shared", "data", "places365_category_paths.txt")]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        pytest.skip("no published list on this machine")
    assert [place for place, _ in load_places()] == path.read_text().split()


@pytest.mark.parametrize(
    ("key", "text"),
    [("c_hc", "thing"), ("c_dc", "thing"), ("c_hc_b", "thing inside "), ("photo", "a photo of a thing")],
)
def test_a_missing_field_leaves_no_loose_comma(key: str, text: str):
    bare = ClassSpec(wnid="x", class_index=0, lemmas=("thing",))
    rendered = PromptBuilder(load_templates()[key]).prompt(bare).text
    assert rendered.startswith(text) and ", " not in rendered and "  " not in rendered


def test_braces_in_a_definition_are_text():
    spec = ClassSpec(wnid="x", class_index=0, lemmas=("{name}",), definition="{definition.__class__}")
    text = PromptBuilder(PromptTemplate(key="t", text="{name}: {definition} {{literal}}")).prompt(spec).text
    assert text == "{name}: {definition.__class__} {literal}"


@pytest.mark.parametrize("text", ["{nmae}", "{name.__class__}", "{name!r}", "{name:>10}", "{0}", "{}", "{name"])
def test_a_bad_template_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "t.yaml"
    path.write_text(f"mine: '{text}'\n")
    with pytest.raises(TemplateError, match="mine"):
        load_templates(path)


def test_own_templates_come_over_the_shipped_ones(tmp_path: Path):
    path = tmp_path / "t.yaml"
    path.write_text("sketch: a sketch of a {name}, {hypernym}\nphoto: my {name}\n")
    templates = load_templates(path)
    assert PromptBuilder(templates["sketch"]).prompt(PAPILLON).text == "a sketch of a papillon, toy spaniel"
    assert templates["photo"].text == "my {name}"
    assert "c_dc" in templates


def test_a_template_may_bring_its_own_backgrounds(tmp_path: Path):
    path = tmp_path / "t.yaml"
    path.write_text('coloured: {text: "{name}, on a {background} background", backgrounds: [green, light blue, red]}\n')
    prompts = list(build_prompts([PAPILLON], load_templates(path)["coloured"], images_per_class=6, dataset_seed=3))
    seen = [prompt.background for prompt in prompts]
    assert sorted(seen[:3]) == sorted(seen[3:]) == ["green", "light blue", "red"]
    assert all(prompt.text == f"papillon, on a {prompt.background} background" for prompt in prompts)
    assert len({prompt.prompt_id for prompt in prompts}) == 3


@pytest.mark.parametrize(
    "entry",
    [
        "{text: no field, backgrounds: [red]}",
        "{backgrounds: [red]}",
        "{text: '{background}', backgrounds: red}",
        "{text: '{background}', backgrounds: [1]}",
        "{text: a, colour: b}",
    ],
)
def test_bad_backgrounds_are_refused(tmp_path: Path, entry: str):
    path = tmp_path / "t.yaml"
    path.write_text(f"mine: {entry}\n")
    with pytest.raises(TemplateError, match="mine"):
        load_templates(path)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: 1\n", "a: [b\n", "!!python/object:os.system {}\n"])
def test_a_file_that_is_no_mapping_of_texts_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(TemplateError, match=r"t\.yaml"):
        load_templates(path)
