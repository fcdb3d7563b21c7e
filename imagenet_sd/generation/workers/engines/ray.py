"""The Ray engine: one Ray task per shard, on the cluster of $RAY_ADDRESS or a local one; the files are the same.

Ray distributes the shards and runs the tasks of a lost node again; the files alone say what is done.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagenet_sd.core.errors import DeviceError, GenerationError, ImagenetSDError, one_line
from imagenet_sd.generation.diffusion.options import Offload
from imagenet_sd.generation.workers.status import RunProgress
from imagenet_sd.generation.workers.stop import Stop
from imagenet_sd.storage.dataset import Dataset

_RETRIES = 20
"""Of a task whose process or node is lost; a fault of the generator is not retried by Ray."""
_LOOPS: dict[tuple[str, str, int, str], tuple[Any, Any]] = {}
"""The loop of this Ray worker and the context that it is open in: one, since its model fills the GPU."""


def generate_shard(folder: str, fingerprint: str, rounds: int, offload: Offload, i: int) -> int | None:
    """Generate one shard in a Ray worker, which keeps its model for the next; returns its number if it did so."""
    from imagenet_sd.generation.batch_size import free_memory
    from imagenet_sd.generation.workers.engines.child import open_loop

    key = (folder, fingerprint, rounds, offload)  # a Ray worker may outlive a run, and meet a folder that has grown
    try:
        if key not in _LOOPS:
            while _LOOPS:
                with suppress(OSError):  # the folder of an earlier run may be gone
                    _LOOPS.popitem()[1][0].__exit__(None, None, None)
            free_memory()
            context = open_loop(Dataset.open(Path(folder)), offload=offload)
            _LOOPS[key] = (context, context.__enter__())  # stays open as long as the process lives
        loop = _LOOPS[key][1]
        if loop.dataset.is_done(loop.plan.shard(i)):
            return None
        return None if loop.attempt(i) else i
    except DeviceError:
        os._exit(2)  # a new process may be able to use the GPU: Ray runs the task of a lost one again


def run_ray(
    dataset: Dataset, todo: list[int], gpus: float | None, progress: RunProgress, offload: Offload = "none"
) -> None:
    """Generate shards as Ray tasks.

    Args:
        dataset: what to generate; every node sees its folder under the same path.
        todo: numbers of the shards to generate.
        gpus: GPUs per task; None: 1 where the cluster has any, else 0. A task takes one CPU.
        progress: shows how far the dataset is.
        offload: see `make_worker`.

    Raises:
        ImagenetSDError: Ray is not installed, or a task met an error that every other would meet too.
        Interrupted: a signal came; the tasks in progress are cancelled.
    """
    try:
        import ray
        from ray.exceptions import RayTaskError, WorkerCrashedError
    except ImportError:
        raise ImagenetSDError("the ray engine needs Ray", "install it: pip install 'imagenet-sd[ray]'") from None
    if ours := not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, include_dashboard=False)
    waiting: list[Any] = []
    try:
        if gpus is None:
            gpus = 1 if ray.cluster_resources().get("GPU") else 0
        environment = {} if gpus else {"env_vars": {"OMP_NUM_THREADS": "1"}}
        task = ray.remote(generate_shard).options(  # pyright: ignore[reportAttributeAccessIssue]
            num_cpus=1, num_gpus=gpus, max_retries=_RETRIES, runtime_env=environment
        )
        plan = (str(dataset.folder.resolve()), dataset.fingerprint, dataset.plan.rounds, offload)
        waiting = [task.remote(*plan, i) for i in todo]
        stop = Stop()
        with stop.listening():  # after `ray.init`, which sets a handler of its own
            while waiting:
                stop.check()
                ready, waiting = ray.wait(waiting, timeout=1)
                progress.generated.update(i for i in ray.get(ready) if i is not None)
                progress.update()
    except WorkerCrashedError:
        raise GenerationError(
            f"a Ray task died {_RETRIES + 1} times",
            "read Ray's log: a GPU may have failed; with too little memory, run fewer tasks at a time",
        ) from None
    except RayTaskError as error:
        raise ImagenetSDError(
            f"a Ray task failed: {one_line(error.cause, 400)}", "fix it and run the same command again"
        ) from None
    finally:
        for left in waiting:
            ray.cancel(left, force=True)
        if ours:
            ray.shutdown()
