"""The page of findings says what its study measured: every number in its tables is worked out again from the JSON."""

import json
import re
import statistics

import pytest

from imagenet_sd.study import expand, load_study
from tests.conftest import ROOT

FOLDER = ROOT / "docs" / "findings"
PAGE = (FOLDER / "digits.md").read_text(encoding="utf-8")
STUDY = json.loads((FOLDER / "digits.json").read_text(encoding="utf-8"))
BASE = {
    "data": "synthetic", "prompt": "c_dc", "guidance_scale": 2.0, "num_inference_steps": 25, "multiple": 1.0,
    "augmentation": "strong",
}  # fmt: skip
FACTORS = {
    "guidance scale": ("guidance_scale", float),
    "steps": ("num_inference_steps", int),
    "prompt": ("prompt", str),
    "multiple": ("multiple", float),
}


def tables() -> dict[str, list[list[str]]]:
    """First header cell -> rows of every table of the page."""
    found: dict[str, list[list[str]]] = {}
    for block in re.findall(r"(?:^\|.*\n)+", PAGE, flags=re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        found[rows[0][0]] = [rows[0], *rows[2:]]
    return found


def top1(**factors: object) -> list[float]:
    """Top-1 in percent of the cells with these factors, by seed."""
    cells = [cell for cell in STUDY["cells"] if factors.items() <= cell["factors"].items()]
    cells.sort(key=lambda cell: cell["factors"]["seed"])
    assert [cell["factors"]["seed"] for cell in cells] == [0, 1, 2], factors
    return [100 * cell["metrics"]["mnist/test"]["top1"] for cell in cells]


def said(values: list[float]) -> str:
    """As the page writes it: mean and population standard deviation."""
    return f"{statistics.mean(values):.1f} ± {statistics.pstdev(values):.1f}"


@pytest.mark.parametrize("name", FACTORS)
def test_a_table_of_one_factor_is_that_of_the_study(name: str):
    key, kind = FACTORS[name]
    header, *rows = tables()[name]
    assert header[1:] == ["top-1 (%)", "seeds"] and len(rows) >= 3
    for value, mean, seeds in rows:
        found = top1(**{**BASE, key: kind(value.strip("`"))})
        assert (mean, seeds) == (said(found), ", ".join(f"{v:.1f}" for v in found)), value
    assert {kind(row[0].strip("`")) for row in rows} == {
        cell["factors"][key]
        for cell in STUDY["cells"]
        if (BASE | {key: cell["factors"].get(key)}).items() <= cell["factors"].items()
    }


def test_the_table_of_augmentations_is_that_of_the_study():
    header, *rows = tables()["training images"]
    assert header[1:] == ["plain", "strong"] and len(rows) == 3
    for label, *cells in rows:
        number = int(re.search(r"\d[\d,]*", label)[0].replace(",", ""))  # pyright: ignore[reportOptionalSubscript]
        for augmentation, cell in zip(header[1:], cells, strict=True):
            if label.startswith("synthetic"):
                factors: dict[str, object] = {**BASE, "augmentation": augmentation}
            else:
                factors = {"data": "real", "augmentation": augmentation, "multiple": number / 400}
            assert cell == said(top1(**factors)), (label, augmentation)
            assert {c["images"] for c in STUDY["cells"] if factors.items() <= c["factors"].items()} == {number}


def test_the_study_is_that_of_the_file_and_names_its_origin():
    study = load_study(ROOT / "pipelines" / "mini_findings.yaml")
    assert len(STUDY["cells"]) == len(expand(study)) == 51
    assert re.search(r"commit `[0-9a-f]{7,40}`", PAGE) and STUDY["machine"] in PAGE
    assert STUDY["commands"] == ["imagenet-sd run pipelines/mini_findings.yaml"]
    for picture in re.findall(r"\]\(<?([^)>]+\.svg)>?\)", PAGE):
        assert (FOLDER / picture).read_text(encoding="utf-8").lstrip().startswith(("<?xml", "<svg"))


def test_the_page_on_photographs_says_what_was_measured():
    page = (FOLDER / "photos.md").read_text(encoding="utf-8")
    cells = json.loads((FOLDER / "photos.json").read_text(encoding="utf-8"))["cells"]
    assert {cell["images"] for cell in cells} == {5000}
    for data, precision in (("synthetic", "bfloat16"), ("real", "bfloat16"), ("real", "float32")):
        chosen = [c for c in cells if (c["factors"]["data"], c["factors"]["precision"]) == (data, precision)]
        found = [100 * c["metrics"]["cifar10/test"]["top1"] for c in chosen]
        (row,) = re.findall(rf"^\| {data}.*, {precision} .*$", page, flags=re.MULTILINE)
        mean, seeds = [cell.strip() for cell in row.strip("|").split("|")][1:]
        assert mean == (said(found) if len(found) > 1 else f"{found[0]:.1f}"), data
        assert seeds == ", ".join(f"{value:.1f}" for value in found)
