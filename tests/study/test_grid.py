from itertools import product
from pathlib import Path

import pytest
import yaml

from imagenet_sd.core.typed import SettingsError, from_mapping, to_mapping
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.study import Study, TrainSection, expand, load_study


def test_there_and_back():
    study = Study(out="x", generate=GenerationConfig(prompt="c_dc", guidance_scale=2.0))
    assert from_mapping(Study, yaml.safe_load(yaml.safe_dump(to_mapping(study)))) == study


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
    with pytest.raises(SettingsError, match=message):
        load_study(tmp_path / "r.yaml")


def test_whole_numbers_pass_for_floats_and_ranges_are_checked(tmp_path: Path):
    (tmp_path / "r.yaml").write_text("generate:\n  guidance_scale: 2\n")
    assert load_study(tmp_path / "r.yaml").generate.guidance_scale == 2.0
    (tmp_path / "r.yaml").write_text("generate:\n  guidance_scale: 0\n")
    with pytest.raises(ValueError, match="guidance_scale is 0"):
        load_study(tmp_path / "r.yaml")


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "r.yaml").write_text(text)
    return tmp_path / "r.yaml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "generate:\n  guidance_scal: 2\n",
            r"r\.yaml: generate\.guidance_scal is no known key; did you mean guidance_sc",
        ),
        ("generat: {}\n", r"r\.yaml: generat is no known key; did you mean generate\?"),
        ("train:\n  epochs: 3\n", r"r\.yaml: train\.epochs is no known key"),
        ("train:\n  recipe: huge\n", r"r\.yaml: train\.recipe: no training recipe 'huge'"),
        ("train:\n  recipe: gone.yaml\n", r"no file gone\.yaml"),
        ("train:\n  optimizer: {epoch: 3}\n", r"train\.optimizer\.epoch is no known key; did you mean epochs\?"),
        ("train:\n  optimizer: {epochs: many}\n", r"train\.optimizer\.epochs is 'many'"),
        ("train:\n  optimizer: {epochs: 0}\n", r"r\.yaml: train: optimizer\.epochs must be at least 1"),
        ("train:\n  steps: -1\n", r"train: steps and processes must not be negative"),
        ("evaluate:\n  - suite: transfer\n  - suit: cog\n", r"evaluate\[1\]\.suit is no known key; did you mean suite"),
        ("evaluate:\n  suite: transfr\n", r"evaluate\[0\]: suite is 'transfr'"),
        ("evaluate:\n  data: {a: 3}\n", r"evaluate\[0\]\.data\.a is 3"),
        ("evaluate: 3\n", r"evaluate is 3"),
        ("report:\n  page: ../../x.html\n", r"report: page is '\.\./\.\./x\.html'"),
        ("generate:\n  match: ${imagenet}/train\n", r"generate\.match: \$\{imagenet\} names no path"),
        ("a: !!python/object/apply:os.system [ls]\n", r"not readable as YAML"),
    ],
)
def test_more_faults_name_the_path_of_the_key(tmp_path: Path, text: str, message: str):
    with pytest.raises(SettingsError, match=message):
        load_study(written(tmp_path, text))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (
            "- generate.guidance_scal: [1]",
            r"grid\[0\]\.generate\.guidance_scal is no known key; did you mean guidance_s",
        ),
        ("- seed: [0]\n  train.sead: [1]", r"grid\[0\]\.train\.sead is no known key; did you mean seed"),
        ("- seed: [x]", r"grid\[0\]\.generate\.seed is 'x'"),
        ("- generate.guidance_scale: [0.5]", r"grid\[0\]\.generate: guidance_scale is 0\.5"),
        ("- generate.guidance_scale: []", r"grid\[0\]\.generate\.guidance_scale is an empty list"),
        ("- star: [1, 2]", r"grid\[0\]\.star is \[1, 2\], not a mapping"),
        ("- out: [a, b]", r"grid\[0\]\.out cannot be an axis"),
    ],
)
def test_a_fault_of_an_axis_names_the_axis(tmp_path: Path, grid: str, message: str):
    study = load_study(written(tmp_path, f"grid:\n{grid}\n"))
    with pytest.raises(SettingsError, match=message):
        expand(study, "r.yaml")


