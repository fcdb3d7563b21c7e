"""Mappings as typed configurations: strict, and every error names its key."""

from dataclasses import dataclass
from typing import Literal

import pytest

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.typed import SettingsError, from_mapping, located, merge, read_setting, to_mapping


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
