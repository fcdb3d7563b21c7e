"""The figures of invariances and the table of continuous targets, from results with known numbers."""

import re
from pathlib import Path

import pytest

from imagenet_sd.pipeline import report
from imagenet_sd.report.collect import collect
from imagenet_sd.report.measurements import Measurements
from imagenet_sd.report.plots import draw_all
from tests.report.samples import results, write

COSINES = {"spatial": (0.9, 0.2), "appearance": (0.3, 0.7)}
"""Encoder -> its cosine under rotation and hue; by design each is invariant to its own family."""


def invariance(transformation: str, family: str, cosine: float) -> dict:
    return {
        "dataset": "val", "split": "test", "probe": "invariance", "transformation": transformation, "family": family,
        "cosine": cosine, "cosine_sd": 0.1, "distance": 10 * (1 - cosine), "distance_sd": 0.5,
        "strengths": [[0.0], [1.0], [2.0]], "cosines": [1.0, cosine, 2 * cosine - 1], "distances": [0.0, 1.0, 2.0],
        "num_test": 20, "cache_keys": ["k"], "unreadable": [],
    }  # fmt: skip


def ridge(r2: float) -> dict:
    return {
        "dataset": "val-hue", "split": "test", "probe": "ridge", "targets": ["hue-cos", "hue-sin"], "r2": r2,
        "r2_per_target": [r2, r2], "r2_folds": r2 - 0.1, "r2_folds_sd": 0.02, "num_train": 50, "num_test": 20,
        "hyper_parameters": [{"penalty": 1.0}], "cache_keys": ["k"], "unreadable": [],
    }  # fmt: skip


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = []
    for encoder, (rotation, hue) in COSINES.items():
        entries = [invariance("rotation", "spatial", rotation), invariance("hue", "appearance", hue)]
        found.append(write(tmp_path / f"{encoder}.json", results(encoder, "invariance", entries)))
        readouts = results(encoder, "readout", [ridge(0.612 if encoder == "spatial" else 0.4)])
        found.append(write(tmp_path / f"{encoder}-readout.json", readouts))
    return found


def test_heat_map_curves_and_plane(paths: list[Path]):
    drawings = {drawing.title: drawing for drawing in draw_all(Measurements(collect(paths).encoders))}
    panels = {key: svg for drawing in drawings.values() for key, _, svg in drawing.panels}
    for number in ("0.90", "0.20", "0.30", "0.70"):
        assert f">{number}</text>" in panels["invariance-cosine"]
    for number in ("1.0", "8.0", "7.0", "3.0"):
        assert f">{number}</text>" in panels["invariance-distance"]
    assert "rotation (spatial)" in panels["invariance-cosine"] and "hue (appearance)" in panels["invariance-cosine"]
    assert {"invariance-curve-rotation", "invariance-curve-hue"} <= panels.keys()
    # markers of the two encoders, in order: the spatial one stands to the right and below (y grows downwards)
    body = panels["invariance-plane"]
    points = [tuple(map(float, m)) for m in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: #', body)]
    (x1, y1), (x2, y2) = points[:2]
    assert x1 > x2 and y1 > y2, points


def test_the_plane_compares_what_all_were_measured_on(paths: list[Path], tmp_path: Path):
    """A third transformation of one encoder alone moves no point."""
    before = plane(paths)
    more = [
        invariance("rotation", "spatial", 0.9),
        invariance("shear", "spatial", 0.1),
        invariance("hue", "appearance", 0.2),
    ]
    paths[0] = write(tmp_path / "more.json", results("spatial", "invariance", more))
    assert plane(paths) == before and len(before) == 2


def plane(paths: list[Path]) -> list[str]:
    """Where the points of the plane stand."""
    drawings = draw_all(Measurements(collect(paths).encoders))
    body = next(svg for drawing in drawings for key, _, svg in drawing.panels if key == "invariance-plane")
    return re.findall(r'<use [^>]*x="([\d.]+)" y="[\d.]+" style="fill: #', body)[:2]


def test_a_curve_is_the_mean_over_images_at_each_strength(paths: list[Path]):
    drawings = draw_all(Measurements(collect(paths[:1]).encoders))
    svg = next(svg for drawing in drawings for key, _, svg in drawing.panels if key == "invariance-curve-rotation")
    (markers,) = re.findall(r"<g clip-path[^>]*>\s*(?:<use [^>]*/>\s*){3}", svg)
    points = re.findall(r'x="([\d.]+)" y="([\d.]+)"', markers)
    heights = [float(y) for _, y in points]
    # cosines 1, 0.9, 0.8: equal steps down
    assert heights[0] < heights[1] < heights[2]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.02)


def test_the_page_lists_continuous_targets(paths: list[Path], tmp_path: Path):
    report(paths, tmp_path / "r.html")
    text = (tmp_path / "r.md").read_text()
    assert "Continuous targets" in text and "0.612" in text and "0.512" in text
    assert "Invariance to transformations" in (tmp_path / "r.html").read_text()


def test_without_invariances_the_page_says_how_to_get_them(tmp_path: Path):
    path = write(tmp_path / "a.json", results("a", "readout", [ridge(0.5)]))
    drawings = draw_all(Measurements(collect([path]).encoders))
    (heat,) = [drawing for drawing in drawings if drawing.title == "Invariance to transformations"]
    assert not heat.panels and "--suite invariance" in heat.needs
