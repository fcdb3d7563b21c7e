"""What a result is: the typed documents that `evaluate` and `run` write and that the report reads.

`results.json` is an `EvaluationResults`, `study.json` a `StudyResults`; `model_json_schema()` of either gives its JSON
schema. All accuracies are fractions in [0, 1].
"""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from imagenet_sd.core.documents import (
    Count,
    Document,
    Fraction,
    IntervalEnd,
    NotNegative,
    Number,
    RelativePath,
    Text,
    Texts,
    Versions,
    clean,
)
from imagenet_sd.core.training_facts import known_facts
from imagenet_sd.core.types import Suite


class Accuracies(Document):
    """What is measured of one classifier on one test set. None: not measured."""

    top1: Fraction
    """Share of images whose class has the highest score; the mean over seeds."""
    top5: Fraction | None = None
    mean_per_class_accuracy: Fraction | None = None
    log_odds: Number | None = None
    """Natural logarithm of p / (1 - p), eq. 4.3 of the thesis."""
    top1_sd: NotNegative | None = None
    """Population standard deviation of top-1 over seeds."""
    num_test: Count | None = None
    """Readable test images."""
    top1_interval: tuple[IntervalEnd, IntervalEnd] | None = None
    """95%: bootstrap over test images, or normal over episodes."""


AVERAGED = ("top1", "top5", "mean_per_class_accuracy", "log_odds")
"""The fields of `Accuracies` that are averaged over seeds, test sets or encoders."""


class Masked(Document):
    """How the classes of a classifier and of a test set met; only those in common are scored."""

    classifier_classes: Count
    data_classes: Count
    scored_classes: Count
    scored: Literal["all"] | Annotated[tuple[Text, ...], Field(max_length=100_000)]
    """Class ids that count, or "all" classes of the classifier."""
    images_left_out: Annotated[int, Field(strict=True, ge=0)]


class Mistake(Document):
    """One misclassified test image: its name, true class and predicted class (class ids)."""

    image: Text = ""
    wnid: Text
    predicted: Text


class _Measured(Document):
    dataset: Text
    split: Text
    probe: Text
    num_classes: Count | None = None
    cache_keys: Texts = ()
    """Names of the feature files that it was computed from."""
    unreadable: Annotated[tuple[Text, ...], Field(max_length=1_000_000)] = ()
    """Images that could not be read."""
    note: Text = ""
    """What a reader should know about the split: that none is official, or that test images are training images."""


class ProbeResult(Accuracies, _Measured):
    """One classifier, scored on one test set."""

    num_train: Count | None = None
    seeds: Annotated[tuple[Annotated[int, Field(strict=True)], ...], Field(max_length=10_000)] = ()
    hyper_parameters: Annotated[tuple[dict[str, Any], ...], Field(max_length=10_000)] = ()
    """One object per seed."""
    selected_by: Text = ""
    """The measure that they were chosen by: "top1" or "mean_per_class"."""
    per_class: Annotated[dict[Text, Fraction], Field(max_length=100_000)] = Field(default_factory=dict)
    """Accuracy by class id."""
    masked: Masked | None = None
    mean_of: Texts = ()
    """Data sets whose results it is the mean of."""
    worst: Annotated[tuple[Mistake, ...], Field(max_length=100_000)] = ()


class FeatureAnalysis(_Measured):
    """The feature measures of one encoder on one data set (Fig. 5.6), of l2-normalised features.

    The split is "test" for the training task, "all" where training and test images went in together (thesis 5.5.5).
    """

    probe: Literal["analysis"]  # pyright: ignore[reportIncompatibleVariableOverride]
    num_test: Count | None = None
    sparsity: Fraction
    """Share of zero entries."""
    intra_class_distance: NotNegative
    redundancy: NotNegative
    coding_length: NotNegative
    """R(X, eps) in nats, an average per image."""
    singular_values: Annotated[tuple[NotNegative, ...], Field(max_length=100_000)] = ()
    """Largest first, as shares of their sum; files of version 0.1.0 hold them unscaled."""