def test_a_product_holds_every_combination_once(tmp_path: Path):
    text = """
grid:
  - seed: [0, 1]
    generate.prompt: [c, c_dc]
    generate.guidance_scale: [1, 2, 7.5]
  - {seed: [1, 2], generate.prompt: c, generate.guidance_scale: [2]}
"""
    cells = expand(load_study(written(tmp_path, text)))
    found = [(c.study.generate.seed, c.study.generate.prompt, c.study.generate.guidance_scale) for c in cells]
    assert found == [*product([0, 1], ["c", "c_dc"], [1.0, 2.0, 7.5]), (2, "c", 2.0)]
    assert all(c.study.train.config().seed == c.study.generate.seed for c in cells)
    assert all(not c.study.grid for c in cells)


def test_a_star_leaves_the_base_by_one_factor_at_a_time(tmp_path: Path):
    text = """
generate: {prompt: c_dc, guidance_scale: 2}
train: {recipe: small}
grid:
  seed: [3, 4]
  star:
    generate.guidance_scale: [1, 2, 4]
    generate.prompt: [c]
    train.augmentation: pytorch
"""
    cells = expand(load_study(written(tmp_path, text)))
    found = [
        (c.study.train.config().seed, c.study.generate.guidance_scale, c.study.generate.prompt,
         c.study.train.config().augmentation)
        for c in cells
    ]  # fmt: skip
    arms = [(2, "c_dc", "dino"), (1, "c_dc", "dino"), (4, "c_dc", "dino"), (2, "c", "dino"), (2, "c_dc", "pytorch")]
    assert found == [(seed, *arm) for seed in (3, 4) for arm in arms]  # the base stands there once, not twice


def test_a_study_without_a_grid_is_its_one_cell():
    (cell,) = expand(Study(out="x", train=TrainSection(recipe="small", settings={"seed": 5})))
    assert cell.changes == {} and cell.study.train.config().seed == 5 and cell.study.out == "x"


def test_settings_reach_sections_lists_and_axes(tmp_path: Path):
    text = """
paths: {real: /nowhere}
train: {recipe: small, seed: 1}
evaluate:
  - {suite: transfer, data: {a: "imagefolder:${real}"}}
  - {suite: imagenet, data: {b: "imagenet:val@${real}"}}
grid:
  - {generate.prompt: [c, c_dc]}
"""
    path = written(tmp_path, text)
    study = load_study(
        path,
        ["paths.real=/data/x", "train.optimizer.epochs=3", "evaluate.trials=7", "evaluate.1.data.b=builtin:mnist",
         "grid.0.generate.prompt=[c_hc]", "generate.match=", "generate.guidance_scale=2"],
    )  # fmt: skip
    assert study.evaluate[0].data == {"a": "imagefolder:/data/x"} and study.evaluate[1].data == {"b": "builtin:mnist"}
    assert [section.trials for section in study.evaluate] == [7, 7]
    config = study.train.config()
    assert (config.optimizer.epochs, config.optimizer.base_lr, config.seed) == (3, 0.4, 1)
    assert [cell.study.generate.prompt for cell in expand(study)] == ["c_hc"]
    assert study.name == "r" and study.generate.match == ""
    assert load_study(path, ["grid=[]"]).grid == ()
    for setting, message in (
        ("evaluate.5.trials=1", "there is no entry 5"),
        ("train.seed.x=1", "1 has no key 'x'"),
        ("generate", "has no '='"),
        ("generate.prompt=[", "not readable as YAML"),
        ("generate.guidance_scal=1", "did you mean guidance_scale"),
    ):
        with pytest.raises(SettingsError, match=message):
            load_study(path, [setting])


def test_a_full_study_goes_there_and_back(tmp_path: Path):
    text = "train: {recipe: small, steps: 9, crops: {local_crops_number: 2}}\nevaluate: {suite: cog, data: {x: a@b}}\n"
    study = load_study(written(tmp_path, text))
    again = from_mapping(Study, yaml.safe_load(yaml.safe_dump(to_mapping(study))))
    assert again == study and again.train.config().crops.local_crops_number == 2 and again.train.steps == 9
