"""From nested mappings to typed configurations and back; strict, and every error names the path of its key.

pydantic would convert the values, but its messages would have to be rewritten one kind at a time to name the key as the
file spells it and to guess the one that was meant, and it takes `true` for 1; that is more code than this.
"""

import dataclasses
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar

from imagenet_sd.core.errors import ImagenetSDError, one_line

T = TypeVar("T")
YAML_LIMIT = 1 << 18
"""Characters of the longest YAML text that is read."""
_MOST_VALUES, _MOST_DIGITS = 100_000, 400


class SettingsError(ImagenetSDError):
    """A file or option holds an unknown key, a value of a wrong type or a missing file; the message names its path."""


def parse_yaml(text: str) -> Any:
    """The value in a YAML text.

    Raises:
        ValueError: it is no YAML, or larger than a file of settings: over `YAML_LIMIT` characters, over 100,000 values
            with all aliases written out, or an alias inside of what it stands for. The message is one line.
    """
    import yaml

    if len(text) > YAML_LIMIT:
        raise ValueError(f"{len(text):,} characters; up to {YAML_LIMIT:,} are read")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _count_values(node, {}) > _MOST_VALUES:
            raise ValueError(f"more than {_MOST_VALUES:,} values, with its aliases written out")
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # PyYAML raises many kinds for odd tags; each means that the text is not usable
        raise ValueError(one_line(error)) from None


