"""Result files for the tests of the report: written as `evaluate` and `run` write them, with known numbers."""

import json
import shutil
from pathlib import Path

import numpy as np

from imagenet_sd.data.builtin import DIGIT_WNIDS
from imagenet_sd.evaluation.metrics import combine, score

VERSIONS = {"imagenet-sd": "0.1.0", "torch": "2.15.0"}
HOSTILE = '<script>alert(1)</script> | `x` $\\frac{"'
TEN = "aircraft cars196 dtd eurosat flowers pets food101 sun397 inat18 inat19".split()


def entry(dataset: str, probe: str, accuracy: float, seed: int = 0, per_class: bool = False, **more) -> dict:
    """One result over 200 images of ten classes, scored by the project's own metrics; top-1 is near `accuracy`."""
    rng = np.random.default_rng([seed, *dataset.encode()])
    labels = np.arange(200) % 10
    scores = rng.normal(size=(200, 10))
    right = rng.random(200) < accuracy - 0.3 * (labels == 7)
    scores[np.arange(200), labels] += np.where(right, 9.0, 0.0)
    found = combine([score(scores, labels)])
    correct = scores.argmax(1) == labels
    extra = (
        {"per_class": {w: float(correct[labels == i].mean()) for i, w in enumerate(DIGIT_WNIDS)}} if per_class else {}
    )
    return {
        "dataset": dataset,
        "split": "test",
        "probe": probe,
        **found,
        "num_classes": 10,
        "seeds": [0],
        "hyper_parameters": [{}],
        "cache_keys": ["k"],
        "unreadable": [],
        **extra,
        **more,
    }


def analysis(dataset: str, base: float) -> dict:
    """One analysis result."""
    return {
        "dataset": dataset,
        "split": "test",
        "probe": "analysis",
        "sparsity": base,
        "intra_class_distance": 2 * base,
        "redundancy": base / 2,
        "coding_length": 100 * base,
        "singular_values": [1.0, 0.5],
        "num_test": 20,
        "num_classes": 10,
        "cache_keys": ["k"],
        "unreadable": [],
    }


def results(encoder: str, suite: str, entries: list[dict]) -> dict:
    """A whole `results.json`."""
    return {
        "encoder": encoder,
        "suite": suite,
        "results": entries,
        "encoder_fingerprints": ["0" * 64],
        "versions": VERSIONS,
    }


def write(path: Path, value: dict) -> Path:
    """Write JSON, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


SWEEP = [
    *[{"guidance_scale": scale} for scale in (1.0, 2.0, 4.0, 7.5)],
    *[{"num_inference_steps": steps} for steps in (5, 50)],
    *[{"multiple": multiple} for multiple in (0.5, 10.0)],
    {"augmentation": "plain"},
    {"data": "real"},
]
BASE = {"prompt": "c_dc", "guidance_scale": 2.0, "num_inference_steps": 20, "multiple": 1.0, "augmentation": "strong"}


def make_study(folder: Path, dataset: Path) -> Path:
    """A study of ten settings and two seeds on a copy of `dataset`; returns its `study.json`."""
    shutil.copytree(dataset, folder / "data" / "digits")
    cells = []
    for number, change in enumerate(SWEEP):
        for seed in (0, 1):
            factors = {**BASE, "data": "synthetic", **change, "seed": seed}
            name = f"cell-{number}-{seed}"
            level = 0.95 - 0.04 * abs(factors["guidance_scale"] - 2) + 0.03 * (factors["data"] == "real")
            level -= 0.1 * (factors["augmentation"] == "plain")
            own = [entry("mnist", "classifier", level, seed, per_class=number < 2)]
            probes = [entry(d, "lbfgs", level - 0.1 * i, seed) for i, d in enumerate(("digits", "faces", "pets"))]
            probes.append(entry("mnist", "lbfgs", level, seed))  # the training task under a probe
            write(folder / name / "own.json", results(name, "imagenet", own))
            write(folder / name / "probes.json", results(name, "transfer", probes))
            features = [analysis("mnist", 0.1 * level), analysis("digits", 0.2 * level)]
            write(folder / name / "analysis.json", results(name, "analysis", features))
            files = [f"{name}/{stem}.json" for stem in ("own", "probes", "analysis")]
            cells.append(
                {
                    "id": name,
                    "factors": factors,
                    "dataset": "data/digits" if factors["data"] == "synthetic" else None,
                    "run": f"runs/{name}",
                    "results": files,
                    "metrics": {f"{e['dataset']}/test": {"top1": e["top1"]} for e in own + probes[:3]},
                }
            )
    document = {
        "name": "digits",
        "commands": ["imagenet-sd run study.yaml --set seeds=2"],
        "versions": VERSIONS,
        "machine": "2 CPU cores",
        "cells": cells,
    }
    return write(folder / "study.json", document)


def make_run(folder: Path, data: str, validation: str = "builtin:mnist", top1: float = 0.9, **train) -> Path:
    """A finished run folder with the small files that `train` writes."""
    folder.mkdir(parents=True)
    settings = {
        "name": "imagenet-sd",
        "augmentation": "dino",
        "model": {"backbone": "resnet50", "projector_layers": 0},
        "objective": {"loss": "cross_entropy"},
        "optimizer": {"epochs": 100, "batch_size": 256},
        "seed": 0,
        **train,
    }
    (folder / "recipe.yaml").write_text(
        json.dumps({"data": data, "validation": validation, "stream": False, "train": settings})
    )
    lines = [
        {"step": 0, "loss": 2.3, "learning_rate": 0.1},
        {"epoch": 1, "val_top1": 0.5, "val_top5": 0.9, "val_images": 1000},
        {"epoch": 2, "val_top1": top1, "val_top5": 0.99, "val_images": 1000},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"epoch": 3, "val_to')
    (folder / "classes.json").write_text(json.dumps(list(DIGIT_WNIDS)))
    (folder / "environment.json").write_text(json.dumps({"torch": "2.15.0", "device": "cpu"}))
    return folder
