"""Training recipes by name, from a YAML file or from a run folder, with settings over them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagenet_sd.core.typed import from_mapping, merge, read_setting, read_yaml, to_mapping
from imagenet_sd.training.config import RECIPES, TrainConfig, TrainingError, upgraded
from imagenet_sd.training.self_supervised import METHODS, SELF_SUPERVISED

RECIPE_NAMES = f"{', '.join(RECIPES)}, {'|'.join(METHODS)}[-small][-spatial|-appearance][+augself], or a YAML file"


def named_recipe(name: str) -> TrainConfig:
    """The recipe of that name, with labels or without.

    Raises:
        TrainingError: there is none.
    """
    recipe = RECIPES.get(name) or SELF_SUPERVISED.get(name)
    if recipe is None:
        raise TrainingError(f"no training recipe {name!r}", f"use {RECIPE_NAMES}")
    return recipe


def train_mapping(name: str) -> dict[str, Any]:
    """A training recipe by name or from a YAML file, as nested dictionaries.

    Raises:
        ImagenetSDError: there is none, or the file has an unknown key.
    """
    if name in RECIPES or not name.endswith((".yaml", ".yml")):
        return to_mapping(named_recipe(name))
    content = upgraded(read_yaml(Path(name)))
    mapping = to_mapping(named_recipe(str(content.pop("base", "imagenet-sd"))))
    merge(mapping, content, name)
    return mapping


def load_train_config(name: str, settings: Sequence[str] = ()) -> TrainConfig:
    """A training recipe by name or from a YAML file, with `a.b=c` settings over it.

    Args:
        name: a named recipe, or the path of a YAML file: settings over the recipe that its key `base` names.
        settings: such as "optimizer.epochs=3"; the value is read as YAML.

    Raises:
        SettingsError: an unknown key or a value of a wrong type, named by its path.
    """
    mapping = train_mapping(name)
    for setting in settings:
        keys, value = read_setting(setting)
        for key in reversed(keys[1:]):
            value = {key: value}
        merge(mapping, upgraded({keys[0]: value}), "--set")
    return from_mapping(TrainConfig, mapping)


def read_description(run: Path) -> dict[str, Any]:
    """What `recipe.yaml` of a run folder says: `data`, `validation`, `stream`, and the configuration as `train`.

    Raises:
        SettingsError: it is missing or not readable.
        TrainingError: it holds no configuration.
    """
    description = read_yaml(run / "recipe.yaml")
    if not isinstance(description.get("train"), dict):
        raise TrainingError(f"{run / 'recipe.yaml'} describes no training run", "train into a new folder")
    return description | {"train": upgraded(description["train"])}
