"""The command line: one thin function per command."""

from imagenet_sd.cli import bench, dataset, environment, evaluation, export, run, training  # noqa: F401  # they register
from imagenet_sd.cli.common import app, main

__all__ = ["app", "main"]
