"""The main path: what each command does, as one function each. Light to import; heavy libraries come when called."""

from imagenet_sd.pipeline.bench import bench_generate, bench_loader, bench_probe, calibrate
from imagenet_sd.pipeline.dataset import dry_run, generate, open_dataset, preview, regenerate, status, verify
from imagenet_sd.pipeline.environment import environment
from imagenet_sd.pipeline.evaluation import cog, evaluate, extract_features
from imagenet_sd.pipeline.export import export_dataset, push, push_run
from imagenet_sd.pipeline.report import report
from imagenet_sd.pipeline.training import train

__all__ = [
    "bench_generate",
    "bench_loader",
    "bench_probe",
    "calibrate",
    "cog",
    "dry_run",
    "environment",
    "evaluate",
    "export_dataset",
    "extract_features",
    "generate",
    "open_dataset",
    "preview",
    "push",
    "push_run",
    "regenerate",
    "report",
    "status",
    "train",
    "verify",
]
