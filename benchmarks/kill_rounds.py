"""Three workers, one killed with SIGKILL at a random moment each round and replaced; are the bytes those of one worker?

Real processes, the embedded generator, real files. With `--engine ray` two nodes of a local Ray cluster instead, one
removed each round and replaced. Prints every round, then compares the SHA-256 of all shards with an undisturbed run of
one worker, and counts image ids.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

CHILD = [sys.executable, "-m", "imagenet_sd.generation.workers.engines.child"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def command(out: Path, options: argparse.Namespace) -> list[str]:
    return [
        *(sys.executable, "-m", "imagenet_sd", "generate", "--model", "embedded", "--prompt", "c_dc", "--scale", "2"),
        *("--steps", str(options.steps), "--images-per-class", str(options.images_per_class), "--shard-size", "20"),
        *("--workers", "1", "--out", str(out)),
    ]


def hashes(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.glob("data/*/*.parquet"))}


def start(out: Path, rank: int) -> subprocess.Popen:
    return subprocess.Popen([*CHILD, str(out), str(rank), "120"], stdout=subprocess.DEVNULL, env=ENVIRONMENT)


def kill_workers(disturbed: Path, shards: int, options: argparse.Namespace) -> None:
    """Rounds with workers of the local engine."""
    chance = random.Random(options.seed)
    workers = [start(disturbed, rank) for rank in range(3)]
    killed_at_work = 0
    for number in range(1, options.rounds + 1):
        moment = chance.uniform(1, 9)
        time.sleep(moment)
        k = chance.randrange(3)
        holders = {json.loads(p.read_text() or '{"pid": 0}')["pid"] for p in disturbed.glob(".work/leases/*.lease")}
        alive, at_work = workers[k].poll() is None, workers[k].pid in holders
        workers[k].send_signal(signal.SIGKILL)
        workers[k].wait()
        killed_at_work += at_work
        print(
            f"round {number:2d}: after {moment:.1f} s worker {k} killed "
            f"({'while it held a shard' if at_work else 'between shards' if alive else 'had ended'}), "
            f"{len(hashes(disturbed))} of {shards} shards done",
            flush=True,
        )
        workers[k] = start(disturbed, 3 * number + k)
    for worker in workers:
        worker.wait()
    print(f"{killed_at_work} of {options.rounds} kills hit a worker that held a shard")


def remove_nodes(disturbed: Path, shards: int, options: argparse.Namespace) -> None:
    """Rounds with nodes of a Ray cluster; a node's processes die with it."""
    from ray.cluster_utils import Cluster

    chance = random.Random(options.seed)
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
    process = subprocess.Popen(
        [*command(disturbed, options), "--engine", "ray"],
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT | {"RAY_ADDRESS": cluster.address},
    )
    time.sleep(10)  # the driver and the first tasks start
    for number in range(1, options.rounds + 1):
        moment = chance.uniform(1, 9)
        time.sleep(moment)
        k = chance.randrange(2)
        state = "running" if process.poll() is None else "the run had ended"
        cluster.remove_node(nodes[k], allow_graceful=False)
        print(
            f"round {number:2d}: after {moment:.1f} s node {k} removed ({state}), "
            f"{len(hashes(disturbed))} of {shards} shards done",
            flush=True,
        )
        nodes[k] = cluster.add_node(num_cpus=1)
    print(f"exit code of the run: {process.wait()}")
    cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--images-per-class", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        disturbed, quiet = Path(folder, "disturbed"), Path(folder, "quiet")
        started = time.monotonic()
        subprocess.run(command(quiet, options), check=True, env=ENVIRONMENT, capture_output=True)
        print(f"one worker took {time.monotonic() - started:.0f} s")
        expected = hashes(quiet)
        disturbed.mkdir()
        (disturbed / "dataset.json").write_bytes((quiet / "dataset.json").read_bytes())
        (kill_workers if options.engine == "local" else remove_nodes)(disturbed, len(expected), options)
        ids = [i for p in disturbed.glob("data/*/*.parquet") for i in pq.read_table(p)["image_id"].to_pylist()]
        equal = hashes(disturbed) == expected
        print(f"SHA-256 of all {len(expected)} shards equal: {equal}")
        print(f"image ids: {len(ids)}, different: {len(set(ids))}, expected: {10 * options.images_per_class}")
        sys.exit(0 if equal and len(ids) == len(set(ids)) == 10 * options.images_per_class else 1)


if __name__ == "__main__":
    main()
