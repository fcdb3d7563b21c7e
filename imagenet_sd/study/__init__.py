"""Recipe: a YAML file as a typed configuration. An unknown key or a wrong type is an error that names its path."""

from imagenet_sd.core.typed import RecipeError, from_mapping, to_mapping
from imagenet_sd.study.grid import Cell, expand
from imagenet_sd.study.load import load_recipe
from imagenet_sd.study.schema import EvalSection, Recipe, ReportSection, TrainSection

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
    "to_mapping",
]
