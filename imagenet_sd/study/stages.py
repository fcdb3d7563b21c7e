"""What the three kinds of stages do: generate a dataset, train on it, evaluate the encoder."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagenet_sd import pipeline
from imagenet_sd.core.errors import ImagenetSDError, Interrupted
from imagenet_sd.core.files import write_json
from imagenet_sd.core.process import run_process
from imagenet_sd.core.typed import to_mapping
from imagenet_sd.data.open import open_images
from imagenet_sd.study.planner import Kind, Stage
from imagenet_sd.training.config import TrainConfig, with_epochs


def generate(stage: Stage, out: Path) -> dict[str, Any]:
    """Generate the dataset, with all the machine has."""
    summary = pipeline.generate(config=stage.study.generate, out=stage.folder)
    return {"num_images": summary["num_images"]}


def train(stage: Stage, out: Path) -> dict[str, Any]:
    """Train the encoder, in this process or in one process per GPU.

    Raises:
        Interrupted: a signal came; the checkpoint is saved.
    """
    import torch

    section = stage.study.train
    config = section.config()
    count = sum(sum(open_images(data, "train").group_sizes) for data in (stage.data, section.also) if data)
    if section.steps:
        config = with_epochs(config, nearest_epochs(section.steps, count, config.optimizer.batch_size))
    devices = torch.cuda.device_count()
    processes = section.processes or max(1, devices)
    if processes > 1:
        _launch(stage, config, processes, on_cpu=devices < processes)
    else:
        options = {"also": section.also, "validation": section.validation, "workers": section.workers}
        result = pipeline.train(config, stage.data, stage.folder, **options)
        if not result["finished"]:
            raise Interrupted(signal.SIGTERM)
    return {"num_images": count, "epochs": config.optimizer.epochs}


def nearest_epochs(steps: int, num_images: int, batch_size: int) -> int:
    """The whole number of epochs, at least one, whose number of steps comes nearest to `steps`."""
    return max(1, round(steps / max(1, num_images // batch_size)))


def _launch(stage: Stage, config: TrainConfig, processes: int, on_cpu: bool) -> None:
    """The command `train` in several processes on this machine; accelerate finds its ranks in what torchrun sets."""
    section = stage.study.train
    stage.folder.mkdir(parents=True, exist_ok=True)
    recipe = stage.folder / "train.yaml"
    write_json(recipe, to_mapping(config))  # JSON is YAML
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += ["-m", "imagenet_sd", "train", stage.data, "--recipe", str(recipe), "--out", str(stage.folder)]
    command += ["--also", section.also] if section.also else []
    command += ["--val", section.validation] if section.validation else []
    command += ["--workers", str(section.workers)]
    environment = {"OMP_NUM_THREADS": "1"} | os.environ | ({"ACCELERATE_USE_CPU": "true"} if on_cpu else {})
    if run_process(command, environment):
        raise ImagenetSDError(
            f"training in {processes} processes failed: {stage.folder}", "see the messages above; run again to go on"
        )


def evaluate(stage: Stage, out: Path) -> dict[str, Any]:
    """Evaluate the encoder; features are kept in the study's folder."""
    section = stage.section
    assert section is not None
    pipeline.evaluate(stage.encoder, section.data, section, out=stage.folder / stage.product, cache=out / "features")
    return {}


STAGES: dict[Kind, Callable[..., dict[str, Any]]] = {"generate": generate, "train": train, "evaluate": evaluate}
"""Kind -> what it does in the folder of a study; it returns the facts that the stamp keeps."""
