"""Training runs, weights and features: how they are made, mutated and read."""

import io
import random
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from imagenet_sd.core.typed import to_mapping
from imagenet_sd.evaluation.encoders import load_checkpoint as load_encoder
from imagenet_sd.evaluation.features import _read_part
from imagenet_sd.pipeline import train
from imagenet_sd.report.collect import collect
from imagenet_sd.training.checkpoint import load_checkpoint, save_checkpoint
from imagenet_sd.training.export import load_run
from imagenet_sd.training.recipes import load_train_config, read_description
from imagenet_sd.training.run import _agree, read_result
from imagenet_sd.training.runlog import read_metrics
from tests.fuzz.mutate import _VALUES, mutate_bytes, mutate_json, mutate_safetensors, mutate_yaml
from tests.fuzz.run import Format
from tests.fuzz.samples import each, write

TINY_RUN = ["optimizer.epochs=1", "optimizer.warmup_epochs=0", "optimizer.batch_size=20", "model.backbone=test_resnet",
            "model.small_images=false"]  # fmt: skip


def make_run(folder: Path) -> None:
    """A finished run."""
    config = load_train_config("small", TINY_RUN)
    train(config, "builtin:faces@per_class=10", folder, validation="builtin:faces@per_class=5", log_with="none")


def read_run(folder: Path) -> None:
    """As `evaluate`, `report` and a second `train` read it."""
    each(
        lambda: load_run(folder),
        lambda: collect([folder]),
        lambda: read_metrics(folder / "metrics.jsonl"),
        lambda: _agree(folder, read_description(folder)),
        lambda: read_result(folder),
    )


def _model() -> tuple[dict[str, torch.nn.Module], torch.optim.Optimizer]:
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"model": module}, optimizer


def make_checkpoint(folder: Path) -> None:
    """A checkpoint of training."""
    save_checkpoint(folder / "c.safetensors", *_model(), {"epoch": 1, "step": 0, "bad_images": 0})


def read_checkpoint(folder: Path) -> None:
    """Put it back, and count on from its counters."""
    counters = load_checkpoint(folder / "c.safetensors", *_model())
    assert all(isinstance(counters[name], int) and counters[name] >= 0 for name in ("epoch", "step", "bad_images"))


def _weights() -> dict[str, torch.Tensor]:
    return {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}


def make_pth(folder: Path) -> None:
    """Weights as torch saves them."""
    torch.save({"state_dict": _weights(), "epoch": 1}, folder / "c.pth")


def mutate_pth(data: bytes, rng: random.Random) -> bytes:
    """Half of the time another object, else the bytes."""
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    leaf = rng.choice([torch.zeros(2, 3), torch.zeros(0), torch.zeros(2, dtype=torch.int8), torch.zeros(2).to_sparse()])
    weights: Any = {rng.choice(["weight", "module.weight", "", 0, None, ("a",)]): leaf, "bias": torch.zeros(2)}
    value = rng.choice([weights, [weights], leaf, {"state_dict": weights}, {"model": {"state_dict": [leaf]}}, *_VALUES])
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=rng.random() < 0.7)
    return buffer.getvalue()


def read_features(folder: Path) -> None:
    """A part of the cache: whole, or None."""
    part = _read_part(folder / "part.safetensors", "features", "labels", "digests")
    assert part is None or len(part["features"]) == len(part["labels"]) == len(part["digests"])


def make_features(folder: Path) -> None:
    """A part of the cache."""
    tensors = {"features": torch.zeros(4, 3), "labels": torch.zeros(4, dtype=torch.int64)}
    tensors |= {"digests": torch.zeros(4, dtype=torch.uint64)}
    save_file(tensors, folder / "part.safetensors", {"unreadable": "[]"})


RUNS: dict[str, Format] = {
    "training recipe": Format(
        make=write("r.yaml", yaml.safe_dump({"base": "small", **to_mapping(load_train_config("small"))})),
        files={"r.yaml": mutate_yaml}, read=lambda f: load_train_config(str(f / "r.yaml")),
    ),
    "run folder": Format(
        make=make_run,
        files={"recipe.yaml": mutate_yaml, "classes.json": mutate_json, "environment.json": mutate_json,
               "metrics.jsonl": mutate_json, "result.json": mutate_json},
        read=read_run,
    ),
    "run weights": Format(
        make=make_run, read=load_run,
        files={"encoder.safetensors": mutate_safetensors, "classifier.safetensors": mutate_safetensors},
    ),
    "training checkpoint": Format(
        make=make_checkpoint, files={"c.safetensors": mutate_safetensors}, read=read_checkpoint
    ),
    "weights, safetensors": Format(
        make=lambda f: save_file(_weights(), f / "c.safetensors"), files={"c.safetensors": mutate_safetensors},
        read=lambda f: load_encoder(torch.nn.Linear(3, 2), f / "c.safetensors"),
    ),
    "weights, pth": Format(
        make=make_pth, files={"c.pth": mutate_pth}, read=lambda f: load_encoder(torch.nn.Linear(3, 2), f / "c.pth")
    ),
    "feature cache": Format(make=make_features, files={"part.safetensors": mutate_safetensors}, read=read_features),
}  # fmt: skip
