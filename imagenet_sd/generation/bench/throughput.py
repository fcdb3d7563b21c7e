"""Images per second of the whole machine: single-threaded processes at the same time, as `generate` runs on a CPU.

Started as `python -m imagenet_sd.generation.bench.throughput` a process is one of them: it reads its settings
from standard input, loads its model, says so, and generates one round for every further line.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from imagenet_sd.core.errors import GenerationError
from imagenet_sd.generation.bench.config import BenchConfig


def machine_seconds(config: BenchConfig, workers: int, on_round: Callable[[], object]) -> list[float]:
    """Wall seconds of every round, in which each worker generates `images_per_round` images as JPEG files.

    All workers have their model loaded and warm when the first round starts. A round starts for all at once and lasts
    until the last one is done.

    Args:
        config: resolved settings.
        workers: number of processes.
        on_round: called after each round.

    Raises:
        GenerationError: a worker ended early.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "imagenet_sd.generation.bench.throughput"]
    processes: list[subprocess.Popen[str]] = []
    try:
        for _ in range(workers):
            processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            )
        _send(processes, json.dumps(dataclasses.asdict(config)))
        _expect(processes, "ready")
        seconds = []
        for _ in range(config.rounds):
            started = time.perf_counter()
            _send(processes, "go")
            _expect(processes, "done")
            seconds.append(time.perf_counter() - started)
            on_round()
        return seconds
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _send(processes: list[subprocess.Popen[str]], line: str) -> None:
    for process in processes:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # `_expect` reports it
            print(line, file=process.stdin, flush=True)


def _expect(processes: list[subprocess.Popen[str]], word: str) -> None:
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline().strip() != word:
            raise GenerationError(
                f"a worker of the benchmark ended with code {process.wait()}",
                "read the lines above; with too little memory, give fewer --workers",
            )


def main() -> None:
    """Be one worker."""
    import torch

    from imagenet_sd.generation.bench.variants import load_stock, our_generator
    from imagenet_sd.generation.diffusion.loading import set_up_cpu_worker

    config = BenchConfig(**json.loads(sys.stdin.readline()))
    set_up_cpu_worker()
    generator = our_generator(config, load_stock(config, torch.device("cpu")))
    rounds = config.requests()
    generator.generate(rounds[0][: config.batch_size])
    print("ready", flush=True)
    for requests in rounds:
        if not sys.stdin.readline():
            return
        for _ in generator.generate_encoded(requests):
            pass
        print("done", flush=True)


if __name__ == "__main__":
    main()
