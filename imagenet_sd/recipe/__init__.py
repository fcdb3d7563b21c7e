"""Recipe: a YAML file as a typed configuration. An unknown key or a wrong type is an error that names its path."""

from imagenet_sd.recipe.convert import RecipeError, from_mapping, to_mapping
from imagenet_sd.recipe.grid import Cell, expand
from imagenet_sd.recipe.load import load_recipe, load_train_config
from imagenet_sd.recipe.schema import EvalSection, Recipe, ReportSection, TrainSection

__all__ = [
    "Cell",
    "EvalSection",
    "Recipe",
    "RecipeError",
    "ReportSection",
    "TrainSection",
    "expand",
    "from_mapping",
    "load_recipe",
    "load_train_config",
    "to_mapping",
]
