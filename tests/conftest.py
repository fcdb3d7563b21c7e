"""Shared fixtures: one small real dataset generated once a session, and the command line as a user runs it."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest

# Tests run side by side on few cores: one thread per process, set before anything imports torch. Bits depend on it.
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parent.parent
CliRun = Callable[..., subprocess.CompletedProcess[str]]

# One dataset, as the tests know it: 20 images in 4 shards, 5 steps. One worker is the process of the command itself.
SMALL = (
    "generate --model embedded --classes digits-10 --prompt c_dc --scale 2 --steps 5 "
    "--images-per-class 2 --shard-size 6 --batch-size 4 --workers 1"
).split()


@pytest.fixture(scope="session")
def cli() -> CliRun:
    """Runs `imagenet-sd ARGS...` and returns its exit code and output.

    The command runs in this process, which saves importing torch and diffusers each time; with options of
    `subprocess.run` (`env`, `cwd`) it gets a process of its own.
    """

    def run(*args: object, **options) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "imagenet_sd", *map(str, args)]
        if options:
            return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)
        return run_here(command)

    return run


@contextmanager
def process_state() -> Iterator[None]:
    """Restore what a command may change in its process: environment, folder, signal handlers, threads of torch."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    folder = os.getcwd()
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    try:
        with mock.patch.dict(os.environ):
            yield
    finally:
        os.chdir(folder)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if threads is not None:
            sys.modules["torch"].set_num_threads(threads)


def run_here(command: list[str]) -> subprocess.CompletedProcess[str]:
    """`python -m imagenet_sd ARGS...` in this process; what its child processes write is captured as well."""
    from imagenet_sd.cli import main

    own = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            argv = mock.patch.object(sys, "argv", command[2:])
            with process_state(), redirect_stdout(out), redirect_stderr(err), argv:
                main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            for number, descriptor in enumerate(own, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return subprocess.CompletedProcess(command, code, *texts)


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
