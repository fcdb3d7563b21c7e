"""The wheel alone, in a clean environment outside of the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_installed_wheel_builds_prompts_and_generates(tmp_path: Path):
    """A fresh virtual environment gets the wheel; the (large) dependencies are read from this one."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 14_000_000
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True, timeout=120)
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*arguments: str) -> str:
        command = [str(tmp_path / "env" / "bin" / "imagenet-sd"), *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = subprocess.run(
        [python, "-c", "import imagenet_sd; print(imagenet_sd.__file__)"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert shown.stdout.startswith(site)
    modules = "imagenet_sd.training.bench, imagenet_sd.evaluation.bench, imagenet_sd.generation.bench.compare"
    subprocess.run([python, "-c", f"import {modules}"], cwd=tmp_path, env=environment, check=True)
    assert len(run("prompts", "--classes", "imagenet-100", "--prompt", "c_hc_b").splitlines()) == 100
    out = run("generate", "--model", "embedded", "--images-per-class", "1", "--steps", "2", "--out", "clone")
    assert "10 images in 1 shard done" in out
    assert (tmp_path / "clone" / "data" / "round-000" / "train-00000-of-00001.parquet").is_file()
