"""The main path: what each command does, as one function each. Light to import; the heavy rooms come when called."""

from imagenet_sd.pipeline.bench import bench_generate, bench_script, calibrate
from imagenet_sd.pipeline.dataset import dry_run, generate, open_dataset, preview, regenerate, status, verify
from imagenet_sd.pipeline.learning import cog, evaluate, extract_features, train
from imagenet_sd.pipeline.reporting import report
from imagenet_sd.pipeline.sharing import export_dataset, push
from imagenet_sd.pipeline.study import dry_run_study, run

__all__ = [
    "bench_generate",
    "bench_script",
    "calibrate",
    "cog",
    "dry_run",
    "dry_run_study",
    "evaluate",
    "export_dataset",
    "extract_features",
    "generate",
    "open_dataset",
    "preview",
    "push",
    "regenerate",
    "report",
    "run",
    "status",
    "train",
    "verify",
]
