"""A fleet on one machine: 512 workers share 6,400 shards through the real lease and publishing code.

Only the generator is played: it sleeps. Workers are threads of a few processes. They are preempted at random, once per
20 shards of work on average, half of them with notice (the shard is given back) and half without (the lease goes
stale), and return after a pause. Prints the share of work that was wasted and the time against the ideal: whole shards,
no preemption.
"""

import argparse
import heapq
import json
import math
import multiprocessing
import os
import random
import resource
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from imagenet_sd.core import layout
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.plan import ModelIdentity, make_plan
from imagenet_sd.generation.workers.journal import Journal
from imagenet_sd.generation.workers.leases import Lease, LeaseBoard
from imagenet_sd.generation.workers.loop import WorkerLoop
from imagenet_sd.storage.dataset import Dataset
from imagenet_sd.storage.schema import Row
from imagenet_sd.storage.writer import write_shard

BATCHES = 8


class Preempted(BaseException):
    """A worker is taken away."""


@dataclass
class Tally:
    """What the workers of a process did: seconds of sleep, and (end, shard, seconds) of every published shard."""

    worked: float = 0.0
    preemptions: int = 0
    published: list[tuple[float, int, float]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class SleepingWorker:
    """Sleeps instead of generating; publishes a real, tiny shard."""

    def __init__(self, dataset: Dataset, seconds: float, tally: Tally, chance: random.Random):
        self.dataset, self.seconds, self.tally, self.chance = dataset, seconds, tally, chance
        self.left, self.silent = self.next_preemption(), False

    def next_preemption(self) -> float:
        """Seconds of work until the next preemption: memoryless, 20 shards on average."""
        return self.chance.expovariate(1 / (20 * self.seconds))

    def run_shard(self, i, on_batch):
        """Sleep a shard's time, batch by batch, and publish it, unless preempted."""
        begun = time.monotonic()
        try:
            for _ in range(BATCHES):
                pause = self.seconds / BATCHES
                if self.left <= pause:
                    time.sleep(self.left)
                    self.left, self.silent = self.next_preemption(), self.chance.random() < 0.5
                    raise Preempted
                self.left -= pause
                time.sleep(pause)
                on_batch(0)
        finally:
            spent = time.monotonic() - begun
            with self.tally.lock:
                self.tally.worked += spent
        plan = self.dataset.plan
        shard = plan.shard(i)
        rows = [
            Row(
                jpeg=b"", label=0, wnid=request.prompt.wnid, image_id=request.image_id, prompt="", template="",
                background="", seed=0, guidance_scale=2.0, num_inference_steps=1, model_id="sleep",
            )
            for request in plan.requests(shard)
        ]  # fmt: skip
        manifest = write_shard(self.dataset, shard, rows, {"seconds": self.seconds})
        with self.tally.lock:
            self.tally.published.append((time.monotonic(), i, spent))
        return manifest


class PlayedLease(Lease):
    """A lease that its worker leaves behind when it is taken away without notice."""

    player: SleepingWorker

    def release(self):
        """Give it back, or vanish."""
        if self.player.silent:
            os.close(self.descriptor)
        else:
            super().release()


class PlayedBoard(LeaseBoard):
    """Hands out such leases; the rest is the real board."""

    def __init__(self, folder: Path, name: str, ttl: float, worker: SleepingWorker):
        super().__init__(folder / layout.LEASES, name, ttl)
        self.player = worker

    def claim(self, name):
        """As the real one."""
        if (lease := super().claim(name)) is None:
            return None
        played = PlayedLease(lease.name, lease.path, lease.descriptor)
        played.player = self.player
        return played


def live(dataset: Dataset, rank: int, options: argparse.Namespace, tally: Tally) -> None:
    """One worker's life: work, be preempted, come back, until no shard is left."""
    seconds, ttl = options.seconds, 0.15 * options.seconds
    chance = random.Random(f"{options.seed} {rank}")
    worker = SleepingWorker(dataset, seconds, tally, chance)
    while True:
        worker.silent = False
        name = f"w{rank}-{chance.randrange(10**9)}"
        board = PlayedBoard(dataset.folder, name, ttl, worker)
        try:
            with Journal(dataset.folder, name, ttl / 3) as journal:
                loop = WorkerLoop(dataset, worker.run_shard, board, journal, rank=rank, poll=seconds / 2)
                loop.run()
            board.close()
            return
        except Preempted:
            with tally.lock:
                tally.preemptions += 1
            time.sleep(chance.expovariate(1 / (options.pause * seconds)))


def crowd(dataset: Dataset, ranks: range, options: argparse.Namespace, results) -> None:
    """One process: its workers, and then what they did."""
    tally = Tally()
    threads = [threading.Thread(target=live, args=(dataset, rank, options, tally)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((tally.worked, tally.preemptions, tally.published))


def model(options: argparse.Namespace, seed: int) -> tuple[float, float]:
    """The same rules as discrete events, without files: (time over ideal, wasted share) of one seed."""
    chance = random.Random(seed)
    queue, lost, done, end, waste = options.shards, [], 0, 0.0, 0.0
    left = [chance.expovariate(1 / 20) for _ in range(options.workers)]  # work until the next preemption, in shards
    events: list[tuple[float, int, str]] = [(0.0, worker, "free") for worker in range(options.workers)]
    while done < options.shards:
        now, worker, what = heapq.heappop(events)
        if what == "preempted":  # half of them with notice; else the lease has to grow stale
            heapq.heappush(lost, now + (0 if chance.random() < 0.5 else chance.uniform(0.15, 0.2)))
            left[worker] = chance.expovariate(1 / 20)
            heapq.heappush(events, (now + chance.expovariate(1 / options.pause), worker, "free"))
            continue
        if what == "done":
            done, end = done + 1, now
        if queue:
            queue -= 1
        elif lost and lost[0] <= now:
            heapq.heappop(lost)
        else:  # looks again
            heapq.heappush(events, (now + chance.uniform(0.02, 0.08), worker, "free"))
            continue
        if left[worker] < 1:
            waste += left[worker]
            heapq.heappush(events, (now + left[worker], worker, "preempted"))
        else:
            left[worker] -= 1
            heapq.heappush(events, (now + 1, worker, "done"))
    return end / math.ceil(options.shards / options.workers), waste / (options.shards + waste)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=int, metavar="SEEDS", default=0, help="a discrete-event model, so many seeds")
    parser.add_argument("--workers", type=int, default=512)
    parser.add_argument("--shards", type=int, default=6400)
    parser.add_argument("--seconds", type=float, default=25.0, help="how long a shard takes")
    parser.add_argument("--pause", type=float, default=0.1, help="mean time until a worker returns, in shards")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.model:
        ratios, wasted = zip(*(model(options, seed) for seed in range(options.model)), strict=True)
        tenths = statistics.quantiles(ratios, n=10)
        print(json.dumps({"ratio_median": statistics.median(ratios), "ratio_worst_tenth": tenths[-1],
                          "wasted_share": statistics.mean(wasted)}, indent=2))  # fmt: skip
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        config = GenerationConfig(model="embedded", images_per_class=options.shards * 2 // 10, shard_size=2)
        _, document = make_plan(config, ModelIdentity(model_id="sleep"))
        dataset = Dataset.from_document(Path(folder), document)
        assert dataset.plan.num_shards == options.shards
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        started = time.monotonic()  # one clock for all processes
        for first in range(options.processes):
            ranks = range(first, options.workers, options.processes)
            context.Process(target=crowd, args=(dataset, ranks, options, results)).start()
        tallies = [results.get(timeout=100 * options.seconds) for _ in range(options.processes)]
        assert len(dataset.listed_shards()) == options.shards
    worked = sum(tally[0] for tally in tallies)
    published = sorted(entry for tally in tallies for entry in tally[2])
    first_of_each: dict[int, tuple[float, float]] = {}
    for end, shard, spent in published:
        first_of_each.setdefault(shard, (end, spent))
    assert len(first_of_each) == options.shards
    taken = max(end for end, _ in first_of_each.values()) - started
    useful = sum(spent for _, spent in first_of_each.values())
    ideal = math.ceil(options.shards / options.workers) * options.seconds
    print(
        json.dumps(
            {
                "workers": options.workers,
                "shards": options.shards,
                "seconds_per_shard": options.seconds,
                "preemptions": sum(tally[1] for tally in tallies),
                "shards_drawn_twice": len(published) - options.shards,
                "wasted_share": round(1 - useful / worked, 4),
                "mean_seconds_of_a_shard": round(useful / options.shards, 3),
                "seconds": round(taken, 1),
                "ideal_seconds": ideal,
                "ratio": round(taken / ideal, 4),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
