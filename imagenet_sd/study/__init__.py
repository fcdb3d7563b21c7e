"""A study: a YAML file with a grid. Its cells become stages (generate, train, evaluate) and one report."""

from imagenet_sd.study.grid import GridCell, expand
from imagenet_sd.study.load import load_study
from imagenet_sd.study.runner import dry_run_study, run
from imagenet_sd.study.schema import EvalSection, ReportSection, Study, TrainSection

__all__ = [
    "EvalSection",
    "GridCell",
    "ReportSection",
    "Study",
    "TrainSection",
    "dry_run_study",
    "expand",
    "load_study",
    "run",
]
