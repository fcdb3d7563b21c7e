"""What the figures show, worked out by hand: groups, hulls, differences and published points."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from imagenet_sd import pipeline
from imagenet_sd.core.results import FeatureAnalysis, LabelNoise, ProbeResult
from imagenet_sd.report import paper
from imagenet_sd.report.encoders import EvaluatedEncoder, Score
from imagenet_sd.report.feature_plots import group_means, singular_values, spectra
from imagenet_sd.report.measurements import Measurements
from imagenet_sd.report.planes import _published_spokes, _spokes, convex_hull, plane
from imagenet_sd.report.plots import draw_all
from imagenet_sd.report.relative import differences
from imagenet_sd.report.svg import STYLE
from imagenet_sd.report.sweeps import published_points
from imagenet_sd.report.tables import noise_table
from tests.report.samples import analysis, entry, results, write

LEVELS = [f"cog-L{level}" for level in range(1, 6)]


def encoder(
    name: str, scores: dict[tuple[str, str], float], probe: str = "sgd", top5: float = 0.99
) -> EvaluatedEncoder:
    """An encoder with top-1 by (suite, data set); log odds to match."""
    return EvaluatedEncoder(
        name=name,
        scores=tuple(
            Score(
                suite=suite,
                result=ProbeResult(
                    dataset=dataset, split="test", probe=probe, top1=p, top5=top5, log_odds=float(np.log(p / (1 - p)))
                ),
            )
            for (suite, dataset), p in scores.items()
        ),
    )


def test_val_and_v2_weigh_alike_in_their_group():
    """Thesis 5.5.5: the three test sets of v2 are one data set."""
    values = {
        "val": 0.6,
        "v2-matched-frequency": 0.1,
        "v2-threshold-0.7": 0.2,
        "v2-top-images": 0.3,
        "r": 0.5,
        "dtd": 0.4,
    }
    measured = Measurements(
        [EvaluatedEncoder(name="e", analyses=tuple(FeatureAnalysis(**analysis(n, v)) for n, v in values.items()))]
    )
    means = {group: rows.item() for group, rows in group_means(measured, "sparsity").items()}
    assert means == pytest.approx({"val / v2": (0.6 + 0.2) / 2, "sketch / r / a": 0.5, "transfer": 0.4})


def test_singular_values_are_shares_averaged_over_the_transfer_sets():
    def analysed(dataset: str, values: tuple[float, ...]) -> FeatureAnalysis:
        return FeatureAnalysis(**{**analysis(dataset, 0.1), "singular_values": values})

    sets = (analysed("dtd", (6.0, 3.0, 1.0)), analysed("pets", (0.5, 0.5)), analysed("val", (1.0, 0.0)))
    (line,) = spectra(Measurements([EvaluatedEncoder(name="e", analyses=sets)])).values()
    assert line == pytest.approx([0.55, 0.4])  # the mean of (0.6, 0.3) and (0.5, 0.5); val is no transfer set


def test_numbers_on_logarithmic_axes_are_plain():
    sets = (FeatureAnalysis(**{**analysis("dtd", 0.1), "singular_values": tuple(10.0**-k for k in range(4))}),)
    with matplotlib.rc_context(STYLE):
        _, [(_, _, svg)] = singular_values(Measurements([EvaluatedEncoder(name="e", analyses=sets)]))
    assert "math" not in svg and {"0.001", "0.01", "0.1"} <= set(re.findall(r">([\d.]+)</text>", svg))


def test_the_radar_has_top_5_on_imagenet_and_means_over_groups():
    """Fig. 5.2: not top-1, and not one spoke per transfer set."""
    scores = {("imagenet", d): 0.5 for d in ("val", "v2", "sketch", "r", "a")}
    scores |= {("transfer", name): 0.5 + 0.01 * i for i, name in enumerate(paper.TRANSFER_TITLES)}
    scores |= {("cog", name): 0.3 + 0.1 * i for i, name in enumerate(LEVELS)} | {("transfer", "in1k"): 0.9}
    spokes = {title: means[0].mean for title, means in _spokes(Measurements([encoder("e", scores)])).items()}
    assert spokes == pytest.approx(
        {
            **{f"{title} (top-5)": 0.99 for title in ("IN-Val", "IN-v2", "IN-Sketch", "IN-R", "IN-A")},
            "small sets (8)": 0.535, "long-tailed sets (2)": 0.585, "CoG levels (5)": 0.5,
        }
    )  # fmt: skip
    real, synthetic = _published_spokes()
    assert real.keys() == synthetic.keys() == spokes.keys()
    assert (real["IN-Val (top-5)"], synthetic["IN-A (top-5)"]) == (92.9, 15.1)  # Tab. 5.2, rows 13 and 17
    assert synthetic["small sets (8)"] == pytest.approx(np.mean([55.3, 57.2, 75.9, 96.7, 92.9, 88.7, 73.1, 62.5]))
    assert real["CoG levels (5)"] == pytest.approx(np.mean([67.8, 63.1, 58.9, 58.2, 52.0]))


def test_the_plane_has_logistic_regression_on_both_axes_and_the_13_sets():
    """Fig. 4.7: x is a probe on ImageNet-1K, not the classifier of training; iNaturalist is not among the 13."""

    def one(name: str, p: float) -> EvaluatedEncoder:
        scores = {("imagenet", "val"): 0.1, ("transfer", "in1k"): p, ("transfer", "inat18"): 0.01}
        scores |= {("cog", level): 1 - p for level in LEVELS} | {("transfer", s): 1 - p for s in paper.SMALL}
        return encoder(name, scores)

    measured = Measurements([one("a", 0.6), one("b", 0.8)])
    caption, [(_, alt, svg)] = plane(measured)
    assert "13 sets of the thesis" in caption and "probe on ImageNet-1K" in alt and "paper" in svg
    without = Measurements([encoder(n, {("imagenet", "val"): 0.5, ("transfer", "dtd"): 0.4}) for n in "ab"])
    assert plane(without) == ("", [])  # no probe on the training task: no figure


def test_stars_are_on_the_convex_hull():
    points = [(0, 4), (1, 3.9), (2, 3), (3, 2.5), (4, 0), (1, 1), (2.9, 2.0)]
    assert convex_hull(points) == {0, 1, 3, 4}  # (2, 3) is not dominated, but below the line from (1, 3.9) to (3, 2.5)
    assert (
        convex_hull([(0, 0), (1, 1)]) == {1}
        and convex_hull([(0, 1), (1, 0)]) == {0, 1}
        and convex_hull([(1, 1)]) == {0}
    )
    theirs = [(row.values[0], row.values[-1]) for row in paper.PLANE_ROWS]
    stars = {paper.PLANE_ROWS[number].label for number in convex_hull(theirs)}
    assert stars <= {row.label for row in paper.PLANE_ROWS[6:]} and {"t-ReX", "t-ReX*"} <= stars  # Tab. D.1, lower half


def test_differences_to_the_baseline(tmp_path: Path):
    """Fig. 3.4: points above and below torchvision's ResNet50."""
    base, other = (
        encoder(name, {("cog", level): p - 0.01 * i for i, level in enumerate(LEVELS)} | {("transfer", "in1k"): p})
        for name, p in (("timm:resnet50.tv_in1k", 0.7), ("timm:x", 0.75))
    )
    measured = Measurements([base, other])
    values = measured.scores[measured.scores["dataset"] == "cog-L3"].set_index("encoder")["top1"]
    assert differences(measured, measured.settings[0], values) == pytest.approx({1: 5.0})
    files = []
    for name, p in (("timm:resnet50.tv_in1k", 0.7), ("timm:x", 0.8)):
        few = [entry("L1", f"fewshot-{n}", p / (1 + 1 / n)) for n in (1, 2, 4)]
        files.append(write(tmp_path / f"{p}.json", results(name, "fewshot", few)))
        files.append(write(tmp_path / f"{p}c.json", results(name, "cog", [entry(level, "sgd", p) for level in LEVELS])))
    pipeline.report(files, tmp_path / "r.html")
    assert {"relative-levels", "relative-l1"} <= {path.stem for path in (tmp_path / "r_files").iterdir()}
    pipeline.report(files, tmp_path / "s.html", baseline="timm:none")
    assert not any(path.stem.startswith("relative") for path in (tmp_path / "s_files").glob("*"))


