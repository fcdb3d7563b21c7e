"""The public names and where they live: the one list that `__init__.py` loads from and type checkers read."""

from .core.errors import ImagenetSDError as ImagenetSDError
from .core.types import ClassSpec as ClassSpec
from .core.types import FeatureSet as FeatureSet
from .core.types import GenerationPlan as GenerationPlan
from .core.types import ImageRequest as ImageRequest
from .core.types import Prompt as Prompt
from .core.types import PromptTemplate as PromptTemplate
from .core.types import Shard as Shard
from .core.types import ShardManifest as ShardManifest
from .data.open import open_images as open_images
from .evaluation.config import EvalConfig as EvalConfig
from .generation.config import GenerationConfig as GenerationConfig
from .generation.diffusion.generator import ImageGenerator as ImageGenerator
from .generation.plan import make_plan as make_plan
from .pipeline import cog as cog
from .pipeline import evaluate as evaluate
from .pipeline import export_dataset as export_dataset
from .pipeline import extract_features as extract_features
from .pipeline import generate as generate
from .pipeline import open_dataset as open_dataset
from .pipeline import preview as preview
from .pipeline import push as push
from .pipeline import push_run as push_run
from .pipeline import regenerate as regenerate
from .pipeline import status as status
from .pipeline import train as train
from .pipeline import verify as verify
from .pipeline.environment import environment as environment
from .pipeline.report import report as report  # `from .pipeline` would be the module to pyright
from .prompts.build import PromptBuilder as PromptBuilder
from .prompts.build import build_prompts as build_prompts
from .prompts.classes import load_classes as load_classes
from .prompts.lint import lint as lint
from .prompts.templates import load_templates as load_templates
from .storage.dataset import Dataset as Dataset
from .study import load_study as load_study
from .study import run as run
from .training.config import TrainConfig as TrainConfig

__version__: str
