"""From a study to the cells of its grid: products of axes, and stars that leave the base by one factor at a time."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from imagenet_sd.core.typed import SettingsError, from_mapping, join, to_mapping
from imagenet_sd.study.schema import Study

SEED_KEYS = ("generate.seed", "train.seed")
MAX_CELLS = 10_000
_FIXED = ("name", "out", "paths", "report", "grid")


@dataclass(frozen=True, kw_only=True, slots=True)
class GridCell:
    """One cell of a study.

    Attributes:
        study: the study with the cell's values in place and no grid.
        changes: dotted key -> value: the axes of the cell's grid, at this cell's values.
    """

    study: Study
    changes: dict[str, Any]


def expand(study: Study, path: str = "study") -> list[GridCell]:
    """The cells of a study, in the order of the file, each once; `path` is the file, for messages.

    Raises:
        SettingsError: an axis has an unknown key or a wrong value, or there are more than 10,000 cells.
    """
    base = {key: value for key, value in to_mapping(study).items() if key != "grid"}
    cells: dict[str, GridCell] = {}
    for number, grid in enumerate(study.grid or ({},)):
        where = f"{join(path, 'grid')}[{number}]"
        for changes in _changes(grid, where):
            mapping = copy.deepcopy(base)
            for key, value in changes.items():
                if key.partition(".")[0] in _FIXED:
                    hint = "axes are keys below generate, train and evaluate"
                    raise SettingsError(f"{where}.{key} cannot be an axis", hint)
                for target in SEED_KEYS if key == "seed" else (key,):
                    assign(mapping, target.split("."), value, f"{where}.{target}")
            made = from_mapping(Study, mapping, where)
            cells.setdefault(repr(made), GridCell(study=made, changes=changes))
            if len(cells) > MAX_CELLS:
                raise SettingsError(
                    f"{join(path, 'grid')} has more than {MAX_CELLS:,} cells", "use a star for some axes"
                )
    return list(cells.values())


def _changes(grid: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """The values of every axis for every cell; star axes that stand at the base are absent."""
    axes = [[{key: value} for value in _values(grid[key], join(where, key))] for key in grid if key != "star"]
    star = grid.get("star", {})
    if not isinstance(star, Mapping):
        raise SettingsError(f"{where}.star is {star!r}, not a mapping of keys to lists", "indent its axes below it")
    arms = [{key: value} for key in star for value in _values(star[key], f"{where}.star.{key}")]
    for parts in product(*axes, [{}, *arms]):
        merged: dict[str, Any] = {}
        for part in parts:
            merged |= part
        yield merged


def _values(axis: Any, where: str) -> list[Any]:
    values = axis if isinstance(axis, list | tuple) else [axis]
    if not values:
        raise SettingsError(f"{where} is an empty list", "give the axis a value, or leave it out")
    return list(values)


def assign(node: Any, keys: list[str], value: Any, where: str) -> None:
    """Put a value into nested mappings and lists, in place.

    A number picks an entry of a list; without one the value goes into every entry. Absent mappings are made; what may
    stand where is checked when the mapping is read.

    Raises:
        SettingsError: the path leads through a value that has no keys, or past the end of a list.
    """
    key: Any = keys[0]
    if isinstance(node, list):
        if not key.isdigit():
            for entry in node:
                assign(entry, keys, value, where)
            return
        key = int(key)
        if key >= len(node):
            raise SettingsError(f"{where}: there is no entry {key}", f"the list has {len(node)}, the first is 0")
    elif not isinstance(node, dict):
        raise SettingsError(f"{where}: {node!r} has no key {key!r}", "check the path of the key")
    elif len(keys) > 1:
        node.setdefault(key, {})
    if len(keys) == 1:
        node[key] = value
    else:
        assign(node[key], keys[1:], value, where)
