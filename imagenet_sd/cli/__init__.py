"""The command line: one thin function per command."""

from imagenet_sd.cli import (  # noqa: F401  # each registers its commands
    bench,
    dataset,
    evaluation,
    export,
    run,
    training,
)
from imagenet_sd.cli.common import app, main

__all__ = ["app", "main"]
