"""What a result is: the typed documents that `evaluate` and `run` write and that the report reads.

`results.json` is an `EvaluationResults`, `study.json` a `StudyResults`; `model_json_schema()` of either gives its JSON
schema. All accuracies are fractions in [0, 1].
"""

import json
import math
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.files import JSON_LIMIT
from imagenet_sd.core.types import Suite

TEXT_LIMIT = 400
"""Characters of a text that are kept of a file."""
_HINT = "write the file again with the command that made it"


class ResultsError(ImagenetSDError):
    """A file of results, a study, a run or a dataset is missing, damaged or not of its format."""


def clean(text: str) -> str:
    """`text` on one line without control and direction characters, cut to `TEXT_LIMIT`."""
    line = " ".join(text[: 4 * TEXT_LIMIT].split())
    line = "".join("\ufffd" if unicodedata.category(c)[0] == "C" else c for c in line)
    return line if len(line) <= TEXT_LIMIT else line[: TEXT_LIMIT - 1] + "…"


def _from_file(text: str, info: ValidationInfo) -> str:
    return clean(text) if info.context else text


def _inside(relative: str, info: ValidationInfo) -> str:
    """Refuse a path that leaves the folder of the file that names it, also through a link."""
    if info.context:
        root = info.context.parent.resolve()
        try:
            contained = (root / relative).resolve().is_relative_to(root) and not Path(relative).is_absolute()
        except (OSError, ValueError, RuntimeError):
            contained = False
        if not contained:
            raise ValueError(f"{clean(relative)[:80]!r} is outside the folder of the file; paths are relative to it")
    return relative


