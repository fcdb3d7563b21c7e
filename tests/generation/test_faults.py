"""Faults, injected: after every one of them a rerun completes, and the bytes are those of an undisturbed run."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from imagenet_sd.core import layout
from imagenet_sd.core.errors import GenerationError, Interrupted, ModelError
from imagenet_sd.generation.diffusion.generator import ImageGenerator
from imagenet_sd.generation.models import EMBEDDED_FOLDER
from imagenet_sd.generation.workers.status import failures
from imagenet_sd.generation.workers.stop import Stop
from imagenet_sd.storage.dataset import Dataset
from tests.conftest import ROOT, SMALL, CliRun
from tests.fakes import replay_loop
from tests.generation.test_resume import shard_hashes


def rerun(reference: Path, out: Path) -> list[int]:
    """Complete a dataset; returns the shards generated. Nothing half-done may be left afterwards."""
    with replay_loop(reference, out) as (loop, replay):
        loop.run()
    assert shard_hashes(out) == shard_hashes(reference)
    assert not list((out / layout.LEASES).glob("*.lease"))
    return replay.generated


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink], ids=lambda f: f.__name__)
@pytest.mark.parametrize("what", [layout.shard_path, layout.manifest_path], ids=lambda f: f.__name__)
def test_a_damaged_file_is_generated_again(small_dataset: Path, tmp_path: Path, damage, what):
    out = tmp_path / "out"
    shutil.copytree(small_dataset, out, copy_function=shutil.copy2)
    damage(what(out, Dataset.open(out).plan.shard(2)))
    generated = rerun(small_dataset, out)
    # A bit of a manifest that says nothing of importance (device, versions) may flip unseen; all else is found.
    assert generated == [2] or (generated == [] and damage is flip_a_bit and what is layout.manifest_path)
    assert rerun(small_dataset, out) == []


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("shards", [0, 1])
def test_a_full_disk_stops_the_worker_and_loses_nothing(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, shards: int
):
    """The disk is full from the start, or as soon as the first shard has its name."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch, replay_loop(small_dataset, out) as (loop, _):
        home, name = (pq, "write_table") if call == "write" else (os, call)
        real = getattr(home, name)

        def full(*args, **options):
            if len(shard_hashes(out)) == shards:
                if call == "write":
                    Path(args[1]).write_bytes(b"PAR1 half of it")
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **options)

        patch.setattr(home, name, full)
        with pytest.raises(OSError, match="No space left"):
            loop.run()
    assert not list(out.rglob("*.tmp"))
    assert len(shard_hashes(out)) == shards  # a failed one gets no name
    assert not failures(Dataset.open(out))
    assert shard_hashes(out).items() <= shard_hashes(small_dataset).items()
    assert rerun(small_dataset, out)


@pytest.mark.parametrize("format", ["table", "json"])
def test_a_full_disk_is_said_with_path_and_hint(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: CliRun, format: str
):
    out = tmp_path / "out"

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    done = cli(*SMALL, "--out", out, "--format", format)
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.splitlines()
    if format == "json":
        said = json.loads(last[-1])
        assert said["exit_code"] == 1
        error, hint = said["error"], said["hint"]
    else:
        error, hint = last[-2].removeprefix("error: "), last[-1].removeprefix("hint: ")
    assert "No space left on device" in error and f"{out}/data/round-000/train-0000" in error
    assert hint == "free space there, then run the same command again: what is finished stays"


@pytest.mark.parametrize("step", range(1, 8))
def test_killed_at_each_point_of_publishing(small_dataset: Path, tmp_path: Path, step: int):
    """From before the first byte is safe to after the manifest of the first shard: what has one is done, and stays."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tests.fakes", str(small_dataset), str(out), str(step)]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == -signal.SIGKILL
    assert shard_hashes(out).items() <= shard_hashes(small_dataset).items()
    done = len(list(out.glob("data/*/.manifests/*.json")))
    assert (step == 7) <= done <= len(shard_hashes(out)) <= (step > 1)
    assert list((out / layout.LEASES).glob("*.lease"))  # the dead worker's; stale at once on this machine
    started = time.monotonic()
    assert len(rerun(small_dataset, out)) == 4 - done
    assert time.monotonic() - started < 20  # without waiting for the lease to time out


def test_a_rename_that_reports_an_error_after_succeeding(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = os.replace

    def deceitful(source, target):
        real(source, target)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", deceitful)
    assert rerun(small_dataset, tmp_path / "out") == [0, 1, 2, 3]


def test_two_workers_on_one_shard_write_the_same_bytes(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Both write each shard at the same time, into files of their own, and publish after both have written."""
    out, meet, written = tmp_path / "out", threading.Barrier(2, timeout=20), []
    real = pq.write_table

    def together(table, path, **options):
        meet.wait()
        written.append(Path(path))
        real(table, path, **options)
        meet.wait()

    with (
        replay_loop(small_dataset, out) as (first, _),
        replay_loop(small_dataset, out) as (second, _),
        monkeypatch.context() as patch,
    ):
        patch.setattr(pq, "write_table", together)
        threads = [
            threading.Thread(target=lambda loop=loop: [loop.attempt(i) for i in range(4)]) for loop in (first, second)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(written)) == 8
    assert shard_hashes(out) == shard_hashes(small_dataset)
    assert rerun(small_dataset, out) == []