def _count_values(node: Any, known: dict[int, int]) -> int:
    """Number of values in a YAML node with all aliases written out."""
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError("an alias stands inside of what it stands for")
        return known[id(node)]
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(node.value):,} digits")
    known[id(node)] = 0
    parts = node.value if isinstance(node.value, list) else []
    children = [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]
    known[id(node)] = count = 1 + sum(_count_values(child, known) for child in children)
    return count


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; an empty file is an empty mapping.

    Raises:
        SettingsError: there is no such file, or it is no YAML mapping.
    """
    try:
        if (size := path.stat().st_size) > 4 * YAML_LIMIT:
            raise ValueError(f"{size:,} bytes; up to {YAML_LIMIT:,} characters are read")
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"no file {path}", "give the path of a YAML file") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} is not readable as YAML: {one_line(error)}", "write `key: value` lines") from None
    if not isinstance(content or {}, dict):
        shown = repr(content)[:60]
        raise SettingsError(f"{path} is {shown}, not a mapping of keys to values", "write `key: value` lines")
    return content or {}


def read_setting(setting: str) -> tuple[list[str], Any]:
    """Split `a.b=c` into the keys and the value, which is read as YAML; nothing after the sign is an empty text.

    Raises:
        SettingsError: there is no sign, or the value is no YAML.
    """
    path, equals, text = setting.partition("=")
    if not equals or not path.strip():
        raise SettingsError(f"--set {setting!r} has no '='", "write --set a.b=value")
    try:
        return path.strip().split("."), parse_yaml(text) if text.strip() else ""
    except ValueError:
        raise SettingsError(f"--set {path}: {text!r} is not readable as YAML", "put quotes around the value") from None


def merge(mapping: dict[str, Any], changes: Mapping[str, Any], path: str) -> None:
    """Lay `changes` over `mapping`, in place; mappings are merged, all else is replaced.

    Raises:
        SettingsError: a key of `changes` is not in `mapping`.
    """
    for key, value in changes.items():
        if key not in mapping:
            raise unknown_key(join(path, str(key)), str(key), mapping)
        if isinstance(mapping[key], dict) and isinstance(value, Mapping):
            merge(mapping[key], value, join(path, str(key)))
        else:
            mapping[key] = value


def unknown_key(where: str, key: str, known: Iterable[str]) -> SettingsError:
    """The error for a key that is not there, with the one that was meant where that can be guessed."""
    names = list(known)
    close = get_close_matches(key, names, n=1)
    guess = f"; did you mean {close[0]}?" if close else ""
    return SettingsError(f"{where} is no known key{guess}", f"the keys are {', '.join(names)}")


@contextmanager
def located(path: str) -> Iterator[None]:
    """Put the path of a key before the message of an error that does not name one yet.

    Raises:
        SettingsError: in place of any other known error.
    """
    try:
        yield
    except SettingsError:
        raise
    except ImagenetSDError as error:
        if not path:
            raise
        raise SettingsError(f"{path}: {error}", error.hint) from None


def to_mapping(config: Any) -> Any:
    """A configuration as plain nested dictionaries and lists, ready for YAML."""
    if hasattr(config, "to_flat"):
        config = config.to_flat()
    elif dataclasses.is_dataclass(config):
        config = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if isinstance(config, list | tuple):
        return [to_mapping(item) for item in config]
    return {key: to_mapping(item) for key, item in config.items()} if isinstance(config, dict) else config


def from_mapping(kind: type[T], content: object, path: str = "") -> T:
    """Build a dataclass from nested mappings, strictly.

    Args:
        kind: a dataclass; one with a class method `from_flat(content, path)` reads itself.
        content: its fields; absent ones take their defaults.
        path: where this is, for messages.

    Raises:
        SettingsError: an unknown key, a value of a wrong type or, below `path`, out of its range.
    """
    if not isinstance(content, Mapping):
        raise SettingsError(f"{path} is {content!r}, not a mapping of keys to values", "indent its keys below it")
    if hasattr(kind, "from_flat"):
        return kind.from_flat(content, path)  # pyright: ignore[reportAttributeAccessIssue]
    return build(kind, content, path)


def build(kind: type[T], content: Mapping[Any, Any], path: str) -> T:
    """`from_mapping` for a dataclass whose fields are the keys; the metadata of a field may name its older key."""
    hints = typing.get_type_hints(kind)
    known = dataclasses.fields(kind)  # pyright: ignore[reportArgumentType]
    renamed = {f.metadata["formerly"]: f.name for f in known if "formerly" in f.metadata}
    content = {renamed.get(key, key): value for key, value in content.items()}
    unknown = [str(key) for key in content if key not in hints]
    if unknown:
        raise unknown_key(join(path, unknown[0]), unknown[0], hints)
    values = {key: convert(hints[key], value, join(path, str(key))) for key, value in content.items()}
    with located(path):  # a value may be out of its range
        return kind(**values)


def join(path: str, key: str) -> str:
    """The path of a key below another."""
    return f"{path}: {key}" if path.endswith((".yaml", ".yml")) else f"{path}.{key}" if path else key


def convert(hint: Any, value: Any, path: str) -> Any:
    """A plain value as the type that `hint` names.

    Raises:
        SettingsError: it cannot be read as that.
    """
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_mapping(hint, value, path)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise SettingsError(f"{path} is {value!r}", f"one of {', '.join(map(repr, arguments))}")
        return value
    if origin in (UnionType, typing.Union):
        if value is None and NoneType in arguments:
            return None
        return convert(next(a for a in arguments if a is not NoneType), value, path)
    if origin is dict and isinstance(value, Mapping):
        return {
            convert(arguments[0], k, f"{path}: key"): convert(arguments[1], v, join(path, str(k)))
            for k, v in value.items()
        }
    if origin is tuple and isinstance(value, list | tuple):
        return _convert_tuple(arguments, value, path)
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except (ValueError, OverflowError):
            pass
    kind = origin or hint
    if not isinstance(kind, type) or not isinstance(value, kind) or (isinstance(value, bool) and hint is not bool):
        given = getattr(kind, "__name__", str(hint))
        name = {"tuple": "list", "dict": "mapping"}.get(given, given)
        raise SettingsError(f"{path} is {value!r}", f"give a value of type {name}")
    return value


def _convert_tuple(arguments: tuple[Any, ...], value: list[Any] | tuple[Any, ...], path: str) -> tuple[Any, ...]:
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
    if len(kinds) != len(value):
        raise SettingsError(f"{path} has {len(value)} values", f"give {len(kinds)}")
    return tuple(convert(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
