"""Every shipped study fills the rows of the published tables that it is for: with made-up results, quickly.

The stages write the small files that `generate`, `train` and `evaluate` write; planning, `study.json` and the report
are the real ones. That the stages themselves run is `test_shrunk.py`.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagenet_sd.core.files import write_json
from imagenet_sd.core.typed import to_mapping
from imagenet_sd.prompts.classes import class_list_name, load_classes
from imagenet_sd.report.paper import NUM_IMAGES
from imagenet_sd.study import load_study, runner
from imagenet_sd.study.planner import Stage
from tests.conftest import ROOT
from tests.report.samples import analysis
from tests.report.test_report import tables

PROMISED: dict[str, dict[str, list[int]]] = {
    "imagenet100": {"tab-5-2": [8]},
    "imagenet100_table_5_1": {"tab-5-1": [1, 2]},
    "imagenet100_table_5_2": {"tab-5-2": list(range(1, 13))},
    "imagenet1k_c_dc": {"tab-5-2": [15, 17]},
    "imagenet1k_table_5_2": {"tab-5-2": [13, 14, 15, 16, 17]},
    "transfer_table_5_3": {"tab-5-3": list(range(1, 9))},
    "cog_table_5_4": {"tab-5-4": [1, 2, 3, 4]},
    "trex_table_4_1": {"tab-4-1": list(range(1, 10))},
    "trex_table_d_1": {
        "tab-4-2": [1, 2, 3, 4, 5, 6],
        "tab-4-3": [1, 2, 3, 4, 5],
        "tab-d-1": [1, 2, 5, 6, 7, 8, 10, 11, 12],  # not SL-MLP, LOOK and the model with h_psi
    },
}
FIGURES = {
    "imagenet100_figure_5_4": {"multiple-0"},
    "imagenet100_figure_5_5": {f"{factor}-{n}" for factor in ("guidance-scale", "num-inference-steps") for n in (0, 1)},
    "imagenet100_figure_5_6": {"features-sparsity", "features-intra-class-distance", "features-redundancy",
                               "features-coding-length", "singular-values"},
    "imagenet1k_table_5_2": {"radar"},
    "cog_table_5_4": {"relative-levels"},
    "trex_table_d_1": {"plane", "radar"},
}  # fmt: skip


def top1(encoder: str, dataset: str) -> float:
    """A made-up accuracy of its own for every pair."""
    return float(np.random.default_rng([*encoder.encode(), *dataset.encode()]).uniform(0.2, 0.95))


def entry(encoder: str, dataset: str, probe: str) -> dict[str, Any]:
    p = top1(encoder, dataset)
    return {
        "dataset": dataset, "split": "test", "probe": probe, "top1": p, "top5": (1 + p) / 2, "top1_sd": 0.0,
        "mean_per_class_accuracy": p, "log_odds": float(np.log(p / (1 - p))), "num_test": 1000,
        "top1_interval": [p - 0.01, p + 0.01], "seeds": [0], "hyper_parameters": [{}],
    }  # fmt: skip


def generated(stage: Stage, out: Path) -> dict[str, Any]:
    config = stage.study.generate
    name = class_list_name(config.class_list)
    specs = load_classes(name)
    each, more = divmod(NUM_IMAGES[name], len(specs))
    document = {
        "format_version": 2, "made_with": "imagenet-sd 0.1.0", "fingerprint": stage.folder.name,
        "rounds": max(1, round(config.multiple)),
        "settings": {
            "class_list": name, "prompt": config.prompt, "template": "{name}", "model_id": config.model,
            "guidance_scale": config.guidance_scale, "num_inference_steps": config.num_inference_steps, "width": 512,
            "height": 384, "seed": 0,
        },
        "classes": [{"wnid": s.wnid, "lemmas": s.lemmas, "count": each + (i < more)} for i, s in enumerate(specs)],
    }  # fmt: skip
    stage.folder.mkdir(parents=True)
    write_json(stage.folder / "dataset.json", document)
    return {"num_images": 0}


def trained(stage: Stage, out: Path) -> dict[str, Any]:
    study = stage.study
    real = bool(study.train.data)
    name = ("imagenet-100" if "imagenet100" in study.train.data else "imagenet-1k") if real else study.generate.classes
    config = study.train.config()
    stage.folder.mkdir(parents=True)
    description = {"data": stage.data, "validation": "", "stream": False, "train": to_mapping(config)}
    write_json(stage.folder / "recipe.yaml", description)
    write_json(stage.folder / "classes.json", [spec.wnid for spec in load_classes(name)])
    count = round(NUM_IMAGES[name] * (1 if real else study.generate.multiple))
    write_json(stage.folder / "result.json", {"finished": True, "num_images": count})
    return {"num_images": count, "epochs": config.optimizer.epochs}


def evaluated(stage: Stage, out: Path) -> dict[str, Any]:
    section = stage.section
    assert section is not None
    names = list(section.data)
    if section.suite == "cog":
        names = [f"{name}-L{level}" for name in names for level in range(1, 6)]
    if section.suite in ("imagenet", "imagenet-probe") and len(names) > 3:
        names.append("v2")
    if section.suite == "analysis":
        results = [analysis(name, top1(stage.encoder, name) / 2) for name in names]
    else:
        probe = "classifier" if section.suite == "imagenet" else section.probe
        results = [entry(stage.encoder, name, probe) for name in names]
    stage.folder.mkdir(parents=True)
    document = {"encoder": stage.encoder, "suite": section.suite, "results": results}
    write_json(stage.folder / stage.product, document)
    return {}


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "STAGES", {"generate": generated, "train": trained, "evaluate": evaluated})
    monkeypatch.setattr(runner, "missing_inputs", lambda cells: {})


def report_of(name: str, out: Path, *settings: str) -> Path:
    path = ROOT / "pipelines" / f"{name}.yaml"
    study = load_study(path, ["generate.match=", *settings])
    return Path(runner.run(study, out=out, path=str(path))["page"])


def test_every_study_of_the_papers_promises_something():
    files = {path.stem for path in (ROOT / "pipelines").glob("*.yaml")}
    assert PROMISED.keys() | FIGURES.keys() <= files
    of_papers = {stem for stem in files if re.search("^(?!sea).*(table_[45d]|figure_5)", stem)}
    assert of_papers <= PROMISED.keys() | FIGURES.keys()


@pytest.mark.parametrize("name", list(PROMISED | FIGURES))
def test_a_complete_study_fills_every_cell_that_it_is_for(name: str, tmp_path: Path, made_up: None):
    page = report_of(name, tmp_path / "out")
    found = tables(page)
    for key, rows in PROMISED.get(name, {}).items():
        lead = {"tab-5-1": 1, "tab-5-2": 4, "tab-5-3": 4, "tab-5-4": 4}.get(key, 2)
        numbers = [row[lead:] for row in found[key][key == "tab-5-2" :]]  # its first line is the header of groups
        for row in rows:
            cells = numbers[row]
            assert all(re.match(r"[-\d.]+ \([-\d.]+\)$", cell) for cell in cells), (key, row, cells)
        for row, cells in enumerate(numbers[1:], 1):
            answered = any(re.match(r"-?\d[^(]*\(", cell) for cell in cells)
            assert answered == (row in rows), (key, row)
            apart = any(re.fullmatch(r"-?[\d.]+", cell) for cell in cells)
            assert not apart or name == "trex_table_d_1", (key, row)  # some of its models are in Tab. D.1 alone
    stems = {path.stem for path in page.parent.glob(f"{page.stem}_files/*.svg")}
    assert FIGURES.get(name, set()) <= stems
    for row in found[f"study-{name.replace('_', '-')}"][2:]:
        assert row[0] and (re.match(r"[-\d]", row[-1]) or name == "imagenet100_figure_5_6"), row


def test_the_numbers_in_the_cells_are_the_encoders(tmp_path: Path, made_up: None):
    """DINO's row of Tab. 5.4, whose checkpoint is known by its file name; ImageNet-1K under the name of the study."""
    page = report_of("cog_table_5_4", tmp_path / "out", "paths.dino=/somewhere/else/DINO_resnet50.pth")
    encoder = "timm:resnet50@/somewhere/else/DINO_resnet50.pth"
    expected = [f"{100 * top1(encoder, n):.1f}" for n in ("imagenet", *(f"cog-L{k}" for k in range(1, 6)))]
    row = tables(page)["tab-5-4"][3]
    assert row[3].startswith("DINO") and [cell.split()[0] for cell in row[4:]] == expected


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("train.model.backbone=resnet18", "backbone (resnet18, not resnet50)"),
        ("train.optimizer.epochs=30", "epochs (30, not 100)"),
        ("generate.num_inference_steps=25", "steps (25, not 50)"),
        ("generate.model=embedded", "generator (embedded, not CompVis/stable-diffusion-v1-4)"),
        ("train.objective.label_smoothing=0.1", ""),
    ],
)
def test_another_setting_stands_apart_and_says_why(setting: str, reason: str, tmp_path: Path, made_up: None):
    page = report_of("imagenet100", tmp_path / "out", setting)
    rows = tables(page)["tab-5-2"][1:]
    measured = [number for number, row in enumerate(rows, 1) if any(re.match(r"\d", cell) for cell in row[4:])]
    if not reason:
        assert measured == [8 + 1]  # the header of groups is the first line
        return
    assert measured == [len(rows)]
    assert f"row 8 (c, dc) has other {reason}" in rows[-1][3]


def test_another_number_of_images_stands_apart(tmp_path: Path, made_up: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(NUM_IMAGES, "imagenet-100", 130_000)
    out = tmp_path / "out"
    page = report_of("imagenet100", out)
    monkeypatch.undo()
    from imagenet_sd import pipeline

    pipeline.report([out / "study.json"], page)
    assert "images (130,000, not 126,689)" in tables(page)["tab-5-2"][-1][3]
    assert json.loads((out / "study.json").read_text())["cells"][0]["model"] == "CompVis/stable-diffusion-v1-4"


def test_epochs_are_those_that_were_trained(tmp_path: Path):
    from imagenet_sd.report.collect import collect
    from tests.report.samples import BASE, write

    cell = {"id": "x", "factors": {**BASE, "data": "synthetic"}, "epochs": 3.0, "metrics": {"val/test": {"top1": 0.5}}}
    cell["training"] = {"optimizer.epochs": 100, "model.backbone": "resnet50", "unknown": 1, "objective.loss": {"a": 1}}
    (encoder,) = collect([write(tmp_path / "study.json", {"name": "s", "cells": [cell]})]).encoders
    assert encoder.training == {"optimizer.epochs": 3.0, "model.backbone": "resnet50"}