def test_many_workers_share_the_shards_without_doubles(small_dataset: Path, tmp_path: Path):
    out = tmp_path / "out"
    generated: list[int] = []

    def work(rank: int) -> None:
        with replay_loop(small_dataset, out, rank=rank) as (loop, replay):
            loop.run()
        generated.extend(replay.generated)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(generated) == [0, 1, 2, 3]
    assert shard_hashes(out) == shard_hashes(small_dataset)


RED = torch.tensor([1.0, -1.0, -1.0])[:, None, None]


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("raises", None),
        ("not numbers", float("nan")),
        ("one single colour", 0.5),
        pytest.param("one single colour", RED, marks=pytest.mark.slow),
    ],
)
def test_an_unusable_image_fails_its_shard_alone(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, value: Any
):
    """Through the real generator: retried, marked, not published; the run goes on and lists it; a rerun succeeds."""
    from imagenet_sd.generation.config import GenerationConfig
    from imagenet_sd.pipeline import generate

    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    out, plan, calls = tmp_path / "out", Dataset.open(small_dataset).plan, []
    bad = plan.requests(plan.shard(1))[4].image_id
    config = GenerationConfig(
        model="embedded", prompt="c_dc", guidance_scale=2, num_inference_steps=5, images_per_class=2, shard_size=6,
        batch_size=4,
    )  # fmt: skip
    real_generate = ImageGenerator.generate

    def generate_spoilt(self, requests):
        ids = [request.image_id for request in requests]
        self.spoil = ids.index(bad) if bad in ids else None
        calls.extend(ids)
        if what == "raises" and self.spoil is not None:
            raise RuntimeError("a kernel failed")
        decode = self.pipeline.vae.decode

        def spoilt(*args, **options):
            images = decode(*args, **options)[0]
            if self.spoil is not None:
                images[self.spoil] = value
            return (images,)

        self.pipeline.vae.decode = spoilt
        try:
            return real_generate(self, requests)
        finally:
            self.pipeline.vae.decode = decode

    with monkeypatch.context() as patch:
        patch.setattr(ImageGenerator, "generate", generate_spoilt)
        with pytest.raises(
            GenerationError, match=r"1 of 4 shards could not be generated.*train-00001-of-00004"
        ) as caught:
            generate(config, out, workers=1)
    assert ("a kernel failed" if what == "raises" else what) in str(caught.value)
    assert calls.count(bad) == 3
    assert len(shard_hashes(out)) == 3 and not layout.shard_path(out, plan.shard(1)).exists()
    assert list(failures(Dataset.open(out))) == ["data/round-000/train-00001-of-00004.parquet"]
    assert generate(config, out, workers=1)["shards_generated"] == 1
    assert shard_hashes(out) == shard_hashes(small_dataset)
    assert not failures(Dataset.open(out))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit], ids=lambda f: f.__name__)
def test_damaged_weights_are_refused(small_dataset: Path, tmp_path: Path, damage):
    from imagenet_sd.generation.config import GenerationConfig
    from imagenet_sd.generation.models import identify
    from imagenet_sd.generation.weights import fetch

    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED_FOLDER, folder)
    identity = identify(GenerationConfig(model=str(folder)))
    assert fetch(str(folder), identity) == folder
    damage(next(folder.glob("unet/*.safetensors")))
    with pytest.raises(ModelError, match="not those of the plan"):
        fetch(str(folder), identity)


def test_a_shard_is_given_back_at_the_next_batch(small_dataset: Path, tmp_path: Path):
    out, stop = tmp_path / "out", Stop()
    with replay_loop(small_dataset, out, stop=stop) as (loop, replay):
        loop.on_batch = lambda shard, images: setattr(stop, "signum", signal.SIGTERM) if images == 3 else None
        with pytest.raises(Interrupted):
            loop.run()
    assert not replay.generated and not shard_hashes(out)
    events = [json.loads(line)["event"] for line in next((out / layout.EVENTS).iterdir()).open()]
    assert events == ["start", "claim", "released", "stop"]
    assert rerun(small_dataset, out) == [0, 1, 2, 3]


@pytest.mark.parametrize(("number", "workers", "code"), [(signal.SIGTERM, 1, 143), (signal.SIGINT, 2, 130)])
def test_signals_stop_a_run_cleanly(
    small_dataset: Path, tmp_path: Path, cli: CliRun, number: int, workers: int, code: int
):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "imagenet_sd", *SMALL, "--workers", str(workers), "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(out.glob(".work/leases/*.lease")):
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "run the same command again" in said
    assert not list(out.glob(".work/leases/*.lease"))
    assert len(shard_hashes(out)) < 4
    assert cli(*SMALL, "--out", out).returncode == 0
    assert shard_hashes(out) == shard_hashes(small_dataset)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path):
    out = tmp_path / "out"
    slow = [part if part != "5" else "900" for part in SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "imagenet_sd", *slow, "--workers", "2", "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    held: list[str] = []
    while time.monotonic() < deadline and len(held) < 2:  # a lease gets its text a moment after its name
        held = [text for path in out.glob(".work/leases/*.lease") if (text := path.read_text())]
        time.sleep(0.01)
    pids = [json.loads(text)["pid"] for text in held]
    assert len(pids) == 2
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, process.communicate()[1]  # a batch of 900 steps is not over yet
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == 130
    time.sleep(0.5)
    states = [
        path.read_text().rpartition(")")[2].split()[0] for k in pids if (path := Path(f"/proc/{k}/stat")).exists()
    ]
    assert set(states) <= {"Z"}  # dead, if perhaps not yet buried
