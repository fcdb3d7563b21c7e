"""The local engine: workers on this machine, one per GPU or one single-threaded worker per CPU core.

Any number of these may run on one dataset folder, on any number of machines; a launcher's rank only spreads them.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from imagenet_sd.core.errors import GenerationError, ImagenetSDError, Interrupted
from imagenet_sd.core.progress import note
from imagenet_sd.generation.diffusion.options import Offload
from imagenet_sd.generation.workers.engines.child import open_loop
from imagenet_sd.generation.workers.leases import TTL
from imagenet_sd.generation.workers.status import RunProgress
from imagenet_sd.generation.workers.stop import Stop
from imagenet_sd.storage.dataset import Dataset

_RANKS = ("RANK", "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "SLURM_PROCID")
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
_RESPAWNS = 3


def lease_seconds() -> float:
    """Seconds after which the lease of a silent worker may be stolen: $IMAGENET_SD_LEASE_SECONDS, else 120."""
    return float(os.environ.get("IMAGENET_SD_LEASE_SECONDS") or TTL)


def rank() -> int:
    """This process's number among those that a launcher started; 0 without one."""
    return next((int(os.environ[name]) for name in _RANKS if os.environ.get(name, "").isdigit()), 0)


def run_local(dataset: Dataset, workers: int, progress: RunProgress, todo: int, offload: Offload = "none") -> None:
    """Generate what is missing with workers on this machine.

    Args:
        dataset: what to generate; its dataset.json is written.
        workers: number of workers; 0: every visible GPU, or every CPU core. Under `accelerate launch` this process
            is one worker itself.
        progress: shows how far the dataset is.
        todo: number of shards to generate; more workers are not started.
        offload: see `make_worker`.

    Raises:
        Interrupted: by SIGINT or SIGTERM; the shards in progress were given back.
        ImagenetSDError: no worker could work.
    """
    launched = "LOCAL_RANK" in os.environ
    devices = [] if launched else _visible_gpus()
    workers = 1 if launched else workers or min(len(devices) or cores(), max(1, todo))
    if offload != "none":
        _note_offload()
    stop = Stop()
    with stop.listening():
        if workers == 1:
            reports: Any = {"on_batch": progress.on_batch, "on_wait": progress.on_wait, "offload": offload}
            with open_loop(dataset, rank=rank(), ttl=lease_seconds(), stop=stop, **reports) as loop:
                loop.run()
        else:
            environments = [_environment(devices, k) for k in range(workers)]
            _Supervisor(dataset, environments, progress, stop, offload).run()


def _note_offload() -> None:
    """Say where offloading has no effect."""
    import torch

    if not torch.accelerator.is_available():
        note("note: --offload has no effect on a CPU, in whose memory the weights are anyway")


def _visible_gpus() -> list[str]:
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [name for name in named.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(k) for k in range(torch.cuda.device_count())]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _environment(devices: list[str], slot: int) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key not in _LAUNCHER}
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    else:
        environment["OMP_NUM_THREADS"] = "1"
    return environment


@dataclass(slots=True)
class _Slot:
    """One place for a worker: its process and who listens to it, how often it was started, the error it reported."""

    number: int
    environment: dict[str, str]
    process: subprocess.Popen[str] | None = None
    listener: threading.Thread | None = None
    starts: int = 0
    error: dict[str, Any] = field(default_factory=dict)


class _Supervisor:
    """Starts the workers, starts one that was killed again, shows one progress bar, passes signals on."""

    def __init__(
        self,
        dataset: Dataset,
        environments: list[dict[str, str]],
        progress: RunProgress,
        stop: Stop,
        offload: Offload = "none",
    ):
        self.dataset, self.progress, self.stop, self.offload = dataset, progress, stop, offload
        self.slots = [_Slot(number, environment) for number, environment in enumerate(environments)]
        self.names: set[str] = set()
        """Names of the workers started here."""

    def run(self) -> None:
        try:
            for slot in self.slots:
                self._start(slot)
            signalled = False
            while any(slot.process is not None for slot in self.slots):
                for slot in self.slots:
                    self._restart_if_killed(slot)
                if self.stop.signum and not signalled:
                    self._signal(signal.SIGTERM)
                    signalled = True
                self.progress.update()
                time.sleep(0.1)
        finally:  # after a second Ctrl-C, or an error of this process: no worker is left behind
            self._signal(signal.SIGKILL)
            for slot in self.slots:
                if slot.listener is not None:
                    slot.listener.join(timeout=5)  # what a worker said last
        if self.stop.signum:
            raise Interrupted(self.stop.signum)
        errors = [slot.error for slot in self.slots if slot.error]
        dead = [slot for slot in self.slots if slot.starts > _RESPAWNS]
        if not (errors or dead) or not self.dataset.unfinished():
            return
        if errors:
            raise ImagenetSDError(str(errors[0].get("error")), str(errors[0].get("hint")))
        raise GenerationError(
            f"{len(dead)} of {len(self.slots)} workers died {_RESPAWNS + 1} times",
            "read the lines above; with too little memory, give fewer --workers",
        )

    def _start(self, slot: _Slot) -> None:
        if slot.listener is not None:
            slot.listener.join(timeout=5)  # the last process said its last
        slot.starts, slot.error = slot.starts + 1, {}
        number = rank() * len(self.slots) + slot.number
        command = [sys.executable, "-m", "imagenet_sd.generation.workers.engines.child"]
        slot.process = subprocess.Popen(
            [*command, str(self.dataset.folder), str(number), str(lease_seconds()), self.offload],
            stdout=subprocess.PIPE,
            text=True,
            env=slot.environment,
            start_new_session=True,  # a Ctrl-C reaches this process alone, which passes it on in order
        )
        slot.listener = threading.Thread(target=self._listen, args=(slot, slot.process), daemon=True)
        slot.listener.start()

    def _listen(self, slot: _Slot, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue
                if "error" in message:
                    slot.error = message
                elif "worker" in message:
                    self.names.add(message["worker"])
                elif "waiting" in message:
                    others = {name: who for name, who in message["waiting"].items() if who not in self.names}
                    if len(others) == len(message["waiting"]):  # else one of our own is at work
                        self.progress.on_wait(others)
                elif "images_done" in message:
                    self.progress.note(process.pid, message["shard"], message["images_done"])

    def _restart_if_killed(self, slot: _Slot) -> None:
        if slot.process is None or slot.process.poll() is None:
            return
        code, slot.process = slot.process.returncode, None
        known = code == 0 or code == 1 or self.stop.signum
        if not known and self.dataset.unfinished() and slot.starts <= _RESPAWNS:
            note(f"worker {slot.number} ended with {code}; started again")
            self._start(slot)

    def _signal(self, number: int) -> None:
        for slot in self.slots:
            if slot.process is not None and slot.process.poll() is None:
                slot.process.send_signal(number)
