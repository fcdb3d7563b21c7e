"""Engines, `status`, `regenerate` and metrics on real runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from imagenet_sd.core.files import read_json
from imagenet_sd.core.progress import Progress
from imagenet_sd.core.seeds import Permutation
from imagenet_sd.core.types import ShardManifest
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.workers.metrics import write_metrics
from imagenet_sd.generation.workers.status import status
from imagenet_sd.storage.dataset import Dataset, fingerprint
from tests.conftest import SMALL, CliRun
from tests.fakes import Replay, replay_loop
from tests.generation.test_resume import shard_hashes


def test_a_worker_that_is_killed_is_started_again(small_dataset: Path, tmp_path: Path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "imagenet_sd", *SMALL, "--workers", "2", "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    held = ""
    while time.monotonic() < deadline and not held:  # a lease is empty for the moment between its claim and its text
        held = "".join(lease.read_text() for lease in list(out.glob(".work/leases/*.lease"))[:1])
        time.sleep(0.002)
    os.kill(json.loads(held)["pid"], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "ended with -9; started again" in said
    assert shard_hashes(out) == shard_hashes(small_dataset)


@pytest.mark.slow
def test_workers_of_a_launcher(small_dataset: Path, tmp_path: Path):
    """torchrun, which `accelerate launch` runs on GPUs; with `--cpu` accelerate starts one process only."""
    out = tmp_path / "out"
    launch = "torch.distributed.run --standalone --nproc_per_node 2 -m imagenet_sd"
    done = subprocess.run(
        [sys.executable, "-m", *launch.split(), *SMALL, "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("4 shards done") == 2, done.stdout  # both ranks saw the whole dataset through
    assert shard_hashes(out) == shard_hashes(small_dataset)
    journals = list((out / ".work/events").iterdir())
    events = [json.loads(line)["event"] for file in journals for line in file.read_text().splitlines()]
    assert events.count("done") == 4 and "failed" not in events  # each shard by one of the two ranks
    assert events.count("start") == events.count("stop") == len(journals) <= 2  # one that comes late has nothing to do


@pytest.mark.slow
def test_ray_with_two_nodes_one_of_which_is_lost(small_dataset: Path, tmp_path: Path, cli: CliRun):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    out = tmp_path / "out"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
        command = [sys.executable, "-m", "imagenet_sd", *SMALL, "--engine", "ray", "--out", str(out)]
        environment = os.environ | {"RAY_ADDRESS": cluster.address}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None and not list(out.glob(".work/events/*")):
            time.sleep(0.01)
        process.terminate()
        assert process.wait(60) == 143
        assert len(shard_hashes(out)) < 4
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        while time.monotonic() < deadline and process.poll() is None and not shard_hashes(out):
            time.sleep(0.01)
        cluster.remove_node(nodes[1], allow_graceful=False)
        done = len(shard_hashes(out))
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said[-2000:]
        assert done < 4, "all was done before the node could be removed"
    finally:
        cluster.shutdown()
        if ray.is_initialized():
            ray.shutdown()
    assert shard_hashes(out) == shard_hashes(small_dataset)


def test_regenerate_says_whether_the_pixels_match(small_dataset: Path, tmp_path: Path, cli: CliRun):
    plan = Dataset.open(small_dataset).plan
    first, last = (plan.requests(plan.shard(i))[-1].image_id for i in (0, 3))
    result = json.loads(cli("regenerate", small_dataset, "--id", last, "--format", "json").stdout)
    assert (result["identical"], result["identical_bytes"], result["largest_difference"]) == (True, True, 0)
    changed = tmp_path / "changed"
    shutil.copytree(small_dataset, changed)
    document = json.loads((changed / "dataset.json").read_text())
    document["settings"]["guidance_scale"] = 7.5  # the folder now claims to be another dataset
    document["fingerprint"] = fingerprint(document)
    (changed / "dataset.json").write_text(json.dumps(document))
    for path in changed.glob("data/*/.manifests/*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": document["fingerprint"]}))
    done = cli("regenerate", changed, "--id", first)
    assert done.returncode == 1 and "other pixels" in done.stdout
    for wrong in ("n13742358_000009", "n00000000_000000", "n13742358_0", "../etc", "n13742358_00000٣"):
        with pytest.raises(KeyError):
            plan.locate(wrong)
    done = cli("regenerate", small_dataset, "--id", "../etc")
    assert done.returncode == 1 and "has no image '../etc'" in done.stderr


def test_every_image_is_found_where_it_lies(small_dataset: Path):
    document = read_json(small_dataset / "dataset.json") | {"rounds": 3}
    plan = Dataset.from_document(small_dataset, document).plan
    for i in range(plan.num_shards):
        for row, request in enumerate(plan.requests(plan.shard(i))):
            assert plan.locate(request.image_id) == (i, row)
    for size in (1, 2, 7, 64, 1000):
        order = Permutation(size, "x", 3)
        assert [order.index(order[k]) for k in range(size)] == list(range(size))


def test_status_of_a_dataset_in_progress(small_dataset: Path, tmp_path: Path):
    from prometheus_client.parser import text_string_to_metric_families

    out = tmp_path / "out"
    seen: list[dict] = []
    with replay_loop(small_dataset, out) as (loop, _):
        loop.on_batch = lambda shard, images: seen.append(status(loop.dataset)) if shard.index == 2 else None
        loop.run()
    state = seen[0]
    assert (state["shards_done"], state["images_done"], state["workers_live"], state["shards_at_work"]) == (2, 12, 1, 1)
    assert state["images_per_second"] == 6.0 and state["eta_seconds"] == round(8 / 6, 1)  # replay says 1 s a shard
    events = next((out / ".work/events").iterdir())
    lines = events.read_text().splitlines()
    assert json.loads(lines[-1])["event"] == "stop" and status(loop.dataset)["workers_live"] == 0
    events.write_text("\n".join(lines[:-1]) + "\n")  # as if it had been killed
    state = status(loop.dataset)
    assert (state["workers_live"], state["complete"]) == (0, True)  # nobody works on what is complete
    loop.dataset.manifest_path(loop.plan.shard(3)).unlink()
    assert status(loop.dataset)["workers_live"] == 1
    for age, stale in ((600, 1), (7200, 0)):  # silent, and after an hour forgotten
        os.utime(events, (time.time() - age,) * 2)
        state = status(loop.dataset)
        assert (state["workers_live"], state["workers_stale"], state["complete"]) == (0, stale, False)
    os.utime(events, (time.time() - 600,) * 2)
    state = status(loop.dataset)
    write_metrics(state, tmp_path / "m" / "x.prom")
    families = text_string_to_metric_families((tmp_path / "m" / "x.prom").read_text())
    values = {family.name: family.samples[0] for family in families}
    assert values["imagenet_sd_images_done"].value == 18 and values["imagenet_sd_workers_stale"].value == 1
    assert values["imagenet_sd_shards_failed"].labels == {"dataset": "out"}


def test_status_of_a_folder_that_cannot_be_written(small_dataset: Path):
    """As on a read-only mount: the folder belongs to another user, and this machine's clock has to do."""
    with tempfile.TemporaryDirectory() as public:  # pytest's own folders are closed to other users
        out = Path(public) / "out"
        shutil.copytree(small_dataset, out)
        shutil.rmtree(out / ".work/leases")
        document = read_json(out / "dataset.json") | {"rounds": 2}
        (out / "dataset.json").write_text(json.dumps(document))
        for path in (Path(public), out, *out.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        dataset, uid = Dataset.open(out), os.geteuid()
        try:
            if uid == 0:  # whom permissions do not stop
                os.seteuid(65534)
            state = status(dataset)
            with pytest.raises(OSError, match="ermission"):
                (out / ".work/leases").mkdir()
        finally:
            os.seteuid(uid)
            for path in (Path(public), *(path for path in out.rglob("*") if path.is_dir()), out):
                path.chmod(0o755)
    assert (state["shards_done"], state["num_shards"], state["workers_live"], state["complete"]) == (4, 8, 0, False)


def test_a_run_says_for_whom_it_waits_and_counts_its_own_shards_alone(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another run holds two of the four shards, and publishes them while the command waits."""
    from imagenet_sd.core import layout
    from imagenet_sd.generation.workers import status as progress
    from imagenet_sd.generation.workers.leases import LeaseBoard
    from imagenet_sd.pipeline import generate

    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(small_dataset / "dataset.json", out)
    dataset = Dataset.open(out)
    board = LeaseBoard(out / layout.LEASES, "host-of-another-1")
    held = {i: board.claim(layout.shard_id(dataset.plan.shard(i))) for i in (1, 3)}
    replay = Replay(small_dataset, dataset)
    said: list[str] = []

    def publish(bar: Progress, text: str) -> None:
        said.append(text)
        for i, lease in held.items():
            replay.run_shard(i)
            lease.release()

    monkeypatch.setattr(Progress, "say", publish)
    config = GenerationConfig(
        model="embedded", prompt="c_dc", guidance_scale=2, num_inference_steps=5, images_per_class=2, shard_size=6,
        batch_size=4,
    )  # fmt: skip
    summary = generate(config, out, workers=1)
    assert summary["shards_generated"] == 2 and shard_hashes(out) == shard_hashes(small_dataset)
    assert said[0] in {
        f"waiting for shard 000-0000{i}, which host-of-another-1 is generating, and for 1 shard of others"
        for i in (1, 3)
    }
    board.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_smaller_multiple_than_there_is_says_so(small_dataset: Path, tmp_path: Path, cli: CliRun, workers: int):
    grown = tmp_path / "grown"
    shutil.copytree(small_dataset, grown)
    done = cli(*SMALL, "--multiple", 2, "--workers", workers, "--out", grown, "--format", "json")
    assert done.returncode == 0 and json.loads(done.stdout)["shards_generated"] == 4, done.stderr
    assert "note:" not in done.stderr
    done = cli(*SMALL, "--multiple", 1, "--out", grown, "--format", "json")
    summary = json.loads(done.stdout)
    assert (summary["rounds"], summary["num_shards"], summary["shards_generated"]) == (2, 8, 0)
    assert f"note: {grown} holds 2 rounds already" in done.stderr


def test_status_command_and_6400_shards_in_a_second(small_dataset: Path, tmp_path: Path, cli: CliRun):
    document = read_json(small_dataset / "dataset.json") | {"rounds": 1600}
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    dataset = Dataset.open(tmp_path)
    for shard in dataset.plan.shards():
        path = dataset.manifest_path(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        manifest = ShardManifest(
            fingerprint=dataset.fingerprint,
            round=shard.round,
            index=shard.index,
            num_rows=shard.num_rows,
            sha256="0" * 64,
        )
        path.write_text(json.dumps(asdict(manifest)))
    started = time.process_time()
    state = status(dataset)
    assert time.process_time() - started < 1
    assert (state["shards_done"], state["images_done"], state["complete"]) == (6400, 32000, True)
    done = cli("status", tmp_path)
    assert done.returncode == 0 and "6,400 of 6,400 shards, 32,000 of 32,000 images (100.0%)" in done.stdout
    assert cli("status", tmp_path / "nothing").returncode == 1
