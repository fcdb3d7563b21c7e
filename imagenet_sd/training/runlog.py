"""What a run writes down: metrics as JSON lines and for an experiment tracker, and a plot of its curves."""

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from imagenet_sd.core.errors import one_line
from imagenet_sd.core.files import atomic_write
from imagenet_sd.training.config import Tracker, TrainingError


def check_tracker(name: Tracker) -> None:
    """See that the package of a tracker is installed.

    Raises:
        TrainingError: it is not.
    """
    if name != "none" and name not in [str(known) for known in get_available_trackers()]:
        raise TrainingError(f"--log-with {name}: {name} is not installed", f"pip install {name.replace('_', '-')}")


class RunLog:
    """Metrics of one run; the first process writes, the others do not.

    Args:
        run: folder of the run.
        accelerator: made with `log_with` and the folder of the run as `project_dir`.
        tracker: its name.
    """

    def __init__(self, run: Path, accelerator: Accelerator, tracker: Tracker = "none"):
        self.run, self.accelerator, self.tracker = run, accelerator, tracker
        self.active = accelerator.is_main_process
        self.path = run / "metrics.jsonl"
        self._step = -1

    def start(self, step: int, config: dict[str, Any]) -> None:
        """Open the tracker; TensorBoard forgets what it was told of from `step` on.

        Args:
            step: the next step.
            config: the training recipe, nested; trackers other than TensorBoard show it beside the metrics.

        Raises:
            TrainingError: the tracker does not start.
        """
        self._step = step - 1
        if self.active:
            self.run.mkdir(parents=True, exist_ok=True)
        if self.tracker == "none":
            return
        local = self.tracker == "tensorboard"
        options = {"tensorboard": {"purge_step": step}, "wandb": {"name": self.run.name, "dir": str(self.run)}}
        try:
            project = "tensorboard" if local else "imagenet-sd"
            self.accelerator.init_trackers(project, None if local else _flat(config), options)
        except Exception as error:  # each tracker raises kinds of its own; none of them is a fault of the run
            raise TrainingError(
                f"--log-with {self.tracker} does not start: {one_line(error)}",
                "log in to it, or leave the option out; the run goes on from where it is",
            ) from None

    def step(self, step: int, loss: float, learning_rate: float) -> None:
        """One optimiser step."""
        self._step = step
        self._write({"step": step, "loss": loss, "learning_rate": learning_rate})
        self.accelerator.log({"step/loss": loss, "step/learning_rate": learning_rate}, step=step)

    def epoch(self, facts: dict[str, Any]) -> None:
        """One finished epoch; every number goes to the tracker under its name, at the last step of the epoch."""
        self._write(facts)
        numbers = {name: value for name, value in facts.items() if isinstance(value, int | float)}
        self.accelerator.log(numbers, step=self._step)

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


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted keys; lists as text, as trackers take them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that was cut off is left out."""
    metrics = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            facts = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(facts, dict):
            metrics.append(facts)
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