Text = Annotated[str, AfterValidator(_from_file)]
"""A text; one that comes from a file is cleaned for display."""
RelativePath = Annotated[str, AfterValidator(_inside)]
"""A path below the folder of the file that names it."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
NotNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
IntervalEnd = Annotated[Number, Field(ge=-1, le=2)]  # the normal interval of episodes may pass 0 or 1 by a little
Count = Annotated[int, Field(strict=True, ge=1, le=1 << 53)]
Texts = Annotated[tuple[Text, ...], Field(max_length=10_000)]
Versions = Annotated[dict[Text, Text], Field(max_length=200)]


class Document(BaseModel):
    """A part of a JSON file. Keys that it does not know are left out when it is read."""

    model_config = ConfigDict(frozen=True)

    def to_json(self) -> dict[str, Any]:
        """The JSON object: what was given, without the defaults of what was not."""
        return self.model_dump(mode="json", exclude_unset=True)


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
    per_class: Annotated[dict[Text, Fraction], Field(max_length=100_000)] = {}
    """Accuracy by class id."""
    masked: Masked | None = None
    mean_of: Texts = ()
    """Data sets whose results it is the mean of."""
    worst: Annotated[tuple[Mistake, ...], Field(max_length=100_000)] = ()


class FeatureAnalysis(_Measured):
    """The feature measures of one encoder on one data set (Fig. 5.6), of l2-normalised features."""

    probe: Literal["analysis"]  # pyright: ignore[reportIncompatibleVariableOverride]
    num_test: Count | None = None
    sparsity: Fraction
    """Share of zero entries."""
    intra_class_distance: NotNegative
    redundancy: NotNegative
    coding_length: NotNegative
    """In nats."""
    coding_length_per_sample: NotNegative
    singular_values: Annotated[tuple[Number, ...], Field(max_length=100_000)] = ()


def _kind_of(result: Any) -> str:
    probe = result.get("probe") if isinstance(result, dict) else getattr(result, "probe", None)
    return "FeatureAnalysis" if probe == "analysis" else "ProbeResult"


AnyResult = Annotated[
    Annotated[ProbeResult, Tag("ProbeResult")] | Annotated[FeatureAnalysis, Tag("FeatureAnalysis")],
    Discriminator(_kind_of),
]


class EvaluationResults(Document):
    """`results.json`: all that one call of `evaluate` measured."""

    encoder: Text
    """What was evaluated; A+B for an ensemble."""
    suite: Suite
    results: Annotated[tuple[AnyResult, ...], Field(max_length=100_000)]
    encoder_fingerprints: Texts = ()
    """SHA-256 of the weights, one per encoder."""
    versions: Versions = {}

    @property
    def scores(self) -> list[ProbeResult]:
        """The results that have accuracies."""
        return [result for result in self.results if isinstance(result, ProbeResult)]

    @property
    def analyses(self) -> list[FeatureAnalysis]:
        """The results that describe features."""
        return [result for result in self.results if isinstance(result, FeatureAnalysis)]


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
    results: Annotated[tuple[RelativePath, ...], Field(max_length=10_000)] = ()
    metrics: dict[Annotated[Text, Field(pattern="/")], Accuracies] = {}
    """By "DATASET/SPLIT"."""


class StudyResults(Document):
    """`study.json`: the cells of a study, the command, the versions and the machine that they come from."""

    name: Text
    commands: Texts = ()
    versions: Versions = {}
    machine: Text = ""
    cells: Annotated[tuple[StudyCell, ...], Field(max_length=10_000)]

    @model_validator(mode="after")
    def _no_cell_twice(self) -> "StudyResults":
        if len({(c.id, *sorted((k, str(v)) for k, v in c.factors.items())) for c in self.cells}) < len(self.cells):
            raise ValueError("one cell is there twice; every cell needs its own id or factors")
        return self


D = TypeVar("D", bound=BaseModel)


def read_text(path: Path, limit: int = JSON_LIMIT) -> str:
    """The text of a file of at most `limit` bytes.

    Raises:
        ResultsError: the file is missing, larger, or not UTF-8.
    """
    try:
        if (size := path.stat().st_size) > limit:
            raise ResultsError(f"{path} has {size:,} bytes; files over {limit:,} are not read", "is it the right file?")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ResultsError(f"{path} does not exist", "check the path") from None
    except (OSError, UnicodeError) as error:
        raise ResultsError(f"{path} cannot be read: {clean(str(error))}", _HINT) from None


def parse_json(text: str, path: Path) -> Any:
    """The JSON value in `text`.

    Raises:
        ResultsError: it is not JSON, or holds NaN or an infinity.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path} is not JSON: {clean(str(error))[:200]}", _HINT) from None


def validate(kind: type[D], value: Any, path: Path) -> D:
    """`value`, which was read from `path`, as a typed document.

    Raises:
        ResultsError: a value is missing, of a wrong type or out of its range; the message names its place.
    """
    try:
        return kind.model_validate(value, context=path)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason, value = first["msg"].removeprefix("Value error, "), first["input"]
        if first["type"] == "missing":
            reason = "is missing"
        elif first["type"] != "value_error":
            shown = {dict: "an object", list: "a list"}.get(type(value)) or clean(repr(value))[:60]
            reason = f"is {shown}; {_plain(reason)}"
        raise ResultsError(f"{path}: {_place(first['loc'])} {reason}".replace(":  ", ": "), _HINT) from None


def read_document(kind: type[D], path: Path) -> D:
    """The typed document in a JSON file.

    Raises:
        ResultsError: the file cannot be read, or a value in it is missing, of a wrong type or out of its range.
    """
    return validate(kind, parse_json(read_text(path), path), path)


def _place(location: Iterable[int | str]) -> str:
    """Such as "results[2].top1"."""
    parts = [part for part in location if part not in ("ProbeResult", "FeatureAnalysis")]  # the tags of the union
    return clean("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix("."))


def _plain(reason: str) -> str:
    """A sentence of pydantic in the words of JSON."""
    reason = re.sub("valid dictionary or instance of .*", "JSON object", reason)
    return reason.replace("Input should", "it should").replace("tuple", "list").replace("dictionary", "object")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
