"""Workers killed with SIGKILL at random moments, on every engine: are the bytes always those of one undisturbed worker?

Real processes, the embedded generator, real files. Each run generates one dataset, with `generate --workers 3`, with
two ranks of torchrun, or with Ray; every few seconds one of its workers is killed, whatever it is doing. Engines start
lost workers again themselves; where a run gives up (three restarts of a worker), the same command goes on.
Runs follow each other until every engine has had its share of the kills. Prints each kill, and for each run one SHA-256
over all shards; ends with exit code 1 if any of them differs or an image id is missing or there twice.
"""

import argparse
import hashlib
import importlib.util
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

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
RUN = [sys.executable, "-m", "imagenet_sd"]
TORCHRUN = [sys.executable, *"-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 999".split()]


def command(engine: str, out: Path, options: argparse.Namespace) -> list[str]:
    generate = [
        *"generate --model embedded --classes digits-10 --prompt c_dc --scale 2 --out".split(),
        *(
            str(out),
            "--steps",
            str(options.steps),
            "--images-per-class",
            str(options.images_per_class),
            "--shard-size",
            "20",
        ),
    ]
    return {
        "one": [*RUN, *generate, "--workers", "1"],
        "local": [*RUN, *generate, "--workers", "3"],
        "launcher": [*TORCHRUN, "-m", "imagenet_sd", *generate],
        "ray": [*RUN, *generate, "--engine", "ray"],
    }[engine]


def hashes(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.glob("data/*/*.parquet"))}


def digest(out: Path) -> str:
    """One SHA-256 over the names and contents of all shards."""
    return hashlib.sha256(json.dumps(hashes(out)).encode()).hexdigest()


def workers(out: Path) -> dict[int, str]:
    """Process id -> last event of the workers that live, from their journals; whichever engine started them."""
    found = {}
    for path in out.glob(".work/events/*.jsonl"):
        pid, lines = int(path.stem.split("-")[-2]), path.read_text().splitlines()
        try:
            os.kill(pid, 0)
            event = json.loads(lines[-1])["event"] if lines else "start"
        except (ProcessLookupError, ValueError):
            continue
        if event != "stop":
            found[pid] = event
    return found


def complete(out: Path, shards: int) -> bool:
    return len(list(out.glob("data/*/.manifests/*.json"))) == shards


def disturbed_run(engine: str, out: Path, shards: int, kills: int, chance: random.Random, options) -> tuple[int, int]:
    """Generate one dataset and kill up to `kills` workers meanwhile; (kills, those that hit a shard in progress)."""
    killed, at_work, starts = set(), 0, 0
    log = out.with_suffix(".log")
    process = None
    while process is None or process.poll() is None or not complete(out, shards):
        if process is None or process.poll() is not None:
            starts += 1
            assert starts < 50 + kills, f"{engine} makes no progress:\n{log.read_text()[-2000:]}"
            with open(log, "a") as file:
                process = subprocess.Popen(command(engine, out, options), env=ENVIRONMENT, stdout=file, stderr=file)
        time.sleep(chance.uniform(0.2, options.pause))
        victims = {pid: event for pid, event in workers(out).items() if pid not in killed}
        if len(killed) < kills and victims and not complete(out, shards):
            pid = chance.choice(sorted(victims))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.add(pid)
            at_work += victims[pid] in ("claim", "retry")
            print(
                f"{engine}: kill {len(killed)} of a worker after its event {victims[pid]!r}, "
                f"{len(hashes(out))} of {shards} shards done",
                flush=True,
            )
    return len(killed), at_work


def main() -> None:
    engines = ["local", "launcher", *["ray"] * bool(importlib.util.find_spec("ray"))]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="+", choices=["local", "launcher", "ray"], default=engines)
    parser.add_argument("--kills", type=int, default=60, help="of all engines together")
    parser.add_argument("--pause", type=float, default=6.0, help="at most so many seconds between two kills")
    parser.add_argument("--images-per-class", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, total, total_at_work, good = random.Random(options.seed), 0, 0, True
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        quiet = Path(folder, "quiet")
        subprocess.run(command("one", quiet, options), check=True, env=ENVIRONMENT, capture_output=True)
        expected, shards = digest(quiet), len(hashes(quiet))
        print(f"one worker, undisturbed: {shards} shards in {time.monotonic() - started:.0f} s, SHA-256 {expected}")
        for engine in options.engines:
            share, runs = -(-options.kills // len(options.engines)), 0
            while share > 0:
                runs += 1
                out = Path(folder, f"{engine}-{runs}")
                killed, at_work = disturbed_run(engine, out, shards, share, chance, options)
                share, total, total_at_work = share - killed, total + killed, total_at_work + at_work
                ids = [i for p in out.glob("data/*/*.parquet") for i in pq.read_table(p)["image_id"].to_pylist()]
                whole = len(ids) == len(set(ids)) == 10 * options.images_per_class
                good = good and whole and digest(out) == expected
                print(
                    f"{engine}, run {runs}: {killed} kills, SHA-256 {digest(out)}, all images once: {whole}", flush=True
                )
        print(
            f"{total} kills ({total_at_work} while a shard was in progress) on {', '.join(options.engines)} in "
            f"{(time.monotonic() - started) / 60:.0f} minutes: {'one SHA-256' if good else 'DIFFERENT BYTES'}"
        )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
