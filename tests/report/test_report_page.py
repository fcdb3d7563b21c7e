"""The report's page in a real headless browser."""

# ruff: noqa: RUF001  # the page's own dashes and multiplication signs

import json
import re
from pathlib import Path

import pytest

from imagenet_sd import pipeline
from tests.conftest import CliRun
from tests.report.samples import BASE, entry, make_study, results, write
from tests.report.test_gallery import browser, open_page  # noqa: F401  # a fixture


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, small_dataset: Path) -> Path:
    folder = tmp_path_factory.mktemp("page")
    pipeline.report([make_study(folder / "study", small_dataset)], folder / "report.html")
    return folder / "report.html"


def test_it_opens_without_error_or_network_and_shows_its_pictures(page_file: Path, browser):  # noqa: F811
    page, trouble = open_page(browser, page_file, 1280)
    assert page.locator("h1").inner_text() == "imagenet-sd report"
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    page.wait_for_function("[...document.images].every(i => i.complete)")
    widths = page.evaluate("[...document.images].map(i => i.naturalWidth)")
    assert len(widths) == 10 * 2 + 2 * 10 * 2 and set(widths) == {32}  # a contact sheet, two lists of worst classes
    boxes = page.evaluate("[...document.querySelectorAll('.panel svg')].map(s => s.getBoundingClientRect().height)")
    assert len(boxes) == 15 and min(boxes) > 150
    (told,) = page.locator(".missing").all_inner_texts()  # the sample has no levels of CoG and no invariances
    assert all("ImageNet-CoG" in line or "nvarian" in line for line in told.splitlines()[1:]), told
    assert told.startswith("4 figures without data")
    assert trouble == []


def column(page, table: str, number: int) -> list[str]:
    rows = page.locator(f"h3#{table} + div tbody tr")
    return [rows.nth(i).locator("td").nth(number).inner_text() for i in range(rows.count())]


def test_columns_sort_by_mouse_and_keyboard(page_file: Path, browser):  # noqa: F811
    page, trouble = open_page(browser, page_file, 1280)
    before = column(page, "results", 3)
    head = page.locator("h3#results + div th").nth(3)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, "results", 3) == sorted(before, key=float, reverse=True) != before
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, "results", 3) == sorted(before, key=float)
    page.locator("h3#results + div th").nth(1).locator("button").click()
    assert head.get_attribute("aria-sort") is None
    names = column(page, "results", 1)
    assert names == sorted(names, reverse=True)
    assert trouble == []


def test_a_table_with_a_line_of_groups_sorts_by_the_right_column(page_file: Path, browser):  # noqa: F811
    page, _ = open_page(browser, page_file, 1280)
    page.locator("h3#study-digits + div th button", has_text="Top-1").first.click()
    values = [float(text.split(" ")[0]) for text in column(page, "study-digits", 7)]
    assert values == sorted(values, reverse=True) and len(set(values)) > 2
    page.locator("h3#tab-5-3 + div th button", has_text="Pets").click()
    cells = column(page, "tab-5-3", 9)
    ours = [float(text.split()[0]) for text in cells if not text.startswith("–")]
    theirs = [float(text.split("(")[1][:-1]) for text in cells if text.startswith("–")]
    # What we measured first, then the paper's alone.
    assert ours == sorted(ours, reverse=True) and theirs == sorted(theirs, reverse=True)
    assert [text.startswith("–") for text in cells] == [False] * len(ours) + [True] * 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_can_be_read(page_file: Path, browser, scheme: str, width: int):  # noqa: F811
    page, trouble = open_page(browser, page_file, width)
    page.emulate_media(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("h1", ".caption", ".panel svg text", ".paper"):
        assert contrast(page, selector) >= 4.5, selector
    assert trouble == []


def contrast(page, selector: str) -> float:
    """WCAG contrast of the first match's text colour with the page's ground, as the browser paints them."""
    ink = page.evaluate(
        """selector => { const e = document.querySelector(selector), s = getComputedStyle(e);
           return e.closest('svg') ? s.fill : s.color }""",
        selector,
    )
    ground = page.evaluate(
        """() => { const d = document.createElement('div'); d.style.background = 'Canvas'; document.body.append(d);
           return getComputedStyle(d).backgroundColor }"""
    )

    def luminance(colour: str) -> float:
        channels = [int(c) / 255 for c in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(ink), luminance(ground)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_hostile_class_names_are_text(own_classes: Path, tmp_path: Path, cli: CliRun, browser):  # noqa: F811
    out = tmp_path / "own"
    arguments = f"generate --model embedded --classes {own_classes} --prompt c_dc --steps 1 --images-per-class 1"
    done = cli(*arguments.split(), "--out", out)
    assert done.returncode == 0, done.stderr
    own = entry("real", "classifier", 0.5)
    own["per_class"] = {"a1": 0.75, "b2": 0.25}
    file = write(tmp_path / "r.json", results("</script><img src=x onerror=alert(2)>", "imagenet", [own]))
    pipeline.report([out, file], tmp_path / "r.html")
    page, trouble = open_page(browser, tmp_path / "r.html")
    first = page.locator("section[aria-labelledby=classes] .classes > div").first.inner_text()
    assert first == "<script>alert(1)</script> b2 25.0%"
    assert "<script>alert(1)</script>" in page.locator(".panel svg").first.text_content()
    assert page.locator("tbody td").first.inner_text() == "</script><img src=x onerror=alert(2)>"
    assert page.evaluate("document.images.length") == 4
    assert trouble == []


def test_the_policy_stops_foreign_scripts_and_requests(page_file: Path, tmp_path: Path, browser):  # noqa: F811
    """Were a tag ever to slip through, the page's own policy would still keep it from running or calling out."""
    html = page_file.read_text().replace(
        "<main>", '<main><script>document.title="taken"</script><img src="http://x.invalid/">'
    )
    (tmp_path / "r.html").write_text(html)
    page, trouble = open_page(browser, tmp_path / "r.html")
    assert page.title() == "imagenet-sd report"
    refused = json.dumps(trouble)
    assert refused.count("Content Security Policy") >= 2


def test_encoders_of_real_and_synthetic_images_are_no_headline(tmp_path: Path):
    accuracies = {"synthetic": 0.6, "both": 0.9, "real": 0.8}
    cells = [
        {"id": data, "factors": {**BASE, "data": data}, "images": 9, "metrics": {"pets/test": {"top1": top1}}}
        for data, top1 in accuracies.items()
    ]
    pipeline.report([write(tmp_path / "study.json", {"name": "s", "cells": cells})], tmp_path / "report.html")
    shown = re.findall(
        r'class="headline"><b>([\d.]+)<small>%</small></b>(.*?)<', (tmp_path / "report.html").read_text()
    )
    assert [(float(value), what.split(", ")[-1]) for value, what in shown] == [
        (60, "synthetic images"),
        (80, "real images"),
    ]
