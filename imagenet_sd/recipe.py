"""Recipe: a YAML file as a typed configuration. An unknown key or a wrong type is an error that names its path."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.training.config import RECIPES, TrainConfig, get_recipe, resolved

T = TypeVar("T")


class RecipeError(ImagenetSDError):
    """A recipe holds an unknown key or a value of a wrong type; the message names the key's path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A run from classes to a dataset.

    Attributes:
        out: folder of the dataset; "" names it after the recipe.
        generate: what to generate.
    """

    out: str = ""
    generate: GenerationConfig = field(default_factory=GenerationConfig)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML file.

    Raises:
        RecipeError: the file is missing or no YAML, a key is unknown, a value has the wrong type.
    """
    return from_mapping(Recipe, _read_yaml(path), str(path))


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"no recipe {path}", "give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content or {}, dict):
        raise RecipeError(f"{path} is {content!r}, not a mapping of keys to values", "write `key: value` lines")
    return content or {}


def load_train_config(name: str, settings: Sequence[str] = ()) -> TrainConfig:
    """A training recipe by name or from a YAML file, with `a.b=c` settings over it.

    Args:
        name: a named recipe, or the path of a YAML file: settings over the recipe that its key `base` names.
        settings: such as "optimizer.epochs=3"; the value is read as YAML.

    Raises:
        RecipeError: an unknown key or a value of a wrong type, named by its path.
    """
    if name in RECIPES or not name.endswith((".yaml", ".yml")):
        mapping = resolved(get_recipe(name))
    else:
        content = _read_yaml(Path(name))
        mapping = resolved(get_recipe(str(content.pop("base", "imagenet-sd"))))
        _merge(mapping, content, name)
    for setting in settings:
        _apply(mapping, setting)
    return from_mapping(TrainConfig, mapping)


def _apply(mapping: dict[str, Any], setting: str) -> None:
    import yaml

    path, equals, text = setting.partition("=")
    if not equals:
        raise RecipeError(f"--set {setting!r} has no '='", "write --set a.b=value")
    keys = path.strip().split(".")
    for key in reversed(keys[1:]):
        text = {key: yaml.safe_load(text) if isinstance(text, str) else text}
    _merge(mapping, {keys[0]: yaml.safe_load(text) if isinstance(text, str) else text}, "--set")


def _merge(mapping: dict[str, Any], changes: Mapping[str, Any], path: str) -> None:
    for key, value in changes.items():
        if key not in mapping:
            raise RecipeError(f"{_join(path, str(key))} is no known key", f"the keys are {', '.join(mapping)}")
        if isinstance(mapping[key], dict) and isinstance(value, Mapping):
            _merge(mapping[key], value, _join(path, str(key)))
        else:
            mapping[key] = value


def to_mapping(config: Any) -> dict[str, Any]:
    """A configuration as plain nested dictionaries, ready for YAML."""
    return dataclasses.asdict(config)


def from_mapping(kind: type[T], content: object, path: str = "") -> T:
    """Build a dataclass from nested mappings, strictly.

    Args:
        kind: a dataclass.
        content: its fields; absent ones take their defaults.
        path: where this is, for messages.

    Raises:
        RecipeError: see `load_recipe`.
    """
    if not isinstance(content, Mapping):
        raise RecipeError(f"{path} is {content!r}, not a mapping of keys to values", "indent its keys below it")
    hints = typing.get_type_hints(kind)
    unknown = [str(key) for key in content if key not in hints]
    if unknown:
        raise RecipeError(f"{_join(path, unknown[0])} is no known key", f"the keys are {', '.join(hints)}")
    values = {key: _convert(hints[key], value, _join(path, str(key))) for key, value in content.items()}
    return kind(**values)


def _join(path: str, key: str) -> str:
    return f"{path}: {key}" if path.endswith((".yaml", ".yml")) else f"{path}.{key}" if path else key


def _convert(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_mapping(hint, value, path)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise RecipeError(f"{path} is {value!r}", f"one of {', '.join(map(repr, arguments))}")
        return value
    if origin in (UnionType, typing.Union):
        if value is None and NoneType in arguments:
            return None
        return _convert(next(a for a in arguments if a is not NoneType), value, path)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise RecipeError(f"{path} has {len(value)} values", f"give {len(kinds)}")
        return tuple(_convert(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            pass
    if not isinstance(hint, type) or not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        name = getattr(hint, "__name__", str(hint))
        raise RecipeError(f"{path} is {value!r}", f"give a value of type {name}")
    return value
