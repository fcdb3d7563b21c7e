"""From data to an encoder. Torch is imported inside the function that needs it."""

from pathlib import Path
from typing import Any

from imagenet_sd.core.specs import DataSpec
from imagenet_sd.training.config import Tracker, TrainConfig


def train(
    config: TrainConfig,
    data: str,
    run: Path,
    *,
    also: str = "",
    validation: str = "",
    workers: int = -1,
    stream: bool = False,
    log_with: Tracker = "tensorboard",
) -> dict[str, Any]:
    """Train an encoder on a dataset, from the checkpoint in `run` if there is one.

    Args:
        config: the training recipe.
        data: data spec of the training images (their train split).
        run: folder of the run.
        also: data spec of more training images of the same classes, added to `data`; "" for none.
        validation: data spec of real images (their test split); "" for none.
        workers: data workers per process; -1: none on a CPU, else up to 8.
        stream: read the shards of `data` as they appear; one epoch.
        log_with: experiment tracker for the metrics, beside metrics.jsonl; any that accelerate knows and that is
            installed.

    Returns:
        `run`, `finished`, `epochs`, `validation` and the last epoch's metrics.

    Raises:
        TrainingError: data and recipe do not fit (nothing was written then), the run folder holds another run, or
            training went wrong in a known way.
    """
    from imagenet_sd.training.run import train_run

    held_out = DataSpec.parse(validation) if validation else None
    more = DataSpec.parse(also) if also else None
    return train_run(
        config,
        DataSpec.parse(data),
        run,
        also=more,
        validation=held_out,
        workers=workers,
        stream=stream,
        log_with=log_with,
    )