def test_published_points_of_the_sweeps():
    assert published_points("multiple", "val") == {1: 64.8, 10: 72.4, 20: 72.4, 50: 73.3}
    assert published_points("guidance_scale", "val") == {7.5: 47.9, 2: 64.8}
    assert published_points("num_inference_steps", "val") == {50: 47.9}
    assert published_points("multiple", "mean over 10 transfer sets") == {50: 63.2}
    assert published_points("multiple", "sketch") == {}


def test_label_noise_is_a_table_beside_the_thesis():
    noise = LabelNoise(
        dataset="L5",
        split="test",
        probe="label-noise",
        classifier="in1k",
        threshold=0.99,
        confident=0.031,
        num_test=50_000,
    )
    table = noise_table(Measurements([EvaluatedEncoder(name="e", noise=(noise,))]))
    assert table is not None and [cell.text for cell in table.rows[0][1:]] == ["L5", "in1k", "3.10", "50,000"]
    assert "2.7" in table.caption and noise_table(Measurements([EvaluatedEncoder(name="e")])) is None


def test_every_figure_of_the_papers_has_its_name():
    titles = " ".join(drawing.title for drawing in draw_all(Measurements([])))
    assert all(number in titles for number in ("5.2", "5.4", "5.5", "5.6", "4.6b", "4.7", "3.4"))
