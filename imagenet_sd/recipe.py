"""Recipe: a YAML file as a typed configuration. An unknown key or a wrong type is an error that names its path."""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.generation.config import GenerationConfig

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
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"no recipe {path}", "give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    return from_mapping(Recipe, content or {}, str(path))


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
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(hint, type) or not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        name = getattr(hint, "__name__", str(hint))
        raise RecipeError(f"{path} is {value!r}", f"give a value of type {name}")
    return value
