"""The pages of findings say what their studies measured: every number in their tables is worked out again."""

import json
import re
import statistics
from dataclasses import dataclass
from typing import Any

import pytest

from imagenet_sd.prompts.classes import load_classes
from imagenet_sd.study import expand, load_study
from tests.conftest import ROOT

FOLDER = ROOT / "docs" / "findings"
FACTORS = {
    "guidance scale": ("guidance_scale", float),
    "steps": ("num_inference_steps", int),
    "prompt": ("prompt", str),
    "multiple": ("multiple", float),
}


@dataclass(frozen=True)
class Page:
    """A page, its study, the base of its tables, and the data set of each column of a table of one factor."""

    name: str
    study: str
    base: dict[str, Any]
    columns: dict[str, str]
    per_round: int
    """Real images that multiple 1 stands for."""

    @property
    def text(self) -> str:
        return (FOLDER / f"{self.name}.md").read_text(encoding="utf-8")

    @property
    def found(self) -> dict[str, Any]:
        return json.loads((FOLDER / f"{self.name}.json").read_text(encoding="utf-8"))

    @property
    def tables(self) -> dict[str, list[list[str]]]:
        """First header cell -> rows of every table of the page."""
        tables: dict[str, list[list[str]]] = {}
        for block in re.findall(r"(?:^\|.*\n)+", self.text, flags=re.MULTILINE):
            rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
            tables[rows[0][0]] = [rows[0], *rows[2:]]
        return tables

    def cells(self, **factors: object) -> list[dict[str, Any]]:
        """The cells with these factors, by seed: three."""
        cells = [cell for cell in self.found["cells"] if factors.items() <= cell["factors"].items()]
        cells.sort(key=lambda cell: cell["factors"]["seed"])
        assert [cell["factors"]["seed"] for cell in cells] == [0, 1, 2], factors
        return cells

    def top1(self, key: str = "", **factors: object) -> list[float]:
        """Top-1 in percent of the cells with these factors, by seed; without a key, on the main test set."""
        key = key or next(iter(self.columns.values()))
        return [100 * cell["metrics"][key]["top1"] for cell in self.cells(**factors)]


BASE = {"data": "synthetic", "guidance_scale": 2.0, "multiple": 1.0, "augmentation": "strong"}
DIGITS = Page(
    "digits", "mini_findings", {**BASE, "prompt": "c_dc", "num_inference_steps": 25}, {"top-1 (%)": "mnist/test"}, 400
)
PHOTOS = Page(
    "photos",
    "photo_findings",
    {**BASE, "prompt": "c", "num_inference_steps": 10},
    {"top-1 (%)": "cifar10/test", "Fashion-MNIST": "fashion/test", "digits": "digits/test"},
    5000,
)
PAGES = pytest.mark.parametrize("page", [DIGITS, PHOTOS], ids=lambda page: page.name)


def said(values: list[float]) -> str:
    """As the pages write it: mean and population standard deviation."""
    return f"{statistics.mean(values):.1f} ± {statistics.pstdev(values):.1f}"


@PAGES
@pytest.mark.parametrize("name", FACTORS)
def test_a_table_of_one_factor_is_that_of_the_study(page: Page, name: str):
    key, kind = FACTORS[name]
    header, *rows = page.tables[name]
    assert header == [name, "top-1 (%)", "seeds", *list(page.columns)[1:]] and len(rows) >= 2
    for value, mean, seeds, *others in rows:
        factors = {**page.base, key: kind(value.strip("`"))}
        found = page.top1(**factors)
        assert (mean, seeds) == (said(found), ", ".join(f"{v:.1f}" for v in found)), value
        assert others == [said(page.top1(column, **factors)) for column in list(page.columns.values())[1:]], value
    assert {kind(row[0].strip("`")) for row in rows} == {
        cell["factors"][key]
        for cell in page.found["cells"]
        if (page.base | {key: cell["factors"].get(key)}).items() <= cell["factors"].items()
    }


@PAGES
def test_the_table_of_augmentations_is_that_of_the_study(page: Page):
    header, *rows = page.tables["training images"]
    assert header[1:] == ["plain", "strong"] and len(rows) >= 3
    for label, *cells in rows:
        number = int(re.search(r"\d[\d,]*", label)[0].replace(",", ""))  # pyright: ignore[reportOptionalSubscript]
        for augmentation, cell in zip(header[1:], cells, strict=True):
            factors: dict[str, object] = {**page.base, "augmentation": augmentation}
            if label.startswith("real"):
                factors = {"data": "real", "augmentation": augmentation}
                factors |= {"multiple": number / page.per_round} if page is DIGITS else {}
            elif label.startswith("both"):
                factors["data"] = "both"
            elif scale := re.search(r"guidance scale (\S+)", label):
                factors["guidance_scale"] = float(scale[1])
            if cell != "":
                assert cell == said(page.top1(**factors)), (label, augmentation)
                assert {cell["images"] for cell in page.cells(**factors)} == {number}


@PAGES
def test_the_study_is_that_of_the_file_and_names_its_origin(page: Page):
    made, planned = len(page.found["cells"]), len(expand(load_study(ROOT / "pipelines" / f"{page.study}.yaml")))
    assert planned == {"digits": 51, "photos": 63}[page.name]
    assert made == planned
    assert re.search(r"commit `[0-9a-f]{7,40}`", page.text) and page.found["machine"] in page.text
    assert page.found["commands"] == [f"imagenet-sd run pipelines/{page.study}.yaml"]
    for picture in re.findall(r"\]\(<?([^)>]+\.svg)>?\)", page.text):
        assert (FOLDER / picture).read_text(encoding="utf-8").lstrip().startswith(("<?xml", "<svg"))


def test_the_worst_classes_are_those_of_the_study():
    """Accuracy per class of the base and of real photographs, worst of the base first."""
    header, *rows = PHOTOS.tables["class"]
    names = {spec.wnid: spec.lemmas[0] for spec in load_classes("photos-10")}
    expected = {"synthetic": PHOTOS.base, "real": {"data": "real", "augmentation": "strong"}}
    assert header == ["class", *expected]
    columns = []
    for factors in expected.values():
        results = [cell["per_class"] for cell in PHOTOS.cells(**factors)]
        columns.append({wnid: 100 * statistics.mean(each[wnid] for each in results) for wnid in results[0]})
    worst = sorted(names, key=columns[0].__getitem__)
    assert rows == [[names[wnid], *(f"{column[wnid]:.0f}" for column in columns)] for wnid in worst]
