"""What a report is made of: encoders, with all that was measured on them and the folders that they come from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from imagenet_sd.core.results import FeatureAnalysis, InvarianceResult, LabelNoise, ProbeResult, RegressionResult

TRANSFER = ("aircraft", "cars196", "dtd", "eurosat", "flowers", "pets", "food101", "sun397", "inat18", "inat19")
"""The ten transfer sets of Tab. 5.3, as the suites call them, in its order."""
IN1K = ("in1k", "imagenet-1k", "imagenet")
"""Names for ImageNet-1K itself under a probe, on frozen features."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One result and the suite that it belongs to."""

    suite: str
    result: ProbeResult

    @property
    def key(self) -> tuple[str, str, str]:
        """Data set, split and probe: what makes two scores comparable."""
        return self.result.dataset, self.result.split, self.result.probe

    @property
    def kind(self) -> Literal["training", "probe", "transfer", "other"]:
        """What was scored.

        `training`: the encoder's own classifier; `probe`: logistic regression on frozen features on the classes of
        ImageNet-1K; `transfer`: the same on other data; `other`: few-shot, episodes, read-outs.
        """
        if self.suite == "imagenet-probe" or (self.suite == "transfer" and self.result.dataset in IN1K):
            return "probe"
        if self.suite in ("transfer", "cog"):
            return "transfer"
        return "other" if self.suite in ("fewshot", "readout") else "training"


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFolder:
    """One dataset folder: what its `dataset.json` says."""

    path: Path
    name: str
    facts: Mapping[str, str]
    factors: Mapping[str, Any]
    class_list: str
    names: Mapping[str, str]
    num_images: int
    width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """One run folder of `train`."""

    path: Path
    name: str
    data: str
    facts: Mapping[str, str]
    factors: Mapping[str, Any]
    classes: frozenset[str]
    score: Score | None
    versions: Mapping[str, str]
    training: Mapping[str, Any] = field(default_factory=dict)
    num_images: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedEncoder:
    """One encoder with all that was measured on it.

    `factors` may hold prompt, guidance_scale, num_inference_steps, multiple, augmentation, data and seed, and whatever
    else a study varied. `num_images`: images that it was trained on; None where nobody says. `training`: the settings
    of `TRAINING_FACTS` that are known; `model`: the generator of its images, "" where there is none or nobody says.
    """

    name: str
    study: str = ""
    factors: Mapping[str, Any] = field(default_factory=dict)
    scores: tuple[Score, ...] = ()
    analyses: tuple[FeatureAnalysis, ...] = ()
    invariances: tuple[InvarianceResult, ...] = ()
    regressions: tuple[RegressionResult, ...] = ()
    noise: tuple[LabelNoise, ...] = ()
    dataset: DatasetFolder | None = None
    run: RunFolder | None = None
    class_list: str = ""
    num_images: int | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""


def merge(scores: list[Score]) -> tuple[tuple[Score, ...], list[str]]:
    """Scores without repetitions, the first of each kept, and a remark on every repetition that says otherwise."""
    kept: dict[tuple[str, str, str, str], Score] = {}
    remarks, details = [], {"per_class", "worst", "cache_keys", "unreadable", "hyper_parameters"}
    for score in scores:
        first = kept.setdefault((*score.key, score.suite), score)
        if first.result.model_dump(exclude=details) != score.result.model_dump(exclude=details):
            dataset, split, probe = score.key
            remarks.append(f"{dataset}/{split} ({probe}) was measured twice; the first is shown")
    return tuple(kept.values()), remarks


def wilson(share: float, count: int) -> tuple[float, float]:
    """95% Wilson interval of a share of `count` images; for accuracies that came without their images."""
    z = 1.959963984540054
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
