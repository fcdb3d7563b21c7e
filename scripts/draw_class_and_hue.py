"""Draw what linear probes read out of encoders: CIFAR-10's class against the main hue, and what AugSelf changes.

Call it with the `study.json` of `pipelines/self_supervised.yaml` and the file to write:
`python scripts/draw_class_and_hue.py study.json class-and-hue.svg`.
"""

import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np

from imagenet_sd.core.documents import read_document
from imagenet_sd.core.results import StudyResults
from imagenet_sd.report.svg import COLOURS, INK, MARKERS, STYLE, new_axes, standalone, to_panel

NAMES = {"simclr": "SimCLR", "mocov2": "MoCo v2", "byol": "BYOL", "simsiam": "SimSiam", "swav": "SwAV",
         "supervised": "with labels", "random": "random weights", "start": "their start"}  # fmt: skip


def main() -> None:
    study = read_document(StudyResults, Path(sys.argv[1]))
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for cell in study.cells:
        name = str(cell.factors["method"]).replace("-small", "")
        if "train.optimizer.base_lr" in cell.factors:
            name = "start" if str(cell.factors["train.model.zero_init_last"]) == "True" else "random"
        found[name].append((100 * cell.metrics["cifar10/test"].top1, 100 * cell.metrics["hue/test"].top1))
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(6.2, 4.2)
        for number, (name, values) in enumerate(found.items()):
            (x, y), (dx, dy) = np.mean(values, 0), np.std(values, 0)
            base, _, augself = name.partition("+")
            colour = COLOURS[(list(found).index(base) if augself else number) % len(COLOURS)]
            colour = INK if name in ("start", "random") else colour
            shown = "none" if augself else colour
            axes.errorbar(
                x, y, dy, dx, color=colour, marker=MARKERS[number % len(MARKERS)], ms=7, lw=1, mfc=shown, ls=""
            )
            label = NAMES.get(base, base) + (" + AugSelf" if augself else "")
            beside = {"xytext": (-7, -6), "ha": "right", "va": "top"} if name == "byol" else {"xytext": (7, 6)}
            axes.annotate(label, (x, y), textcoords="offset points", color=colour, **beside)
            if augself:
                arrow = {"arrowstyle": "->", "color": INK, "alpha": 0.5, "shrinkA": 8, "shrinkB": 8}
                axes.annotate("", (x, y), np.mean(found[base], 0), arrowprops=arrow)
        axes.margins(0.15)
        axes.set(xlabel="CIFAR-10, top-1 (%)", ylabel="main hue of six, top-1 (%)")
        alt = "Top-1 on the class against top-1 on the main hue, one point per method, mean of three seeds"
        _, _, svg = to_panel(figure, "class-and-hue", alt)
    Path(sys.argv[2]).write_text(standalone(svg), encoding="utf-8")


if __name__ == "__main__":
    main()
