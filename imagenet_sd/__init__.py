"""imagenet-sd: a list of classes becomes a synthetic image dataset, an encoder, and an honest number.

The public names are loaded on first use, so importing the package costs nothing and does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "ClassSpec": "core.types",
    "Dataset": "storage.dataset",
    "GenerationConfig": "generation.config",
    "GenerationPlan": "core.types",
    "ImageGenerator": "generation.diffusion.generator",
    "ImageRequest": "core.types",
    "ImagenetSDError": "core.errors",
    "Prompt": "core.types",
    "PromptBuilder": "prompts.build",
    "PromptTemplate": "core.types",
    "Shard": "core.types",
    "ShardManifest": "core.types",
    "build_prompts": "prompts.build",
    "generate": "pipeline",
    "lint": "prompts.lint",
    "load_classes": "prompts.classes",
    "load_templates": "prompts.templates",
    "make_plan": "generation.plan",
    "preview": "pipeline",
    "regenerate": "pipeline",
    "status": "pipeline",
    "EvalConfig": "evaluation.config",
    "FeatureSet": "core.types",
    "TrainConfig": "training.config",
    "cog": "pipeline",
    "evaluate": "pipeline",
    "export_dataset": "pipeline",
    "extract_features": "pipeline",
    "load_study": "study",
    "open_dataset": "pipeline",
    "push": "pipeline",
    "report": "pipeline",
    "run": "study",
    "open_images": "data.open",
    "train": "pipeline",
    "verify": "pipeline",
}
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from imagenet_sd.core.errors import ImagenetSDError as ImagenetSDError
    from imagenet_sd.core.types import ClassSpec as ClassSpec
    from imagenet_sd.core.types import FeatureSet as FeatureSet
    from imagenet_sd.core.types import GenerationPlan as GenerationPlan
    from imagenet_sd.core.types import ImageRequest as ImageRequest
    from imagenet_sd.core.types import Prompt as Prompt
    from imagenet_sd.core.types import PromptTemplate as PromptTemplate
    from imagenet_sd.core.types import Shard as Shard
    from imagenet_sd.core.types import ShardManifest as ShardManifest
    from imagenet_sd.data.open import open_images as open_images
    from imagenet_sd.evaluation.config import EvalConfig as EvalConfig
    from imagenet_sd.generation.config import GenerationConfig as GenerationConfig
    from imagenet_sd.generation.diffusion.generator import ImageGenerator as ImageGenerator
    from imagenet_sd.generation.plan import make_plan as make_plan
    from imagenet_sd.pipeline import cog as cog
    from imagenet_sd.pipeline import evaluate as evaluate
    from imagenet_sd.pipeline import export_dataset as export_dataset
    from imagenet_sd.pipeline import extract_features as extract_features
    from imagenet_sd.pipeline import generate as generate
    from imagenet_sd.pipeline import open_dataset as open_dataset
    from imagenet_sd.pipeline import preview as preview
    from imagenet_sd.pipeline import push as push
    from imagenet_sd.pipeline import regenerate as regenerate
    from imagenet_sd.pipeline import report as report
    from imagenet_sd.pipeline import status as status
    from imagenet_sd.pipeline import train as train
    from imagenet_sd.pipeline import verify as verify
    from imagenet_sd.prompts.build import PromptBuilder as PromptBuilder
    from imagenet_sd.prompts.build import build_prompts as build_prompts
    from imagenet_sd.prompts.classes import load_classes as load_classes
    from imagenet_sd.prompts.lint import lint as lint
    from imagenet_sd.prompts.templates import load_templates as load_templates
    from imagenet_sd.storage.dataset import Dataset as Dataset
    from imagenet_sd.study import load_study as load_study
    from imagenet_sd.study import run as run
    from imagenet_sd.training.config import TrainConfig as TrainConfig


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'imagenet_sd' has no attribute {name!r}")
    return getattr(import_module(f"imagenet_sd.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
