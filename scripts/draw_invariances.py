"""Draw what `benchmarks/invariances.py` measured: invariance to each transformation, and spatial against appearance.

Call it with the `invariances.json` of that script and the two files to write:
`python scripts/draw_invariances.py invariances.json heat-map.svg plane.svg`.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np

from imagenet_sd.evaluation.transformations import TRANSFORMATIONS
from imagenet_sd.report.svg import COLOURS, INK, MARKERS, STYLE, new_axes, standalone, to_panel

Values = Mapping[str, list[float]]
NAMES = {"default": "default family", "spatial": "spatial family", "appearance": "appearance family",
         "supervised": "with labels", "random": "random weights"}  # fmt: skip


def main() -> None:
    source, heat_map, plane = map(Path, sys.argv[1:4])
    encoders = json.loads(source.read_text(encoding="utf-8"))["encoders"]
    with matplotlib.rc_context(STYLE):
        heat_map.write_text(standalone(cosines(encoders)), encoding="utf-8")
        plane.write_text(standalone(spatial_against_appearance(encoders)), encoding="utf-8")


def cosines(encoders: Mapping[str, Values]) -> str:
    """Transformation x encoder, the mean over seeds in every cell."""
    rows = list(TRANSFORMATIONS.values())
    means = [[np.mean(encoders[name][f"cosine {row.name}"]) for name in NAMES] for row in rows]
    figure, axes = new_axes(6.6, 5.2)
    axes.imshow(means, aspect="auto", cmap="Blues", vmin=0, vmax=1)
    for y, line in enumerate(means):
        for x, mean in enumerate(line):
            colour = "white" if mean > 0.55 else "black"  # on the cell's own colour
            axes.text(x, y, f"{mean:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(NAMES)), [name.replace(" ", "\n") for name in NAMES.values()])
    axes.set_yticks(range(len(rows)), [f"{row.name.replace('_', ' ')} ({row.family})" for row in rows])
    axes.grid(visible=False)
    alt = f"Mean cosine of whitened features under {len(rows)} transformations, for {len(NAMES)} encoders"
    return to_panel(figure, "cosines", alt)[2]


def spatial_against_appearance(encoders: Mapping[str, Values]) -> str:
    """One point per encoder: mean cosines over both families of transformations, with deviations over seeds."""
    figure, axes = new_axes(5.6, 4.0)
    for number, (key, name) in enumerate(NAMES.items()):
        x, y = (
            np.mean([encoders[key][f"cosine {each.name}"] for each in TRANSFORMATIONS.values() if each.family == of], 0)
            for of in ("spatial", "appearance")
        )
        colour = INK if key == "random" else COLOURS[number]
        axes.errorbar(
            x.mean(), y.mean(), y.std(), x.std(), color=colour, marker=MARKERS[number], ms=7, lw=1, label=name, ls=""
        )
        axes.annotate(name, (x.mean(), y.mean()), xytext=(8, 6), textcoords="offset points", color=colour)
    axes.margins(0.2)
    axes.set(xlabel="invariance to spatial changes (mean cosine)", ylabel="invariance to appearance (mean cosine)")
    alt = "Mean cosine under spatial changes against that under changes of appearance, one point per encoder"
    return to_panel(figure, "plane", alt)[2]


if __name__ == "__main__":
    main()
