"""Checks of training: interrupted and resumed in mixed precision, and one process of torchrun."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from gpu_checks.check import Check, Outcome, Setting, passed_if
from gpu_checks.children import TORCHRUN, Child
from imagenet_sd.core.files import sha256_file

# Everything with a state that a checkpoint must hold: momentum, a momentum encoder, a memory bank, a moving average.
RECIPE = [
    "optimizer.batch_size=20", "optimizer.warmup_epochs=1", "optimizer.base_lr=0.5", "objective.loss=ocm",
    "model.projector_layers=1", "model.projector_hidden=32", "model.projector_bottleneck=16",
    "objective.memory_size=64", "crops.local_crops_number=2", "crops.local_crop_size=16", "ema_weights=0.9",
]  # fmt: skip
DATA = "builtin:faces"
TRAINING = "training"
DDP_TOLERANCE = 1e-3
"""Largest distance of the weights after one process of torchrun, relative to their length, where bits differ."""


def _task(setting: Setting, **runs: int) -> str:
    settings = [*RECIPE, f"optimizer.epochs={1 if setting.reduced else 4}"]
    return json.dumps({"data": DATA, "settings": settings, "workers": 2 if setting.on_gpu else 0, "runs": runs})


def _train(setting: Setting, folder: Path, launcher: tuple[str, ...] = (), **runs: int) -> dict[str, Any]:
    with Child(setting, "train", folder, _task(setting, **runs), launcher=launcher) as child:
        return json.loads(child.expect("trained"))


def _sha256(run: Path) -> str:
    return sha256_file(run / "encoder.safetensors")


def resume(setting: Setting) -> Outcome:
    """A run that is interrupted and goes on ends with the bytes of one that is not."""
    folder = setting.folder / TRAINING
    step = 2 if setting.reduced else 13  # in the middle of an epoch of 5 steps
    facts = _train(setting, folder, whole=0, again=0, resumed=step)
    hashes = {name: _sha256(folder / name) for name in ("whole", "again", "resumed")}
    interrupted = facts["interrupted"]["resumed"]
    figures = {"sha256": hashes, "interrupted": interrupted, "interrupted_after_step": step, "precision": setting.dtype}
    if not interrupted:
        return passed_if(False, "the run was not interrupted", figures)
    if hashes["whole"] != hashes["again"]:
        return passed_if(False, "two undisturbed runs differ: a kernel is not deterministic", figures)
    equal = hashes["whole"] == hashes["resumed"]
    remark = f"interrupted after step {step} in {setting.dtype}: encoder {'equal' if equal else 'NOT EQUAL'} bit by bit"
    return passed_if(equal, remark, figures)


def ddp(setting: Setting) -> Outcome:
    """One process under torchrun trains what a process without it does.

    On a CPU accelerate distributes the model of a single process. On GPUs it takes two, which one GPU does not have:
    what is checked there is that the launcher changes nothing.
    """
    folder = setting.folder / TRAINING
    runs = [folder / name for name in ("whole", "launched")]
    if not (runs[0] / "result.json").exists():  # else it is that of the check before
        _train(setting, folder, whole=0)
    (wrapped,) = _train(setting, folder, tuple(TORCHRUN), launched=0)["wrapped"]
    equal = _sha256(runs[0]) == _sha256(runs[1])
    a, b = (_weights(run) for run in runs)
    distance = float((a - b).norm() / a.norm())
    figures = {"bits_equal": equal, "relative_distance": distance, "bound": DDP_TOLERANCE, "wrapped": wrapped}
    if wrapped != "DistributedDataParallel" and not setting.on_gpu:
        return passed_if(False, f"torchrun's model is not distributed: it is of the class {wrapped}", figures)
    remark = "encoder equal bit by bit" if equal else f"weights {distance:.1e} apart (bound {DDP_TOLERANCE:.0e})"
    return passed_if(distance <= DDP_TOLERANCE, remark, figures)


def _weights(run: Path) -> torch.Tensor:
    return torch.cat([weight.double().flatten() for weight in load_file(run / "encoder.safetensors").values()])


CHECKS = [
    Check(name="training-resume", about="training interrupted and resumed, bit by bit", seconds=90, run=resume),
    Check(name="ddp", about="one process of torchrun against none", seconds=90, run=ddp),
]
