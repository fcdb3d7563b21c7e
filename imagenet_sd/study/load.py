"""Reading studies: the file, the `a.b=c` settings over it, the `${name}` paths inside it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagenet_sd.core.typed import SettingsError, from_mapping, read_setting, read_yaml
from imagenet_sd.study.grid import assign
from imagenet_sd.study.schema import Study

_REFERENCE = re.compile(r"\$\{([^}]*)\}")


def load_study(path: Path, settings: Sequence[str] = ()) -> Study:
    """Read a study from a YAML file.

    Args:
        path: the file.
        settings: such as "generate.guidance_scale=2"; the value is read as YAML and takes the place of the file's. A
            number picks an entry of a list ("evaluate.0.trials=5"), without one all entries are set; "grid=[]" leaves
            the base alone.

    Raises:
        SettingsError: the file is missing or no YAML, a key is unknown, a value has the wrong type or is out of range.
    """
    mapping = read_yaml(path)
    for name in ("evaluate", "grid"):
        if isinstance(mapping.get(name), dict):
            mapping[name] = [mapping[name]]
        if mapping.get(name) is None:
            mapping.pop(name, None)
    for setting in settings:
        keys, value = read_setting(setting)
        assign(mapping, _grid_keys(keys), value, f"--set {'.'.join(keys)}")
    if not mapping.get("name"):
        mapping["name"] = path.stem
    names = mapping.get("paths") or {}
    if isinstance(names, dict):
        mapping = {key: value if key == "paths" else _filled(value, names, f"{path}: {key}")
                   for key, value in mapping.items()}  # fmt: skip
    return from_mapping(Study, mapping, str(path))


def _grid_keys(keys: list[str]) -> list[str]:
    """Axes are dotted keys themselves: what follows `grid`, a number and `star` is one key."""
    if keys[0] != "grid":
        return keys
    head = next((i for i, key in enumerate(keys[1:], 1) if not (key.isdigit() or key == "star")), len(keys))
    return [*keys[:head], ".".join(keys[head:])] if head < len(keys) else keys


def _filled(value: Any, names: dict[str, Any], where: str) -> Any:
    """`${name}` replaced by the path of that name, in every text below `value`."""
    if isinstance(value, dict):
        return {key: _filled(item, names, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, names, f"{where}[{i}]") for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replaced(reference: re.Match[str]) -> str:
        if reference[1] not in names:
            raise SettingsError(
                f"{where}: {reference[0]} names no path", f"`paths` has {', '.join(names) or 'no entries'}"
            )
        return str(names[reference[1]])

    return _REFERENCE.sub(replaced, value)
