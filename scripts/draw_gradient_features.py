"""Draw what `benchmarks/gradient_features.py` measured: the gain over logistic regression, for both encoders.

Call it with the `gradient_features.json` of that script and the file to write:
`python scripts/draw_gradient_features.py gradient_features.json gradient-features.svg`.
"""

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from imagenet_sd.report.svg import COLOURS, INK, MARKERS, STYLE, standalone, to_panel

LINES = {
    "gradient-activations": "activations alone",
    "gradient": "gradient features",
    "gradient-random-omega": "random omega",
    "gradient-random-theta2": "random theta2",
    "gradient-random-theta1": "random theta1",
    "gradient-fine-tuned": "fine-tuned",
}


def main() -> None:
    encoders = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["encoders"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 4.0))
        panels = figure.subplots(1, len(encoders), sharey=True)
        for axes, (encoder, columns) in zip(panels, encoders.items(), strict=True):
            for number, (probe, title) in enumerate(LINES.items()):
                values = [np.subtract(found[probe], found["gradient-start"]) for found in columns.values()]
                means, deviations = 100 * np.mean(values, 1), 100 * np.std(values, 1)
                colour = INK if probe == "gradient-activations" else COLOURS[number]
                places = np.arange(1, len(columns) + 1) + 0.04 * (number - 2.5)  # beside each other, not on
                axes.errorbar(
                    places, means, deviations, color=colour, marker=MARKERS[number], ms=5, lw=1.3, label=title
                )
            axes.set_xticks(range(1, len(columns) + 1))
            axes.set(title=f"encoder trained {encoder}", xlabel="blocks in theta2")
            axes.axhline(0, color=INK, lw=0.8, ls=":")
        panels[0].set_ylabel("gain over the logistic regression (points)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        alt = "Gain over the number of blocks, for gradient features, activations, controls and fine-tuning"
        svg = to_panel(figure, "gradient-features", alt)[2]
    Path(sys.argv[2]).write_text(standalone(svg), encoding="utf-8")


if __name__ == "__main__":
    main()
