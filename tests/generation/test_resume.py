"""The promise: the same plan gives the same bytes, whatever happened on the way."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import SMALL, CliRun


def shard_hashes(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.glob("data/round-*/*.parquet"))
    }


def test_two_folders_hold_the_same_bytes(small_dataset: Path, tmp_path: Path, cli: CliRun):
    """Two workers against one, which is the process of the command."""
    done = cli(*SMALL, "--workers", 2, "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert shard_hashes(tmp_path / "again") == shard_hashes(small_dataset)
    assert len(list((tmp_path / "again/.work/events").iterdir())) == 2
    assert len(list((small_dataset / ".work/events").iterdir())) == 1
    assert len(shard_hashes(small_dataset)) == 4
    assert (tmp_path / "again" / "dataset.json").read_bytes() == (small_dataset / "dataset.json").read_bytes()


def test_killed_and_rerun_gives_the_same_bytes(small_dataset: Path, tmp_path: Path, cli: CliRun):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "imagenet_sd", *SMALL, "--workers", "2", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and len(shard_hashes(out)) < 2:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(list(out.glob("data/*/.manifests/*.json")))
    assert finished < 4, "the run was over before it could be killed"
    before = {p.name: os.stat(p).st_mtime_ns for p in out.glob("data/*/.manifests/*.json")}
    done = cli(*SMALL, "--out", out)
    assert done.returncode == 0, done.stderr
    assert shard_hashes(out) == shard_hashes(small_dataset)
    after = {p.name: os.stat(p).st_mtime_ns for p in out.glob("data/*/.manifests/*.json")}
    assert all(after[name] == stamp for name, stamp in before.items())  # what was done was left alone


def test_a_finished_dataset_is_left_alone(small_dataset: Path, cli: CliRun):
    before = {path: path.stat().st_mtime_ns for path in small_dataset.rglob("*")}
    done = cli(*SMALL, "--out", small_dataset)
    assert done.returncode == 0
    assert "0 shards generated in this run" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in small_dataset.rglob("*")} == before


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--steps", "6", "num_inference_steps: 5 there, 6 asked for"),
        ("--scale", "3", "guidance_scale: 2.0 there, 3.0 asked for"),
        ("--prompt", "c", "prompt: 'c_dc' there, 'c' asked for"),
        ("--images-per-class", "3", "10 with 20 images there, 10 with 30 asked for"),
    ],
)
def test_other_settings_are_refused_by_name(small_dataset: Path, cli: CliRun, option: str, value: str, named: str):
    before = shard_hashes(small_dataset)
    done = cli(*SMALL, option, value, "--out", small_dataset)
    assert done.returncode == 1
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert shard_hashes(small_dataset) == before


def test_growing_by_a_round_leaves_the_first_alone(small_dataset: Path, tmp_path: Path, cli: CliRun):
    grown = tmp_path / "grown"
    shutil.copytree(small_dataset, grown)
    assert cli(*SMALL, "--multiple", "2", "--out", grown).returncode == 0
    assert cli(*SMALL, "--multiple", "2", "--out", tmp_path / "at-once").returncode == 0
    assert shard_hashes(grown) == shard_hashes(tmp_path / "at-once")
    assert shard_hashes(small_dataset).items() < shard_hashes(grown).items()
    assert len(shard_hashes(grown)) == 8


def test_a_data_folder_without_its_description_is_refused(small_dataset: Path, tmp_path: Path, cli: CliRun):
    out = tmp_path / "headless"
    shutil.copytree(small_dataset, out)
    (out / "dataset.json").unlink()
    done = cli(*SMALL, "--out", out)
    assert done.returncode == 1
    assert "no dataset.json" in done.stderr


def test_dry_run_writes_nothing(tmp_path: Path, cli: CliRun):
    done = cli("generate", "--prompt", "c_dc", "--scale", "2", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    for text in ("imagenet-100-sd_c_dc_scale2_seed0", "130,000, classes 100", "130 of 1,000", "GB", "robin, "):
        assert text in done.stdout


def test_bad_usage_is_exit_code_2_and_a_known_error_1(tmp_path: Path, cli: CliRun):
    assert cli("generate", "--no-such-option").returncode == 2
    assert cli("generate", "--steps", "0").returncode == 2
    done = cli("generate", "--model", "embedded", "--size", "wide", "--out", tmp_path / "x")
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        ["error: --size is 'wide'", "hint: write WIDTHxHEIGHT, such as 512x384"],
    )