class LabelNoise(_Measured):
    """How many test images of one data set the classifier of another, without a class in common, is very sure of."""

    probe: Literal["label-noise"]  # pyright: ignore[reportIncompatibleVariableOverride]
    classifier: Text
    """The data set whose classes are predicted."""
    classifier_probe: Text = ""
    threshold: Fraction
    """Probability of the predicted class that counts as very sure."""
    confident: Fraction
    """Share of the images above it."""
    num_test: Count | None = None
    seeds: Annotated[tuple[Annotated[int, Field(strict=True)], ...], Field(max_length=10_000)] = ()
    hyper_parameters: Annotated[tuple[dict[str, Any], ...], Field(max_length=10_000)] = ()
    examples: Annotated[tuple[Mistake, ...], Field(max_length=100_000)] = ()
    """The surest first: image, its class, and the class of the other set that was predicted."""


Cosine = Annotated[Number, Field(ge=-1.000001, le=1.000001)]
Curve = Annotated[tuple[Number, ...], Field(max_length=100_000)]


class InvarianceResult(_Measured):
    """How far whitened features move under one transformation (Ericsson et al., 2022)."""

    probe: Literal["invariance"]  # pyright: ignore[reportIncompatibleVariableOverride]
    transformation: Text
    family: Literal["spatial", "appearance", "real"]
    """Of the transformation; `real`: pairs of images of one object."""
    cosine: Cosine
    """Mean over images, then over strengths; 1 is invariant."""
    cosine_sd: NotNegative
    """Population standard deviation over images (or pairs)."""
    distance: NotNegative
    """Mahalanobis distance, averaged likewise; 0 is invariant."""
    distance_sd: NotNegative
    strengths: Annotated[tuple[Annotated[tuple[Number, ...], Field(max_length=8)], ...], Field(max_length=100_000)] = ()
    """The grid."""
    cosines: Curve = ()
    """Mean over images at each strength."""
    distances: Curve = ()
    rank: Count | None = None
    """Directions in which the features vary."""
    num_test: Count | None = None
    """Images (or pairs) that were compared."""


class RegressionResult(_Measured):
    """Ridge regression from features to continuous targets."""

    probe: Literal["ridge"]  # pyright: ignore[reportIncompatibleVariableOverride]
    targets: Texts
    r2: Annotated[Number, Field(le=1)]
    """Coefficient of determination on the test images, the mean over targets."""
    r2_per_target: Curve = ()
    r2_folds: Annotated[Number, Field(le=1)] | None = None
    """Mean over the validation folds, at the chosen penalty."""
    r2_folds_sd: NotNegative | None = None
    """Population standard deviation over the folds."""
    num_train: Count | None = None
    num_test: Count | None = None
    hyper_parameters: Annotated[tuple[dict[str, Any], ...], Field(max_length=10_000)] = ()


_KINDS = {
    "analysis": "FeatureAnalysis",
    "label-noise": "LabelNoise",
    "invariance": "InvarianceResult",
    "ridge": "RegressionResult",
}


def _kind_of(result: Any) -> str:
    probe = result.get("probe") if isinstance(result, dict) else getattr(result, "probe", None)
    return _KINDS.get(str(probe), "ProbeResult")


AnyResult = Annotated[
    Annotated[ProbeResult, Tag("ProbeResult")]
    | Annotated[FeatureAnalysis, Tag("FeatureAnalysis")]
    | Annotated[LabelNoise, Tag("LabelNoise")]
    | Annotated[InvarianceResult, Tag("InvarianceResult")]
    | Annotated[RegressionResult, Tag("RegressionResult")],
    Discriminator(_kind_of),
]


class PreprocessingRecord(Document):
    """How images were shown to an encoder: resized, cropped to the central square, normalised."""

    chosen_by: Literal["protocol", "model"]
    """The papers' protocol, or the configuration of the model."""
    resize_size: Count
    """Pixels of the shorter edge of the resized image."""
    crop_size: Count
    """Edge of the central square in pixels."""
    interpolation: Text
    crop_mode: Text
    """"squash" resizes without regard to the aspect ratio."""
    mean: Annotated[tuple[Number, ...], Field(max_length=16)]
    """Of each channel in [0, 1]."""
    std: Annotated[tuple[Number, ...], Field(max_length=16)]


