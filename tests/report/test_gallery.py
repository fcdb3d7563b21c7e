"""The gallery in a real headless browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import CliRun

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield instance
        instance.close()


def open_page(browser, path: Path, width: int = 1200):
    """Open a file without a network; returns the page and the list that collects its errors and requests."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda r: trouble.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.goto(path.as_uri())
    return page, trouble


def test_pictures_prompts_and_filter(small_dataset: Path, tmp_path: Path, cli: CliRun, browser):
    done = cli("preview", small_dataset, "--out", tmp_path / "g.html")
    assert done.returncode == 0, done.stderr
    page, trouble = open_page(browser, tmp_path / "g.html")
    assert page.locator("section").count() == 10
    assert page.locator("section img").count() == 20
    natural = page.evaluate(
        "[...document.images].map(i => { i.loading = 'eager'; return i.decode().then(() => i.naturalWidth) })"
    )
    assert len(natural) == 20
    page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth === 32)")
    title = page.locator("section img").first.get_attribute("title")
    assert title.startswith("zero, 0, nought, cipher, cypher, a mathematical element") and "seed " in title
    page.fill("#filter", "SEVEN heptad")
    assert page.locator("section:visible").count() == 1
    assert page.locator("#count").inner_text() == "1 classes"
    page.fill("#filter", "")
    assert page.locator("section:visible").count() == 10
    assert trouble == []


@pytest.mark.parametrize("width", [1200, 360])
def test_the_page_fits_its_window(small_dataset: Path, tmp_path: Path, cli: CliRun, browser, width: int):
    cli("preview", small_dataset, "--out", tmp_path / "g.html")
    page, _ = open_page(browser, tmp_path / "g.html", width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_hostile_class_name_is_text(own_classes: Path, tmp_path: Path, cli: CliRun, browser):
    out = tmp_path / "own"
    arguments = (
        f"generate --model embedded --classes {own_classes} --prompt c_dc --steps 1 --images-per-class 1".split()
    )
    done = cli(*arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "knows the classes of photos-10 and digits-10 only" in done.stderr
    assert cli("preview", out).returncode == 0
    page, trouble = open_page(browser, out / "gallery.html")
    assert page.locator("h2").all_inner_texts() == ["red widget a1", "<script>alert(1)</script> b2"]
    assert trouble == []
    html = (out / "gallery.html").read_text()
    assert "<script>alert" not in html and html.count("<script") == 1


def test_the_contact_sheet_shows_every_class(small_dataset: Path, tmp_path: Path, cli: CliRun):
    cli("preview", small_dataset, "--out", tmp_path / "g.html", "--images-per-class", "2")
    with Image.open(tmp_path / "g.png") as sheet:
        assert sheet.size == (150 + 2 * 66, 10 * 66)
        cells = [sheet.crop((150 + c * 66, r * 66, 214 + c * 66, r * 66 + 64)) for r in range(10) for c in range(2)]
        assert all(len(set(cell.tobytes())) > 10 for cell in cells)


def test_an_unfinished_dataset_is_shown_as_far_as_it_is(small_dataset: Path, tmp_path: Path, cli: CliRun):
    out = Path(shutil.copytree(small_dataset, tmp_path / "part"))
    for manifest in sorted(out.glob("data/*/.manifests/*.json"))[1:]:
        manifest.unlink()
    done = cli("preview", out)
    assert done.returncode == 0 and "images: 6\n" in done.stdout
    assert "no image of this class is finished yet" in (out / "gallery.html").read_text()
    for manifest in out.glob("data/*/.manifests/*.json"):
        manifest.unlink()
    done = cli("preview", out)
    assert done.returncode == 1 and "no finished shard" in done.stderr
