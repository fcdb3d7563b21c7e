"""The command line: one thin function per command."""

from imagenet_sd.cli import dataset, evaluation, training  # noqa: F401  # each registers its commands
from imagenet_sd.cli.common import app, main

__all__ = ["app", "main"]
