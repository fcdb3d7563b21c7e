"""The pages on invariances and gradient features say what was measured: every number in their tables is worked out."""

import re
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from imagenet_sd.evaluation.transformations import TRANSFORMATIONS
from tests.test_findings import FOLDER, Page

INVARIANCES = Page("invariances", "", {}, {}, 0)
GRADIENTS = Page("gradient_features", "", {}, {}, 0)
FUSED = "default + spatial + appearance"
GROUPS = {
    "spatial": [name for name, each in TRANSFORMATIONS.items() if each.family == "spatial"],
    "appearance": [name for name, each in TRANSFORMATIONS.items() if each.family == "appearance"],
    "colour": ["hue", "saturation", "grayscale"],
    "crops": ["resized_crop", "translation", "scale"],
}
Value = Callable[[str], float]
"""Encoder or fusion -> what a claim is about."""


def cell(values: Sequence[float], digits: int = 3) -> str:
    """As the pages write it: mean and population standard deviation of three seeds."""
    assert len(values) == 3
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"


def of_group(encoder: str, group: str) -> list[float]:
    """Mean cosine over a group of transformations, per seed."""
    columns = [INVARIANCES.found["encoders"][encoder][f"cosine {name}"] for name in GROUPS[group]]
    return [statistics.mean(each) for each in zip(*columns, strict=True)]


@pytest.mark.parametrize(("measure", "digits"), [("cosine", 3), ("distance", 2)])
def test_the_tables_of_invariances(measure: str, digits: int):
    header, *rows = INVARIANCES.tables[f"{measure} under"]
    encoders = INVARIANCES.found["encoders"]
    assert header[1:] == [name for name in encoders if " + " not in name]
    shown = {name.split(" (")[0]: cells for name, *cells in rows if not name.startswith("**")}
    assert list(shown) == list(TRANSFORMATIONS)
    for name, cells in shown.items():
        assert cells == [cell(encoders[each][f"{measure} {name}"], digits) for each in header[1:]], name
    means = {name.strip("*").split()[1]: cells for name, *cells in rows if name.startswith("**")}
    assert list(means) == (list(GROUPS) if measure == "cosine" else [])
    for group, cells in means.items():
        assert cells == [cell(of_group(each, group)) for each in header[1:]], group


def test_the_table_of_readouts():
    header, *rows = INVARIANCES.tables["features"]
    assert header[1:] == ["class, top-1", "hue, R²", "rotation, R²"]
    assert [row[0] for row in rows] == list(INVARIANCES.found["encoders"])
    for name, *cells in rows:
        found = INVARIANCES.found["encoders"][name]
        assert cells == [cell(found[target]) for target in ("class", "hue", "rotation")], name
    same = INVARIANCES.found["three_default_encoders"]
    said = "{:.1f}% of the class, {:.3f} of the hue and {:.3f} of the rotation"
    said = said.format(100 * same["class"], same["hue"], same["rotation"])
    assert said in " ".join(INVARIANCES.text.split())


def test_the_orderings_of_the_poster():
    """Each claim, worked out from the numbers: for the means, and for how many seeds it holds."""
    d, s, a, labels = "default", "spatial", "appearance", "supervised"
    claims: list[tuple[str, Callable[[Value], bool]]] = [
        ("spatial", lambda v: v(s) > max(v(d), v(a))),
        ("appearance", lambda v: v(a) > max(v(d), v(s))),
        ("colour", lambda v: v(s) < min(v(d), v(a))),
        ("crops", lambda v: v(a) < min(v(d), v(s))),
        ("class", lambda v: min(v(d), v(labels)) > v(s) > v(a)),
        ("hue", lambda v: v(s) > v(a)),
        ("rotation", lambda v: v(a) > v(s)),
    ]
    _, *rows = INVARIANCES.tables["claim"]
    for (what, holds), row in zip(claims, rows[:-1], strict=True):

        def values(encoder: str, what: str = what) -> list[float]:
            return of_group(encoder, what) if what in GROUPS else INVARIANCES.found["encoders"][encoder][what]

        seeds = sum(holds(lambda name, seed=seed: values(name)[seed]) for seed in range(3))
        mean = holds(lambda name: statistics.mean(values(name)))
        assert row[2:] == ["yes" if mean else "no", f"{seeds} of 3"], row[0]
        for shown in row[1].split(", "):
            name, number = shown.split(" ", 1)
            assert number == cell(values(name)), row[0]


