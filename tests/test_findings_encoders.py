"""The pages on encoders without labels say what their studies measured: every number in their tables is worked out."""

import re
import statistics

import pytest

from imagenet_sd.study import expand, load_study
from tests.conftest import ROOT
from tests.test_findings import FOLDER, Page, said

METHODS = Page(
    "self_supervised", "self_supervised", {}, {"CIFAR-10 (%)": "cifar10/test", "main hue (%)": "hue/test"}, 0
)
FAMILIES = Page("stablerep", "stablerep", {}, {"CIFAR-10 (%)": "cifar10/test"}, 0)
PAGES = pytest.mark.parametrize("page", [METHODS, FAMILIES], ids=lambda page: page.name)
NO_LEARNING = "train.optimizer.base_lr"
START = "random weights, as the methods start"


def by_seed(page: Page, row: str, column: str) -> list[float]:
    """Top-1 in percent of three seeds, for a row's recipe, such as `stablerep-small`, positives `class`."""
    recipe, *positives = re.findall(r"`(\S+)`", row) or ["supervised-small"]
    factors = {"method": recipe} | ({"train.objective.positives": positives[0]} if positives else {})
    random = row.startswith("random weights")
    if random:
        factors["train.model.zero_init_last"] = row == START
    cells = [
        cell
        for cell in page.found["cells"]
        if factors.items() <= cell["factors"].items() and (NO_LEARNING in cell["factors"]) == random
    ]
    cells.sort(key=lambda cell: cell["factors"]["seed"])
    assert [cell["factors"]["seed"] for cell in cells] == [0, 1, 2], row
    return [100 * cell["metrics"][page.columns[column]]["top1"] for cell in cells]


def difference(one: list[float], two: list[float]) -> str:
    """Mean and population standard deviation of the differences, seed by seed, with its sign."""
    differences = [a - b for a, b in zip(one, two, strict=True)]
    return f"{statistics.mean(differences):+.1f} ± {statistics.pstdev(differences):.1f}"


@PAGES
def test_each_encoder_against_the_one_it_is_compared_with(page: Page):
    header, *rows = page.tables["encoder"]
    others = list(page.columns)[1:]
    assert header[1:3] == ["CIFAR-10 (%)", "seeds"] and header[4:] == others
    base = next(row[0] for row in rows if row[3] == "")
    assert header[3] == {START: "over their start", "`simclr-small`": "over SimCLR"}[base]
    for row, mean, seeds, over, *rest in rows:
        values = by_seed(page, row, "CIFAR-10 (%)")
        assert (mean, seeds) == (said(values), ", ".join(f"{value:.1f}" for value in values)), row
        assert over == ("" if row == base else difference(values, by_seed(page, base, "CIFAR-10 (%)"))), row
        assert rest == [said(by_seed(page, row, column)) for column in others], row
    assert 3 * len(rows) == len(page.found["cells"])


def test_what_augself_adds():
    header, *rows = METHODS.tables["method"]
    assert header[1:] == ["CIFAR-10 (%)", "with AugSelf", "gain", "main hue (%)", "with AugSelf", "gain"]
    assert [row[0] for row in rows] == ["`simclr-small`", "`simsiam-small`"]
    for row, *cells in rows:
        expected = []
        for column in METHODS.columns:
            without, with_it = (by_seed(METHODS, name, column) for name in (row, f"{row[:-1]}+augself`"))
            expected += [said(without), said(with_it), difference(with_it, without)]
        assert cells == expected, row


@PAGES
def test_the_study_is_that_of_the_file_and_names_its_origin(page: Page):
    planned = expand(load_study(ROOT / "pipelines" / f"{page.study}.yaml"))
    assert len(page.found["cells"]) == len(planned) == {"self_supervised": 30, "stablerep": 6}[page.name]
    assert re.search(r"commit `[0-9a-f]{7,40}`", page.text) and page.found["machine"] in page.text
    assert page.found["commands"] == [f"imagenet-sd run pipelines/{page.study}.yaml"]
    for picture in re.findall(r"\]\(<?([^)>]+\.svg)>?\)", page.text):
        assert (FOLDER / picture).read_text(encoding="utf-8").lstrip().startswith(("<?xml", "<svg"))
