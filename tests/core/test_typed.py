"""Mappings as typed configurations: strict, and every error names its key."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.typed import (
    SettingsError,
    from_mapping,
    located,
    merge,
    parse_yaml,
    read_setting,
    read_yaml,
    to_mapping,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    scale: tuple[float, float] = (0.0, 1.0)
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = Inner()
    names: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self):
        if self.limit == 0:
            raise ImagenetSDError("limit is 0", "give 1 or more")


def test_plain_values_become_the_declared_types_and_back():
    config = from_mapping(Outer, {"inner": {"rate": "1e-3", "scale": [0, 1]}, "names": ["x"], "limit": None})
    assert config == Outer(inner=Inner(rate=0.001, scale=(0.0, 1.0)), names=("x",))
    assert to_mapping(config)["inner"] == {"rate": 0.001, "scale": [0.0, 1.0], "kind": "a"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"iner": {}}, r"^s\.yaml: iner is no known key; did you mean inner\?$"),
        ({"inner": {"rat": 1}}, r"^s\.yaml: inner\.rat is no known key; did you mean rate\?$"),
        ({"inner": {"rate": True}}, r"^s\.yaml: inner\.rate is True$"),
        ({"inner": {"scale": [1]}}, r"^s\.yaml: inner\.scale has 1 values$"),
        ({"inner": {"kind": "c"}}, r"^s\.yaml: inner\.kind is 'c'$"),
        ({"names": "x"}, r"^s\.yaml: names is 'x'$"),
        ({"limit": 0}, r"^s\.yaml: limit is 0$"),
    ],
)
def test_an_error_names_the_path_of_its_key(content: dict, message: str):
    with pytest.raises(SettingsError, match=message) as error:
        from_mapping(Outer, content, "s.yaml")
    assert error.value.hint


def test_a_path_is_put_before_a_message_once():
    with pytest.raises(SettingsError, match=r"^outer: inner$"), located("not this"), located("outer"):
        raise ImagenetSDError("inner")


def test_settings_are_read_as_yaml_and_merged():
    mapping = {"inner": {"rate": 0.1}}
    keys, value = read_setting("inner.rate=[1, x]")
    merge(mapping, {keys[0]: {keys[1]: value}}, "--set")
    assert mapping == {"inner": {"rate": [1, "x"]}} and read_setting("a=") == (["a"], "")


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [*a]", "an alias stands inside of what it stands for"),
        ("&a {b: {c: *a}}", "an alias stands inside of what it stands for"),
        (BOMB, "more than 100,000 values, with its aliases written out"),
        ("[" * 100_000, "it is nested too deeply"),
        ("x" * (1 << 18) + "y", "262,145 characters; up to 262,144 are read"),
        ("a: !!bool perhaps", "'perhaps'"),
        ("a: !!timestamp soon", "NoneType"),
        ("a: 2001-13-45", "month must be in 1..12"),
        ("a: " + "9" * 5000, "a number of 5,000 digits"),
        ("a: 0x" + "f" * 5000, "a number of 5,002 digits"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: [1", "expected ',' or ']'"),
    ],
)
def test_yaml_that_is_no_file_of_settings_is_one_line(text: str, said: str, tmp_path: Path):
    with pytest.raises(ValueError, match=re.escape(said)) as plain:
        parse_yaml(text)
    assert "\n" not in str(plain.value)
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"s\.yaml is not readable as YAML: ") as caught:
        read_yaml(tmp_path / "s.yaml")
    assert said in str(caught.value) and caught.value.hint


def test_a_number_that_no_float_holds_is_one_line():
    with pytest.raises(SettingsError, match=r"^rate is 1000"):
        from_mapping(Inner, {"rate": 10**400})


def test_aliases_that_end_are_read():
    assert parse_yaml("a: &a {b: 1}\nc: [*a, *a]\nd: {<<: *a, e: 2}") == {
        "a": {"b": 1}, "c": [{"b": 1}, {"b": 1}], "d": {"b": 1, "e": 2},
    }  # fmt: skip
    assert parse_yaml("") is None and parse_yaml("# nothing") is None


def test_an_alias_of_itself_in_a_study_a_recipe_and_a_run_is_one_line(tmp_path: Path):
    from imagenet_sd.report.collect import collect
    from imagenet_sd.study import load_study
    from imagenet_sd.training.recipes import load_train_config, read_description

    (tmp_path / "recipe.yaml").write_text("train: &a [*a]")
    path = tmp_path / "recipe.yaml"
    for read in (load_study, lambda p: load_train_config(str(p)), lambda p: read_description(p.parent),
                 lambda p: collect([p.parent])):  # fmt: skip
        with pytest.raises(ImagenetSDError, match="an alias stands inside of what it stands for"):
            read(path)
