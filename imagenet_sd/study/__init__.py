"""A study: a YAML file with a grid. Its cells become stages (generate, train, evaluate) and one report."""

from imagenet_sd.study.grid import GridCell as GridCell
from imagenet_sd.study.grid import expand as expand
from imagenet_sd.study.load import load_study as load_study
from imagenet_sd.study.runner import dry_run_study as dry_run_study
from imagenet_sd.study.runner import run as run
from imagenet_sd.study.schema import EvalSection as EvalSection
from imagenet_sd.study.schema import ReportSection as ReportSection
from imagenet_sd.study.schema import Study as Study
from imagenet_sd.study.schema import TrainSection as TrainSection
