"""Shared fixtures: one small real dataset drawn once a session, and the command line as a user runs it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Tests run side by side on few cores: one thread per process, set before anything imports torch. Bits depend on it.
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parent.parent
CliRun = Callable[..., subprocess.CompletedProcess[str]]

# One dataset, as the tests know it: 24 images in 4 shards, 5 steps.
SMALL = (
    "generate --model embedded --classes digits-10 --prompt c_dc --scale 2 --steps 5 "
    "--images-per-class 2 --shard-size 6 --batch-size 4"
).split()


@pytest.fixture(scope="session")
def cli() -> CliRun:
    """Runs `imagenet-sd ARGS...` in a process of its own and returns it with its output."""

    def run(*args: object, **options) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "imagenet_sd", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)

    return run


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory, cli: CliRun) -> Path:
    """A finished dataset; tests that change it work on a copy."""
    out = tmp_path_factory.mktemp("small") / "digits"
    done = cli(*SMALL, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def own_classes(tmp_path: Path) -> Path:
    """A TSV list of two classes outside WordNet, one of them with a hostile name."""
    path = tmp_path / "own.tsv"
    path.write_text(
        "id\tname\tdefinition\thypernym\n"
        'b2\t<script>alert(1)</script>\ta "quoted" & dangerous name\t\n'
        "a1\tred widget\ta thing that is red\twidget\n"
    )
    return path
