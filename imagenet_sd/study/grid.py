"""From one recipe to its cells: products of axes, and stars that leave the base by one factor at a time."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from imagenet_sd.core.typed import RecipeError, from_mapping, join, to_mapping
from imagenet_sd.study.schema import Recipe

SEED_KEYS = ("generate.seed", "train.seed")
MAX_CELLS = 10_000
_FIXED = ("name", "out", "paths", "report", "grid")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of a study.

    Attributes:
        recipe: the recipe with the cell's values in place and no grid.
        changes: dotted key -> value: the axes of the cell's grid, at this cell's values.
    """

    recipe: Recipe
    changes: dict[str, Any]


def expand(recipe: Recipe, path: str = "recipe") -> list[Cell]:
    """The cells of a recipe, in the order of the file, each once.

    Args:
        recipe: the recipe.
        path: its file, for messages.

    Raises:
        RecipeError: an axis has an unknown key or a wrong value, or there are more than 10,000 cells.
    """
    base = {key: value for key, value in to_mapping(recipe).items() if key != "grid"}
    if not recipe.grid:
        return [Cell(recipe=from_mapping(Recipe, base, path), changes={})]
    cells: dict[str, Cell] = {}
    for number, grid in enumerate(recipe.grid):
        where = f"{join(path, 'grid')}[{number}]"
        for changes in _changes(grid, where):
            mapping = copy.deepcopy(base)
            for key, value in changes.items():
                for target in SEED_KEYS if key == "seed" else (key,):
                    _assign(mapping, target, value, where)
            made = from_mapping(Recipe, mapping, where)
            cells.setdefault(repr(made), Cell(recipe=made, changes=changes))
            if len(cells) > MAX_CELLS:
                raise RecipeError(f"{join(path, 'grid')} has more than {MAX_CELLS:,} cells", "use a star for some axes")
    return list(cells.values())


def _changes(grid: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """The values of every axis for every cell; star axes that stand at the base are absent."""
    axes = [[{key: value} for value in _values(grid[key], join(where, key))] for key in grid if key != "star"]
    star = grid.get("star", {})
    if not isinstance(star, Mapping):
        raise RecipeError(f"{where}.star is {star!r}, not a mapping of keys to lists", "indent its axes below it")
    arms = [{key: value} for key in star for value in _values(star[key], f"{where}.star.{key}")]
    for parts in product(*axes, [{}, *arms]):
        merged: dict[str, Any] = {}
        for part in parts:
            merged |= part
        yield merged


def _values(axis: Any, where: str) -> list[Any]:
    values = axis if isinstance(axis, list | tuple) else [axis]
    if not values:
        raise RecipeError(f"{where} is an empty list", "give the axis a value, or leave it out")
    return list(values)


def _assign(mapping: dict[str, Any], key: str, value: Any, where: str) -> None:
    parts = key.split(".")
    if parts[0] in _FIXED:
        raise RecipeError(f"{where}.{key} cannot be an axis", "axes are keys below generate, train and evaluate")
    assign(mapping, parts, value, f"{where}.{key}")


def assign(node: Any, keys: list[str], value: Any, where: str) -> None:
    """Put a value into nested mappings and lists, in place.

    A number picks an entry of a list; without one the value goes into every entry. Absent mappings are made; what may
    stand where is checked when the mapping is read.

    Raises:
        RecipeError: the path leads through a value that has no keys, or past the end of a list.
    """
    if isinstance(node, list):
        if not keys[0].isdigit():
            for entry in node:
                assign(entry, keys, value, where)
            return
        if int(keys[0]) >= len(node):
            raise RecipeError(f"{where}: there is no entry {keys[0]}", f"the list has {len(node)}, the first is 0")
        if len(keys) == 1:
            node[int(keys[0])] = value
        else:
            assign(node[int(keys[0])], keys[1:], value, where)
        return
    if not isinstance(node, dict):
        raise RecipeError(f"{where}: {node!r} has no key {keys[0]!r}", "check the path of the key")
    if len(keys) == 1:
        node[keys[0]] = value
    else:
        assign(node.setdefault(keys[0], {}), keys[1:], value, where)
