from pathlib import Path

import pytest
import yaml

from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.recipe import Recipe, RecipeError, from_mapping, load_recipe, to_mapping


def test_there_and_back():
    recipe = Recipe(out="x", generate=GenerationConfig(prompt="c_dc", guidance_scale=2.0))
    assert from_mapping(Recipe, yaml.safe_load(yaml.safe_dump(to_mapping(recipe)))) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("generate:\n  promt: c\n", r"r\.yaml: generate\.promt is no known key"),
        ("generate:\n  seed: x\n", r"generate\.seed is 'x'"),
        ("generate:\n  seed: true\n", r"generate\.seed is True"),
        ("generate:\n  dtype: int8\n", r"generate\.dtype is 'int8'"),
        ("generate: 3\n", r"generate is 3, not a mapping"),
        ("a: [\n", r"not readable as YAML"),
    ],
)
def test_faults_name_the_path_of_the_key(tmp_path: Path, text: str, message: str):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "r.yaml")


def test_whole_numbers_pass_for_floats_and_ranges_are_checked(tmp_path: Path):
    (tmp_path / "r.yaml").write_text("generate:\n  guidance_scale: 2\n")
    assert load_recipe(tmp_path / "r.yaml").generate.guidance_scale == 2.0
    (tmp_path / "r.yaml").write_text("generate:\n  guidance_scale: 0\n")
    with pytest.raises(ValueError, match="guidance_scale is 0"):
        load_recipe(tmp_path / "r.yaml")
