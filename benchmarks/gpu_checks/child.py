"""What the checks do in processes of their own: write shards, train. Each imports what it needs and no more.

- `shards FOLDER FIRST STEP` says `ready`, waits for a line, writes every STEP-th shard, and says `done`.
- `train FOLDER JSON` trains runs one after the other, and says `trained` and what they came to.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from imagenet_sd.pipeline import train


def write_shards(folder: Path, first: int, step: int) -> None:
    """Write shards `first`, `first` + `step`, ... of the dataset."""
    from imagenet_sd.generation.worker import make_worker
    from imagenet_sd.storage.dataset import Dataset

    worker = make_worker(Dataset.open(folder))
    say("ready")
    sys.stdin.readline()
    for i in range(first, worker.dataset.plan.num_shards, step):
        worker.run_shard(i)
    say("done")


def train_runs(folder: Path, task: dict[str, Any]) -> None:
    """Train the runs of a task, each in a folder of its own, with kernels whose bits are the same each time.

    Args:
        folder: of the folders.
        task: `data`, `settings` of the recipe `small`, `workers` for the data, and `runs`: the step after which each
            is interrupted, and goes on from its checkpoint; 0 for none.
    """
    import torch

    from imagenet_sd.training.loop import Trainer
    from imagenet_sd.training.recipes import load_train_config

    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when the first matrix product runs
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    config, wrapped = load_train_config("small", task["settings"]), []
    fit = Trainer.fit

    def fit_and_tell(self: Trainer) -> bool:
        wrapped.append(type(self.wrapped).__name__)
        return fit(self)

    Trainer.fit = fit_and_tell
    facts: dict[str, Any] = {"interrupted": {}}
    for name, step in task["runs"].items():
        run = folder / name
        if step:
            interrupt_after(step)
            stopped = train(config, task["data"], run, workers=task["workers"], log_with="none")
            facts["interrupted"][name] = not stopped["finished"] and (run / "checkpoint.safetensors").exists()
        train(config, task["data"], run, workers=task["workers"], log_with="none")
    say("trained " + json.dumps(facts | {"wrapped": wrapped}))


def interrupt_after(last: int) -> None:
    """SIGTERM comes to this process while it logs that step."""
    from imagenet_sd.training.runlog import RunLog

    log = RunLog.step

    def log_and_interrupt(self: RunLog, step: int, loss: float, learning_rate: float) -> None:
        log(self, step, loss, learning_rate)
        if step == last:
            RunLog.step = log
            signal.raise_signal(signal.SIGTERM)

    RunLog.step = log_and_interrupt


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    what, folder, *rest = sys.argv[1:]
    if what == "shards":
        write_shards(Path(folder), *map(int, rest))
    else:
        train_runs(Path(folder), json.loads(rest[0]))


if __name__ == "__main__":
    main()
