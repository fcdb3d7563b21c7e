"""The main path: what each command does, as one function each. Light to import; the heavy rooms come when called."""

from imagenet_sd.pipeline.dataset import dry_run, generate, open_dataset, preview, verify
from imagenet_sd.pipeline.learning import cog, evaluate, train

__all__ = ["cog", "dry_run", "evaluate", "generate", "open_dataset", "preview", "train", "verify"]
