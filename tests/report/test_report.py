"""The report's numbers, worked out a second time; its inputs, taken apart; its files, read back."""

# ruff: noqa: RUF001  # the page's own dashes and multiplication signs

import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from imagenet_sd import pipeline
from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.report.collect import collect
from imagenet_sd.report.encoders import wilson
from imagenet_sd.report.paper import COG_ROWS, IMAGENET, TRANSFER_ROWS
from tests.conftest import ROOT, CliRun
from tests.report.samples import BASE, HOSTILE, SWEEP, TEN, entry, make_run, make_study, results, write


class Tables(HTMLParser):
    """The tables of a page: id of the heading before it -> rows of cell texts, the last header line first."""

    def __init__(self):
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self.key = ""
        self.cell = False

    def handle_starttag(self, tag, attrs):
        if tag == "h3":
            self.key = dict(attrs).get("id", "")
        elif tag == "table":
            self.found[self.key] = []
        elif tag == "tr":
            self.found[self.key].append([])
        elif tag in ("td", "th"):
            self.found[self.key][-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.cell:
            self.found[self.key][-1][-1] += data


def tables(page: Path) -> dict[str, list[list[str]]]:
    parser = Tables()
    parser.feed(page.read_text())
    return parser.found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, small_dataset: Path) -> Path:
    return make_study(tmp_path_factory.mktemp("study"), small_dataset)