def test_the_worst_ranks():
    found = INVARIANCES.found["encoders"]
    ranks = dict.fromkeys(found, 0)
    for target in ("class", "hue", "rotation"):
        best_first = sorted(found, key=lambda name: -statistics.mean(found[name][target]))
        ranks = {name: max(ranks[name], 1 + best_first.index(name)) for name in found}
    _, shown, holds, _ = INVARIANCES.tables["claim"][-1]
    assert sorted(shown.split("; ")) == sorted(f"{name} {rank}" for name, rank in ranks.items())
    assert holds == ("yes" if ranks[FUSED] == min(ranks.values()) else "no")


ROWS = {  # title -> probe, and what Tab. 1 of the paper has for it
    "logistic regression (the start)": ("gradient-start", (63.38, 63.38, 63.38)),
    "activations alone, the same steps": ("gradient-activations", None),
    "gradient features": ("gradient", (70.21, 70.74, 71.30)),
    "random omega": ("gradient-random-omega", (68.89, 69.83, 70.30)),
    "random theta2": ("gradient-random-theta2", (69.11, 67.10, 62.62)),
    "random theta1": ("gradient-random-theta1", (64.38, 64.31, 64.13)),
    "fine-tuned": ("gradient-fine-tuned", (72.27, 74.16, 77.14)),
}


@pytest.mark.parametrize("encoder", ["without labels", "with labels"])
def test_the_tables_of_gradient_features(encoder: str):
    header, *rows = GRADIENTS.tables[f"trained {encoder}"]
    columns = GRADIENTS.found["encoders"][encoder]
    assert header[1:] == list(columns) == ["layer4", "layer3,layer4", "layer2,layer3,layer4"]
    percent = {
        blocks: {probe: [100 * each for each in found[probe]] for probe, _ in ROWS.values()}
        for blocks, found in columns.items()
    }
    shown = {name: cells for name, *cells in rows}
    for name, (probe, paper) in ROWS.items():
        beside = [f" ({each:.2f})" for each in paper] if paper else ["", "", ""]
        ours = [cell(found[probe], 2) for found in percent.values()]
        assert shown.pop(name) == [a + b for a, b in zip(ours, beside, strict=True)], name
    for than, title in (("activations", "activations"), ("start", "the logistic regression")):
        gains = [
            [a - b for a, b in zip(found["gradient"], found[f"gradient-{than}"], strict=True)]
            for found in percent.values()
        ]
        assert shown.pop(f"**gain over {title}**") == [cell(gain, 2) for gain in gains], title
    assert not shown


def test_the_cell_with_more_steps():
    found = {probe: 100 * np.array(values) for probe, values in GRADIENTS.found["one_block_600_steps"].items()}
    gains = [cell(found["gradient"] - found[f"gradient-{than}"], 2) for than in ("activations", "start")]
    said = (
        f"gradient features {cell(found['gradient'], 2)} (over activations {gains[0]}, over the logistic regression "
        f"{gains[1]}), fine-tuned {cell(found['gradient-fine-tuned'], 2)}"
    )
    assert said in " ".join(GRADIENTS.text.split())


@pytest.mark.parametrize("page", [INVARIANCES, GRADIENTS], ids=lambda page: page.name)
def test_the_page_names_its_origin(page: Page):
    found = page.found
    assert f"commit `{found['commit']}`" in page.text and found["command"] in page.text
    assert found["machine"] in page.text and found["settings"]["seeds"] == 3
    assert f"{found['steps']:,} steps" in page.text
    pictures = re.findall(r"\]\(<?([^)>]+\.svg)>?\)", page.text)
    assert pictures
    for picture in pictures:
        assert (FOLDER / picture).read_text(encoding="utf-8").lstrip().startswith(("<?xml", "<svg"))