class EvaluationResults(Document):
    """`results.json`: all that one call of `evaluate` measured."""

    encoder: Text
    """What was evaluated; A+B for an ensemble."""
    suite: Suite
    results: Annotated[tuple[AnyResult, ...], Field(max_length=100_000)]
    data: Annotated[dict[Text, Text], Field(max_length=1000)] = Field(default_factory=dict)
    """What the name of each data set stands for: its data spec."""
    encoder_fingerprints: Texts = ()
    """SHA-256 of the weights, one per encoder."""
    preprocessing: Annotated[tuple[PreprocessingRecord, ...], Field(max_length=10_000)] = ()
    """One per encoder."""
    versions: Versions = Field(default_factory=dict)

    @property
    def scores(self) -> list[ProbeResult]:
        """The results that have accuracies."""
        return [result for result in self.results if isinstance(result, ProbeResult)]

    @property
    def analyses(self) -> list[FeatureAnalysis]:
        """The results that describe features."""
        return [result for result in self.results if isinstance(result, FeatureAnalysis)]

    @property
    def invariances(self) -> list[InvarianceResult]:
        """The results that say how far features move."""
        return [result for result in self.results if isinstance(result, InvarianceResult)]

    @property
    def regressions(self) -> list[RegressionResult]:
        """The results for continuous targets."""
        return [result for result in self.results if isinstance(result, RegressionResult)]

    @property
    def noise(self) -> list[LabelNoise]:
        """The results of the check for label noise."""
        return [result for result in self.results if isinstance(result, LabelNoise)]


_LOWEST = {"guidance_scale": 0, "num_inference_steps": 1, "multiple": 0, "seed": 0}


def _factors(values: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """Of a file the texts and numbers, cleaned; those of the papers are of their type and in their range."""
    for key in ("prompt", "augmentation", "data"):
        if not isinstance(values.get(key) or "", str):
            raise ValueError(f"{key} is not a text")
    for key, low in _LOWEST.items():
        value = values.get(key)
        if value is not None and (not _is_number(value) or value < low):
            raise ValueError(f"{key} is not a number from {low}")
    if not info.context:
        return values
    shown = [(clean(k), v) for k, v in values.items() if isinstance(v, str | bool) or _is_number(v)]
    return {key: clean(v) if isinstance(v, str) else str(v) if isinstance(v, bool) else v
            for key, v in shown[:40] if v != ""}  # fmt: skip


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


class StudyCell(Document):
    """One encoder of a study: what tells it from the others, its folders, and its numbers again."""

    id: Text
    factors: Annotated[dict[str, Any], AfterValidator(_factors)]
    dataset: RelativePath | None = None
    run: RelativePath | None = None
    images: Count | None = None
    """Images that it was trained on."""
    epochs: NotNegative | None = None
    model: Text = ""
    """Generator of its images; "" for real ones."""
    training: Annotated[dict[Text, Any], AfterValidator(known_facts)] = Field(default_factory=dict)
    """The settings of its training that `TRAINING_FACTS` names."""
    results: Annotated[tuple[RelativePath, ...], Field(max_length=10_000)] = ()
    metrics: dict[Annotated[Text, Field(pattern="/")], Accuracies] = Field(default_factory=dict)
    """By "DATASET/SPLIT"."""


class StudyResults(Document):
    """`study.json`: the cells of a study, the command, the versions and the machine that they come from."""

    name: Text
    commands: Texts = ()
    versions: Versions = Field(default_factory=dict)
    machine: Text = ""
    cells: Annotated[tuple[StudyCell, ...], Field(max_length=10_000)]

    @model_validator(mode="after")
    def _no_cell_twice(self) -> "StudyResults":
        if len({(c.id, *sorted((k, str(v)) for k, v in c.factors.items())) for c in self.cells}) < len(self.cells):
            raise ValueError("one cell is there twice; every cell needs its own id or factors")
        return self
