"""Every study in pipelines/ runs end to end, on tiny data in the layouts of the real ones, and fills its own table.

`shrink` makes any study small: paths lead to tiny data sets, class lists to four classes, published weights to a small
random network; sizes, steps and trials are cut. What varies over the grid still varies.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from imagenet_sd.core.documents import read_document
from imagenet_sd.core.results import EvaluationResults
from imagenet_sd.data.imagenet_family import family_members
from imagenet_sd.prompts.classes import load_classes
from imagenet_sd.study import Study, expand, load_study
from imagenet_sd.study.runner import run
from tests.conftest import ROOT
from tests.data.test_transfer import BUILDERS, paint
from tests.report.test_report import tables
from tests.study.test_pipelines import FILES
from tests.study.test_tables import FIGURES

CLASSES = ("n01558993", "n02077923", "n02123045", "n02793495")  # of ImageNet-1k; R and A are laid out with them too
SETTINGS = [
    "generate.model=embedded", "generate.shard_size=20", "generate.batch_size=10", "generate.dtype=float32",
    "train.steps=2", "train.precision=float32", "train.workers=0", "train.processes=1", "train.optimizer.batch_size=5",
    "train.val_crop_size=32",
    "train.model.backbone=resnet10t", "train.crops.global_crop_size=32", "train.crops.local_crop_size=16",
    "train.objective.memory_size=64", "train.validate_every=1", "evaluate.seeds=[0]", "evaluate.trials=1",
    "evaluate.crop_size=32", "evaluate.batch_size=32", "evaluate.shots=[1]", "evaluate.episodes=0",
]  # fmt: skip
SIZES = {0.1: 0.5, 0.25: 0.5, 8: 3, 10: 2, 20: 3, 50: 4}
STEPS = {5: 1, 10: 2, 20: 2, 25: 3, 50: 4, 100: 5}


def shrink(path: Path, places: Path, folder: Path) -> Study:
    """The study of a file on the tiny data in `places`; the small file is written to `folder`."""
    content = yaml.safe_load(path.read_text())
    generate = content.get("generate", {})

    def small(key: str, value: Any) -> Any:
        if isinstance(value, list):
            return [small(key, each) for each in value]
        if isinstance(value, dict):
            return {name: small(name, each) for name, each in value.items()}
        if key.endswith("classes"):
            return "digits-10" if value in ("digits-10", "photos-10") else str(places / "classes.txt")
        if key.endswith("multiple"):
            return SIZES.get(value, value)
        if key.endswith("num_inference_steps"):
            return STEPS[value]
        if isinstance(value, str):
            value = re.sub(r"timm:resnet50\.(\w+)", rf"timm:resnet10t@{places}/\1.pth", value)
            value = value.replace("resnet50", "resnet10t").replace("builtin:cifar10-hue", "builtin:digits")
            value = value.replace("builtin:cifar10", "builtin:mnist")
            value = re.sub(r"per_class=\d+", "per_class=6", value.replace("builtin:fashion", "builtin:digits"))
            return re.sub(r"builtin:(\w+)$", r"builtin:\1@per_class=8", value)
        return value

    content = small("", content)
    for grid in content.get("grid", []):
        if "seed" in grid:
            grid["seed"] = [0]
    (folder / path.name).write_text(yaml.safe_dump(content, sort_keys=False))
    settings = [f"paths.{name}={places / name}" for name in content.get("paths", {})]
    settings += [] if generate.get("match") else ["generate.images_per_class=4"]
    return load_study(folder / path.name, SETTINGS + settings)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny data sets, one folder per name that the studies use, and weights that take the place of published ones."""
    import timm

    base = tmp_path_factory.mktemp("places")
    (base / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    order = [spec.wnid for spec in load_classes("imagenet-1k")]

    def draw(folder: Path, count: int) -> None:
        for number in range(count):
            paint(folder / f"{folder.parent.name}{folder.name}{number}.png")

    for wnid in CLASSES:
        draw(base / "imagenet" / "train" / wnid, 5)
        draw(base / "imagenet" / "val" / wnid, 2)
        draw(base / "imagenet100" / "train" / wnid, 5)
        for member in family_members():
            name = wnid if member.folders_are == "wnid" else str(order.index(wnid))
            draw(base / "tests" / member.folder / name, 2)
    for build in BUILDERS.values():
        build(base / "transfer")
    (base / "levels").mkdir()
    (base / "levels" / "levels.json").write_text("{}")
    for level in range(1, 6):
        wnids = [f"n1000000{level}", f"n2000000{level}"]
        for wnid in wnids:
            draw(base / "imagenet21k" / wnid, 6)
        for split, numbers in (("train", range(5)), ("test", range(5, 6))):
            lines = [f"{wnid}/imagenet21k{wnid}{number}.png" for wnid in wnids for number in numbers]
            (base / "levels" / f"L{level}-{split}.txt").write_text("\n".join(lines) + "\n")
    for number, name in enumerate(("dino", "paws", "supcon", "moco", "byol", "coke", "tv_in1k.pth", "a1_in1k.pth")):
        torch.manual_seed(number)
        torch.save(timm.create_model("resnet10t", num_classes=1000).state_dict(), base / name)
    return base


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Studies that name one folder share it here too: datasets and runs are made once."""
    return tmp_path_factory.mktemp("studies")


def promised(study: Study, encoder: str) -> Iterator[tuple[str, str]]:
    """Suite and data set of everything that a study measures on one encoder."""
    for section in study.evaluate:
        names = [*section.data]
        if section.suite == "imagenet" and encoder.endswith("@random"):
            continue  # it has no classifier
        if section.suite == "cog":
            names = [f"{name}-L{level}" for name in names for level in range(1, 6)]
        if section.suite in ("imagenet", "imagenet-probe") and sum(name.startswith("v2-") for name in names) == 3:
            names.append("v2")
        yield from ((section.suite, name) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_study_runs_and_fills_what_it_promises(
    path: Path, places: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.set_num_threads(1)
    monkeypatch.chdir(ROOT)  # a study may name a file in pipelines/
    monkeypatch.setattr("imagenet_sd.evaluation.evaluate.check_apart", lambda *_: "")  # tiny sets repeat their images
    study = shrink(path, places, tmp_path)
    out = root / (study.out or study.name)
    summary = run(study, out=out, path=str(path))
    cells = json.loads(Path(summary["study"]).read_text())["cells"]
    assert len(cells) == len(expand(study))
    assert len({(cell["id"], str(cell["factors"])) for cell in cells}) == len(cells)
    for cell in cells:
        documents = [read_document(EvaluationResults, out / name) for name in cell["results"]]
        found = {(document.suite, result.dataset) for document in documents for result in document.results}
        assert found == set(promised(study, str(cell["factors"].get("encoder", ""))))
    page = Path(summary["page"])
    header, *rows = tables(page)[f"study-{study.name.replace('_', '-')}"][1:]
    first = header.index("Seeds") + 1
    assert len(rows) == len(cells)
    for row, cell in zip(rows, cells, strict=True):  # top-1 and top-5 of everything but feature analysis
        scored = [key for key in promised(study, str(cell["factors"].get("encoder", ""))) if key[0] != "analysis"]
        numbers = sum(bool(re.match(r"\d", text)) for text in row[first:])
        assert numbers == 2 * len(scored) or not scored, row  # columns of feature analysis are others
    stems = {file.stem for file in page.parent.glob(f"{page.stem}_files/*.svg")}
    assert FIGURES.get(path.stem, set()) - {"relative-levels"} <= stems  # the baseline is published weights
