"""Three workers, one killed with SIGKILL at a random moment each round and replaced; are the bytes those of one worker?

Real processes, the embedded generator, real files. Prints every round, then compares the SHA-256 of all shards with
an undisturbed run of one worker, and counts image ids.
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

CHILD = [sys.executable, "-m", "imagenet_sd.generation.engines.child"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def command(out: Path, images_per_class: int, steps: int) -> list[str]:
    return [
        *(sys.executable, "-m", "imagenet_sd", "generate", "--model", "embedded", "--prompt", "c_dc", "--scale", "2"),
        *("--steps", str(steps), "--images-per-class", str(images_per_class), "--shard-size", "20"),
        *("--workers", "1", "--out", str(out)),
    ]


def hashes(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.glob("data/*/*.parquet"))}


def start(out: Path, rank: int) -> subprocess.Popen:
    return subprocess.Popen([*CHILD, str(out), str(rank), "120"], stdout=subprocess.DEVNULL, env=ENVIRONMENT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--images-per-class", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        disturbed, quiet = Path(folder, "disturbed"), Path(folder, "quiet")
        started = time.monotonic()
        subprocess.run(
            command(quiet, options.images_per_class, options.steps), check=True, env=ENVIRONMENT, capture_output=True
        )
        alone = time.monotonic() - started
        disturbed.mkdir()
        (disturbed / "dataset.json").write_bytes((quiet / "dataset.json").read_bytes())
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
                f"{len(hashes(disturbed))} of {len(hashes(quiet))} shards done",
                flush=True,
            )
            workers[k] = start(disturbed, 3 * number + k)
        for worker in workers:
            worker.wait()
        ids = [i for p in disturbed.glob("data/*/*.parquet") for i in pq.read_table(p)["image_id"].to_pylist()]
        equal = hashes(disturbed) == hashes(quiet)
        print(
            f"{killed_at_work} of {options.rounds} kills hit a worker that held a shard; one worker took {alone:.0f} s"
        )
        print(f"SHA-256 of all {len(hashes(quiet))} shards equal: {equal}")
        print(f"image ids: {len(ids)}, different: {len(set(ids))}, expected: {10 * options.images_per_class}")
        sys.exit(0 if equal and len(ids) == len(set(ids)) == 10 * options.images_per_class else 1)


if __name__ == "__main__":
    main()