@pytest.fixture(scope="module")
def written(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("out") / "report.html"
    pipeline.report([study], page)
    return page


def test_study_settings_are_mean_and_population_deviation_over_seeds(study: Path, written: Path):
    rows = tables(written)["study-digits"][2:]
    assert len(rows) == len(SWEEP)
    for number, row in enumerate(rows):
        factors = {**BASE, **SWEEP[number]}
        real = factors.get("data") == "real"
        assert row[:6] == [
            "real" if real else "synthetic",
            "–" if real else "c_dc",
            "–" if real else f"{factors['guidance_scale']:g}",
            "–" if real else f"{factors['num_inference_steps']}",
            f"{factors['multiple']:g}×",
            factors["augmentation"],
        ]
        assert row[6] == "2"
        for column, (stem, at) in enumerate([("own", 0), ("probes", 0), ("probes", 1), ("probes", 2)]):
            files = [study.parent / f"cell-{number}-{seed}" / f"{stem}.json" for seed in (0, 1)]
            found = [json.loads(file.read_text())["results"][at] for file in files]
            for offset, measure in enumerate(("top1", "top5")):
                values = [100 * result[measure] for result in found]
                expected = f"{np.mean(values):.2f} ± {np.std(values, ddof=0):.2f}"
                assert row[7 + 2 * column + offset] == expected


def test_all_results_are_listed_as_measured(study: Path, written: Path):
    rows = tables(written)["results"]
    assert rows[0][3:6] == ["Top-1 %", "95% interval", "Top-5 %"]
    assert len(rows) == 1 + 2 * len(SWEEP) * 5
    result = json.loads((study.parent / "cell-3-1" / "probes.json").read_text())["results"][2]
    row = next(row for row in rows if row[:3] == ["scale 7.5, seed 1", "pets/test", "lbfgs"])
    low, high = (100 * side for side in result["top1_interval"])
    assert row[3:] == [
        f"{100 * result['top1']:.2f}",
        f"{low:.2f} – {high:.2f}",
        f"{100 * result['top5']:.2f}",
        f"{100 * result['mean_per_class_accuracy']:.2f}",
        f"{result['log_odds']:.3f}",
        "200",
        "1",
    ]


def test_the_layout_of_table_5_1_for_a_study(study: Path, written: Path):
    def mean(number: int) -> float:
        files = [study.parent / f"cell-{number}-{seed}" / "own.json" for seed in (0, 1)]
        return 100 * float(np.mean([json.loads(f.read_text())["results"][0]["top1"] for f in files]))

    header, row = tables(written)["study-digits-augmentation-mnist"]
    assert header == ["Training data", "Plain", "Strong", "Strong minus plain"]
    plain, strong = mean(8), mean(1)
    assert row[0] == "synthetic, c_dc, scale 2, 20 steps, 1×"
    assert row[1].startswith(f"{plain:.2f} ±") and row[2].startswith(f"{strong:.2f} ±")
    assert row[3] == f"{strong - plain:+.2f}"


def test_the_papers_numbers_stand_in_their_tables(written: Path):
    found = tables(written)
    assert found["tab-5-1"][1][1:] == ["– (86.6)", "– (87.4)"] and found["tab-5-1"][2][1:] == ["– (28.4)", "– (43.1)"]
    row = next(r for r in found["tab-5-2"] if r[:4] == ["ImageNet-100-SD", "50×", "2.0", "c, dc (50×)"])
    assert row[4:6] == ["– (73.3)", "– (91.7)"]
    row = next(r for r in found["tab-5-2"] if r[:4] == ["ImageNet-1K-SD", "1×", "2.0", "c, dc"])
    assert row[4:6] == ["– (42.9)", "– (70.3)"] and row[-1] == "– (15.1)"
    row = next(r for r in found["tab-5-3"] if r[:3] == ["ImageNet-1K-SD", "1×", "2.0"])
    assert row[4] == "– (55.3)" and row[-1] == "– (68.4)"
    assert found["tab-5-4"][-1][4:] == ["– (70.4)", "– (65.7)", "– (61.8)", "– (58.5)", "– (58.0)", "– (52.4)"]
    assert (len(IMAGENET), len(TRANSFER_ROWS), len(COG_ROWS)) == (17, 8, 4)
    for published in TRANSFER_ROWS:  # the printed average is that of the printed numbers, up to rounding
        assert abs(np.mean(published.values[:10]) - published.values[10]) <= 0.06


def imagenet_100(folder: Path, **recipe) -> Path:
    """The `dataset.json` of ImageNet-100-SD, prompt c_dc at scale 2, without a shard."""
    text = (ROOT / "prompts" / "classes" / "imagenet-100.txt").read_text()
    wnids = [line.split("#")[0].strip() for line in text.splitlines() if line.split("#")[0].strip()]
    document = {
        "format_version": 1,  # as older versions wrote it
        "made_with": "imagenet-sd 0.1.0",
        "fingerprint": "f",
        "rounds": 1,
        "recipe": {
            "class_list": "imagenet-100",
            "prompt": "c_dc",
            "template": "{name}, {definition}",
            "model_id": "CompVis/stable-diffusion-v1-4",
            "guidance_scale": 2.0,
            "num_inference_steps": 50,
            "width": 512,
            "height": 384,
            "seed": 0,
            **recipe,
        },
        "classes": [{"wnid": w, "lemmas": [w], "count": 1266 + (i < 89)} for i, w in enumerate(wnids)],  # 126,689
    }
    return write(folder / "dataset.json", document).parent


@pytest.mark.parametrize(
    ("recipe", "train", "row"),
    [
        ({}, {}, 8),
        ({"prompt": "c", "template": "{name}", "guidance_scale": 7.5}, {}, 2),
        ({"num_inference_steps": 25}, {}, None),  # the paper's rows have 50 steps
        ({"guidance_scale": 3.0}, {}, None),
        ({}, {"augmentation": "pytorch"}, None),
    ],
)
def test_our_results_stand_beside_the_row_they_answer(tmp_path: Path, recipe: dict, train: dict, row: int | None):
    data = imagenet_100(tmp_path / "clone", **recipe)
    run = make_run(tmp_path / "run", str(data), "", **train)
    own = [entry(name, "classifier", 0.6, seed) for seed, name in enumerate(("val", "v2", "r"))]
    probes = [entry(name, "lbfgs", 0.7, seed) for seed, name in enumerate(TEN)]
    levels = [entry(f"cog-L{level}", "sgd", 0.5, level) for level in range(1, 6)]
    files = [
        write(tmp_path / f"{suite}.json", results(str(run), suite, entries))
        for suite, entries in (("imagenet", own), ("transfer", probes), ("cog", levels))
    ]
    pipeline.report([*files, run, data], tmp_path / "r.html")
    found = tables(tmp_path / "r.html")
    ours = [number for number, cells in enumerate(found["tab-5-2"][1:]) if any(re.match(r"\d", c) for c in cells[4:])]
    beside = found["tab-5-2"][1 + (row if row is not None else len(IMAGENET) + 1)]
    assert ours == [row if row is not None else len(IMAGENET) + 1]
    assert beside[4].startswith(f"{100 * own[0]['top1']:.1f}") and beside[5].startswith(f"{100 * own[0]['top5']:.1f}")
    assert beside[8].startswith("–") and beside[10].startswith(f"{100 * own[2]['top1']:.1f}")
    transfer = next(r for r in found["tab-5-3"][1:] if re.match(r"\d", r[4]))
    assert transfer[-1] == f"{100 * np.mean([p['top1'] for p in probes]):.1f}"  # this size is not in Tab. 5.3
    level = next(r for r in found["tab-5-4"][1:] if re.match(r"\d", r[5]))
    assert [cell.split()[0] for cell in level[4:]] == ["–", *(f"{100 * e['top1']:.1f}" for e in levels)]


def test_an_average_over_nine_sets_is_no_average_over_ten(tmp_path: Path):
    nine = [entry(name, "lbfgs", 0.7) for name in TEN[:-1]]
    path = write(tmp_path / "r.json", results("timm:resnet50.a1_in1k", "transfer", nine))
    pipeline.report([path], tmp_path / "r.html")
    row = next(r for r in tables(tmp_path / "r.html")["tab-5-3"] if r[3] == "RSB-A1")
    assert row[4] == f"{100 * nine[0]['top1']:.1f} (46.8)" and row[-1] == "– (66.5)"


def test_results_of_evaluate_itself(tmp_path: Path, cli: CliRun):
    arguments = "evaluate timm:resnet10t@random --data faces=builtin:faces --probe knn --seeds 1 --side 32".split()
    for suite in ("transfer", "analysis"):
        done = cli(*arguments, "--suite", suite, "--out", tmp_path / f"{suite}.json", "--cache", tmp_path / "cache")
        assert done.returncode == 0, done.stderr
    done = cli("report", tmp_path, "--out", tmp_path / "out" / "r.html", "--format", "json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    result = json.loads((tmp_path / "transfer.json").read_text())["results"][0]
    assert tables(tmp_path / "out" / "r.html")["results"][1][:4] == [
        "timm:resnet10t@random",
        "faces/test",
        "knn",
        f"{100 * result['top1']:.2f}",
    ]
    assert [Path(f).stem.split("-")[0] for f in summary["figures"]] == [*["features"] * 4, "singular"]
    assert any(line.startswith("Accuracy at a glance") for line in summary["missing"])
    assert Path(summary["markdown"]).is_file()


def test_a_run_alone_and_its_interval(tmp_path: Path):
    run = make_run(tmp_path / "run", "builtin:mnist", top1=0.958)
    pipeline.report([run], tmp_path / "r.html")
    row = tables(tmp_path / "r.html")["results"][1]
    low, high = binomtest(958, 1000).proportion_ci(method="wilson")
    assert row[:4] == ["real images", "builtin:mnist/test", "training run", "95.80"]
    assert row[4] == f"{100 * low:.2f} – {100 * high:.2f}" and row[7:] == ["–", "1,000", "–"]
    assert wilson(1.0, 20)[1] == 1.0 and wilson(0.0, 20)[0] == 0.0


def test_numbers_of_the_study_file_count_where_a_results_file_is_missing(study: Path, tmp_path: Path):
    folder = Path(shutil.copytree(study.parent, tmp_path / "s"))
    (folder / "cell-0-0" / "own.json").unlink()
    probes = json.loads((folder / "cell-0-0" / "probes.json").read_text())
    write(folder / "cell-0-0" / "probes.json", {**probes, "results": probes["results"][:3]})  # none on mnist
    document = json.loads((folder / "study.json").read_text())
    document["cells"][0]["metrics"]["mnist/test"]["top1"] = 0.125
    document["cells"][2]["metrics"]["mnist/test"]["top1"] = 0.5  # its results file is there, and wins
    write(folder / "study.json", document)
    inputs = collect([folder])
    by_name = {encoder.name: [score.result for score in encoder.scores] for encoder in inputs.encoders}
    repeated = [r for r in by_name["cell-0-0"] if r.dataset == "mnist"]
    assert [(r.probe, r.top1) for r in repeated] == [("study", 0.125)]
    measured = json.loads((folder / "cell-1-0" / "own.json").read_text())["results"][0]["top1"]
    own = [r for r in by_name["cell-1-0"] if r.dataset == "mnist" and r.probe != "lbfgs"]
    assert [r.top1 for r in own] == [measured]
    assert inputs.remarks == ["cell-0-0: own.json is named in the study, but is not there"]


def star(folder: Path) -> Path:
    """A study as `imagenet-sd run` writes it: extra factors, real images in two sizes, an encoder of others."""
    synthetic = {**BASE, "data": "synthetic"}
    cells = [
        ({**synthetic, "seed": 0}, 0.8),
        ({**synthetic, "seed": 1}, 0.7),
        ({**synthetic, "seed": 0, "train.optimizer.epochs": 5}, 0.3),
        ({**synthetic, "seed": 0, "multiple": 4.0}, 0.9),
        ({"data": "real", "source": "builtin:mnist@per_class=40", "multiple": 1.0, "augmentation": "strong"}, 0.9),
        ({"data": "real", "source": "builtin:mnist", "multiple": 10.0, "augmentation": "strong"}, 0.97),
        ({"encoder": "timm:resnet50.a1_in1k"}, 0.6),
    ]
    return write(
        folder / "star.json",
        {
            "name": "star",
            "cells": [
                {
                    "id": f"c{n}",
                    "factors": f,
                    "images": 400,
                    "metrics": {"mnist/test": {"top1": v}, "pets/test": {"top1": v}},
                }
                for n, (f, v) in enumerate(cells)
            ],
        },
    )


def test_other_factors_keep_settings_apart(tmp_path: Path):
    pipeline.report([star(tmp_path)], tmp_path / "r.html")
    found = tables(tmp_path / "r.html")
    header, *rows = found["study-star"][1:]
    titles = "Encoder Data Prompt Scale Steps Size Augmentation Source Epochs Seeds"
    assert header[:10] == titles.split()
    numbers = [(row[1], row[5], row[8], row[9], row[10]) for row in rows]
    assert numbers == [
        ("synthetic", "1×", "–", "2", "75.00 ± 5.00"),
        ("synthetic", "1×", "5", "1", "30.00"),
        ("synthetic", "4×", "–", "1", "90.00"),
        ("real", "1×", "–", "1", "90.00"),
        ("real", "10×", "–", "1", "97.00"),
        ("–", "–", "–", "1", "60.00"),
    ]
    assert rows[-1][0] == "timm:resnet50.a1_in1k"
    row = next(r for r in found["tab-5-3"] if r[3] == "RSB-A1")
    assert row[9] == "60.0 (93.0)"  # not the Pets of any other cell


def test_real_images_of_several_sizes_are_a_curve_too(tmp_path: Path):
    pipeline.report([star(tmp_path)], tmp_path / "r.html")
    words = [
        t.text for t in ET.parse(tmp_path / "r_files" / "multiple-0.svg").getroot().iter() if t.tag.endswith("text")
    ]
    assert {"synthetic", "real images", "1×", "4×", "10×", "400"} <= set(words)


def test_a_mean_over_transfer_sets_takes_those_that_a_study_shares(study: Path, tmp_path: Path):
    """An encoder of others, measured on one set only, takes no curve away from the study."""
    other = write(tmp_path / "o.json", results("timm:resnet50.a1_in1k", "transfer", [entry("dtd", "lbfgs", 0.7)]))
    pipeline.report([study, other], tmp_path / "r.html")
    stems = {path.stem for path in (tmp_path / "r_files").iterdir()}
    assert {"radar", "plane", "guidance-scale-0", "guidance-scale-1"} <= stems
    assert "mean over 3 transfer sets" in (tmp_path / "r_files" / "guidance-scale-1.svg").read_text()


def test_two_studies_of_one_name_stay_apart(study: Path, tmp_path: Path):
    copies = [Path(shutil.copytree(study.parent, tmp_path / name)) for name in ("a", "b")]
    document = json.loads((copies[1] / "study.json").read_text())
    write(copies[1] / "study.json", {**document, "cells": document["cells"][:2]})
    pipeline.report([study, *copies], tmp_path / "r.html")
    found = tables(tmp_path / "r.html")
    sizes = [len(found[key]) - 2 for key in ("study-digits", "study-digits-2", "study-digits-3")]
    assert sizes == [len(SWEEP), len(SWEEP), 1]


def test_results_of_the_embedded_generator_come_with_their_caveat(written: Path, tmp_path: Path):
    alone = write(tmp_path / "o.json", results("timm:resnet50.a1_in1k", "transfer", [entry("dtd", "lbfgs", 0.7)]))
    pipeline.report([alone], tmp_path / "r.html")
    for page, present in ((written, True), (tmp_path / "r.html", False)):
        for path in (page, page.with_suffix(".md")):
            assert ("not zero-shot" in path.read_text()) is present


def test_the_same_inputs_give_the_same_bytes(study: Path, written: Path, tmp_path: Path, cli: CliRun):
    done = cli("report", study, "--out", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    files = sorted(p.relative_to(written.parent) for p in written.parent.rglob("*") if p.is_file())
    assert len(files) == 2 + len(list((written.parent / "report_files").iterdir()))
    for name in files:
        assert (tmp_path / name).read_bytes() == (written.parent / name).read_bytes(), name


def test_markdown_and_its_figures(written: Path):
    text = written.with_suffix(".md").read_text()
    figures = re.findall(r"^!\[.+\]\(<(.+\.svg)>\)$", text, flags=re.MULTILINE)
    stems = {Path(f).stem for f in figures}
    assert {"radar", "plane", "multiple-0", "guidance-scale-0", "guidance-scale-1", "num-inference-steps-0"} <= stems
    assert {"features-sparsity", "features-redundancy", "classes-0-mnist-test", "singular-values"} <= stems
    assert sorted(figures) == sorted(f"report_files/{p.name}" for p in (written.parent / "report_files").iterdir())
    for name in figures:
        root = ET.parse(written.parent / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and float(root.get("width", "").removesuffix("pt")) > 100
        raw = (written.parent / name).read_text()
        assert "dc:date" not in raw and "currentColor" in raw and "#010203" not in raw
        ids = re.findall(r'\sid="([^"]+)"', raw)
        assert len(ids) == len(set(ids)) and set(re.findall(r'(?:href="|url\()#([^")]+)', raw)) <= set(ids)
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert "    imagenet-sd run study.yaml --set seeds=2" in text


def test_curves_show_the_means(study: Path, written: Path):
    """The heights of the guidance curve, read back from the picture, are proportional to the means."""
    root = ET.parse(written.parent / "report_files" / "guidance-scale-0.svg").getroot()
    paths = [p for p in root.iter("{http://www.w3.org/2000/svg}path") if "#3d85c6" in p.get("style", "")]
    line = next(p.get("d", "") for p in paths if len(re.findall("[ML]", p.get("d", ""))) == 4)
    heights = [-float(y) for _, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", line)]
    means = []
    for number in range(4):
        files = [study.parent / f"cell-{number}-{seed}" / "own.json" for seed in (0, 1)]
        means.append(np.mean([json.loads(f.read_text())["results"][0]["top1"] for f in files]))
    scaled = (np.array(heights) - heights[0]) / (heights[3] - heights[0])
    assert np.allclose(scaled, (np.array(means) - means[0]) / (means[3] - means[0]), atol=1e-3)


def test_hostile_names_stay_text(tmp_path: Path):
    own = entry(HOSTILE, "classifier", 0.8)
    own["per_class"] = {HOSTILE: 0.25, "_hidden": 0.5, "a\u202eb": 0.75}
    own["worst"] = [{"image": HOSTILE, "wnid": HOSTILE, "predicted": "_hidden"}]
    path = write(tmp_path / "r.json", results(HOSTILE, "imagenet", [own]))
    pipeline.report([path], tmp_path / "r.html", title=HOSTILE)
    html, text = (tmp_path / "r.html").read_text(), (tmp_path / "r.md").read_text()
    assert html.count("<script") == 1 and "<script>alert" not in html and "\u202e" not in html
    assert "<script" not in text.replace("\\<", "") and "| `x`" not in text
    figure = next((tmp_path / "r_files").glob("classes-0*"))
    words = [t.text for t in ET.parse(figure).getroot().iter("{http://www.w3.org/2000/svg}text")]
    assert any(t and t.startswith("<script>alert") for t in words) and any(t and "_hidden" in t for t in words)


def break_first(change) -> dict:
    document = results("e", "transfer", [entry("pets", "lbfgs", 0.5)])
    change(document, document["results"][0])
    return document


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, r: r.update(top1=1.7), "results[0].top1 is 1.7; it should be less than or equal to 1"),
        (lambda d, r: r.update(top1="high"), "results[0].top1 is 'high'; it should be a valid number"),
        (lambda d, r: r.pop("top1"), "results[0].top1 is missing"),
        (lambda d, r: r.update(top1=True), "results[0].top1 is True; it should be a valid number"),
        (lambda d, r: r.update(num_test=0), "results[0].num_test is 0"),
        (lambda d, r: r.update(dataset=["x"]), "results[0].dataset is a list; it should be a valid string"),
        (lambda d, r: r.update(top1_interval=[0.1]), "results[0].top1_interval[1] is missing"),
        (lambda d, r: r.update(per_class={"n1": 2}), "results[0].per_class.n1 is 2"),
        (lambda d, r: d.update(suite="none"), "suite is 'none'; it should be 'imagenet', 'transfer'"),
        (lambda d, r: d.update(results={}), "results is an object; it should be a valid list"),
        (lambda d, r: d.pop("results"), "is no results.json"),
    ],
)
def test_a_bad_results_file_is_named_with_its_fault(tmp_path: Path, change, message: str):
    path = write(tmp_path / "r.json", break_first(change))
    with pytest.raises(ImagenetSDError) as caught:
        pipeline.report([path], tmp_path / "r.html")
    assert str(path) in str(caught.value) and message in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.hint and not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 2]", "holds a list, not a JSON object"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"[" * 200_000, "is not JSON"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(ImagenetSDError, match=re.escape(message)):
        pipeline.report([tmp_path / "r.json"], tmp_path / "r.html")


def test_a_huge_file_is_refused_unread(tmp_path: Path):
    with open(tmp_path / "r.json", "wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(ImagenetSDError, match="are not read"):
        pipeline.report([tmp_path / "r.json"], tmp_path / "r.html")


@pytest.mark.parametrize("key", ["dataset", "run", "results"])
@pytest.mark.parametrize("way", ["absolute", "up", "link"])
def test_a_study_cannot_point_outside_its_folder(tmp_path: Path, key: str, way: str):
    outside = write(tmp_path / "outside" / "r.json", results("e", "transfer", [entry("pets", "lbfgs", 0.5)]))
    (tmp_path / "study").mkdir()
    os.symlink(outside.parent, tmp_path / "study" / "link")
    target = {"absolute": str(outside), "up": "../outside/r.json", "link": "link/r.json"}[way]
    cell = {"id": "x", "factors": {}, key: [target] if key == "results" else target}
    study = write(tmp_path / "study" / "study.json", {"name": "s", "cells": [cell]})
    with pytest.raises(ImagenetSDError, match=r"study\.json: cells\[0\]\..* outside the folder of the file"):
        pipeline.report([study], tmp_path / "r.html")


def test_faults_at_the_command_line_are_one_line_and_a_hint(tmp_path: Path, cli: CliRun):
    for arguments in ([tmp_path / "none.json"], [tmp_path], [tmp_path / "none.json", "--out", tmp_path / "r.pdf"]):
        done = cli("report", "--out", tmp_path / "r.html", *arguments)
        assert done.returncode == 1
        assert re.fullmatch(r"error: .+\nhint: .+\n", done.stderr), done.stderr
    assert cli("report").returncode == 2


def test_damaged_and_unfinished_datasets_are_remarked_upon(small_dataset: Path, tmp_path: Path):
    part = Path(shutil.copytree(small_dataset, tmp_path / "part"))
    for manifest in part.glob("data/*/.manifests/*.json"):
        manifest.unlink()
    bad = Path(shutil.copytree(small_dataset, tmp_path / "bad"))
    shard = next(bad.glob("data/*/*.parquet"))
    shard.write_bytes(b"PAR1" + shard.read_bytes()[4:2000])
    pipeline.report([part, bad], tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text()
    assert "part: no finished shard" in html and "is damaged" in html and "<img" not in html
