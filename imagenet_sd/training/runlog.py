"""What a run writes down: metrics as JSON lines and for TensorBoard, and a plot of its curves."""

import json
from pathlib import Path
from typing import Any

from imagenet_sd.core.files import atomic_write


class RunLog:
    """Metrics of one run; `active` on the first process only, the others write nothing."""

    def __init__(self, run: Path, active: bool = True):
        self.active = active
        self.path = run / "metrics.jsonl"
        self._board = None
        if active:
            from torch.utils.tensorboard import SummaryWriter

            run.mkdir(parents=True, exist_ok=True)
            self._board = SummaryWriter(str(run / "tensorboard"))

    def step(self, step: int, loss: float, learning_rate: float) -> None:
        """One optimiser step."""
        self._write({"step": step, "loss": loss, "learning_rate": learning_rate})

    def epoch(self, facts: dict[str, Any]) -> None:
        """One finished epoch; every number goes to TensorBoard under its name."""
        self._write(facts)
        if self._board is not None:
            for name, value in facts.items():
                if isinstance(value, int | float) and name != "epoch":
                    self._board.add_scalar(name, value, facts["epoch"])
            self._board.flush()

    def _write(self, facts: dict[str, Any]) -> None:
        if self.active:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(facts) + "\n")

    def rewind(self, epoch: int, step: int) -> None:
        """Forget what was written after a checkpoint: epochs past `epoch`, steps from `step` on."""
        if self.active and self.path.exists():
            kept = [x for x in read_metrics(self.path) if x.get("epoch", 0) <= epoch and x.get("step", -1) < step]
            text = "".join(json.dumps(x) + "\n" for x in kept)
            atomic_write(self.path, lambda path: path.write_text(text, encoding="utf-8"))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that was cut off is left out."""
    metrics = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            metrics.append(json.loads(line))
        except ValueError:
            continue
    return metrics


def plot_curves(metrics: list[dict[str, Any]], path: Path) -> None:
    """Loss per step and validation accuracy per epoch, as a PNG."""
    from matplotlib.figure import Figure

    steps = [x for x in metrics if "step" in x]
    epochs = [x for x in metrics if "epoch" in x]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot([x["step"] for x in steps], [x["loss"] for x in steps], linewidth=0.8, color="#4878a8")
    loss.set(xlabel="step", ylabel="training loss", title="Loss")
    scores = {"val_top1": "top-1", "val_top5": "top-5", "knn_top1": "k-NN top-1"}
    lines = {label: [(x["epoch"], 100 * x[key]) for x in epochs if key in x] for key, label in scores.items()}
    lines = {label: points for label, points in lines.items() if points}
    for label, points in lines.items():
        accuracy.plot(*zip(*points, strict=True), marker="o", markersize=3, label=f"{label} ({points[-1][1]:.1f}%)")
    if lines:
        accuracy.legend()
    else:
        accuracy.set_axis_off()
    accuracy.set(xlabel="epoch", ylabel="accuracy on real images (%)", title="Validation")
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
