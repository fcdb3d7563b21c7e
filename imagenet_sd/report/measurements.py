"""All scores as one pandas table, grouped: encoders that differ in nothing but the seed are one setting."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from imagenet_sd.core.results import AVERAGED
from imagenet_sd.report import paper
from imagenet_sd.report.encoders import IN1K, TRANSFER, EvaluatedEncoder
from imagenet_sd.report.text import TIMES

FACTOR_TITLES = {
    "data": "Data",
    "prompt": "Prompt",
    "guidance_scale": "Scale",
    "num_inference_steps": "Steps",
    "multiple": "Size",
    "augmentation": "Augmentation",
}
FACTORS = tuple(FACTOR_TITLES)
FEATURE_TITLES = {
    "sparsity": "sparsity (share of zero entries)",
    "intra_class_distance": "intra-class distance",
    "redundancy": "feature redundancy",
    "coding_length": "average coding length per image (nats)",
}
_OF_GENERATION = {"prompt", "guidance_scale", "num_inference_steps"}
_SET_APART = {"seed", "encoder"}  # the seed makes no setting, and an encoder's name is its label


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Encoders of one study that share all factors but the seed; one without factors is a setting of its own.

    Attributes:
        number: its place in `Measurements.settings`.
        label: all factors that vary over the report, as text.
        short: the factors that differ from the commonest ones; for the commonest setting its prompt and scale.
        study: name of the study; "" for none.
        factors: without the seed, and for real images without those of the generator.
        encoders: one per seed.
    """

    number: int
    label: str
    short: str
    study: str
    factors: Mapping[str, Any]
    encoders: tuple[EvaluatedEncoder, ...]

    @property
    def class_list(self) -> str:
        """The class list of its encoders; "" where it is unknown."""
        return self.encoders[0].class_list

    @property
    def num_images(self) -> int | None:
        """Images that its encoders were trained on; None where nobody says."""
        return self.encoders[0].num_images

    @property
    def is_real(self) -> bool:
        """Whether it was trained on real images."""
        return self.factors.get("data") == "real"


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Mean and population standard deviation over `count` encoders."""

    mean: float
    sd: float
    count: int


Summaries = Mapping[int, Summary]
"""By the number of the setting; what was not measured is absent."""


class Measurements:
    """The scores of all encoders of a report.

    Attributes:
        encoders: as given.
        settings: the groups of encoders, in the order of their first.
        titles: a name for every encoder, made of what tells it from the others.
        base: the commonest value of every factor, which the names take for granted.
        scores: one row per score: encoder, setting, kind, dataset, split, probe, and the averaged accuracies.
        baseline: how the name of the encoder begins that others are shown relative to.
        features: one row per feature analysis: encoder, dataset, and the measures of `FEATURE_TITLES`.
    """

    def __init__(self, encoders: Sequence[EvaluatedEncoder], baseline: str = ""):
        self.encoders, self.baseline = list(encoders), baseline or paper.BASELINE
        codes, _ = pd.factorize(pd.Series([_key(encoder) for encoder in encoders], dtype=object))
        self._setting_of = pd.Series(codes, dtype=int)
        groups = [[encoders[i] for i in rows] for rows in self._setting_of.groupby(self._setting_of).groups.values()]
        self.base = _commonest([factors_of(group[0]) for group in groups if "data" in group[0].factors])
        self.settings = _settings(groups, self.base)
        self.titles = _titles(self.encoders, [self.settings[code] for code in codes])
        self.scores = pd.DataFrame(
            [
                (number, score.kind, *score.key, *(getattr(score.result, measure) for measure in AVERAGED))
                for number, encoder in enumerate(encoders)
                for score in encoder.scores
            ],
            columns=["encoder", "kind", "dataset", "split", "probe", *AVERAGED],
        ).astype(dict.fromkeys(AVERAGED, float))
        # A probe on the data that some encoder's own classifier was scored on is no transfer, but the training task.
        tasks = set(self.scores[self.scores["kind"] == "training"]["dataset"])
        own = (self.scores["kind"] == "transfer") & self.scores["dataset"].isin(tasks)
        self.scores.loc[own, "kind"] = "probe"
        self.features = pd.DataFrame(
            [
                (number, analysis.dataset, *(getattr(analysis, measure) for measure in FEATURE_TITLES))
                for number, encoder in enumerate(encoders)
                for analysis in encoder.analyses
            ],
            columns=["encoder", "dataset", *FEATURE_TITLES],
        )

    @property
    def names_note(self) -> str:
        """What the short names of the settings leave out; "" where there is one of them at most."""
        if sum("data" in setting.factors for setting in self.settings) < 2:
            return ""
        return f" Names say what differs from the commonest setting: {label_of(self.base, FACTORS)}."

    def datasets(self, kind: str, encoders: Iterable[int] | None = None) -> list[str]:
        """Data sets with scores of a kind, of the given encoders; those of Tab. 5.3 and `val` first."""
        rows = self.scores[self.scores["kind"] == kind]
        if encoders is not None:
            rows = rows[rows["encoder"].isin(list(encoders))]
        names = rows["dataset"].unique().tolist()
        if kind in ("training", "probe"):
            return sorted(names, key=lambda name: name not in ("val", *IN1K))
        return [name for name in TRANSFER if name in names] + sorted(set(names) - set(TRANSFER))

    def values(self, kind: str, dataset: str, measure: str = "top1") -> pd.Series:
        """A measure on a data set, by encoder: of several scores of a kind the first."""
        rows = self.scores[(self.scores["kind"] == kind) & (self.scores["dataset"] == dataset)]
        return rows.drop_duplicates("encoder").set_index("encoder")[measure]

    def mean_over(self, datasets: Sequence[str], measure: str = "top1") -> pd.Series:
        """Mean of a measure over transfer sets, of the encoders that have it on every one."""
        if not datasets:
            return pd.Series(dtype=float)
        columns = [self.values("transfer", name, measure) for name in datasets]
        return pd.concat(columns, axis=1).mean(axis=1, skipna=False)

    def summarise(self, values: pd.Series) -> dict[int, Summary]:
        """Mean and deviation of values by encoder, over the encoders of each setting."""
        values = values.dropna()
        groups = values.groupby(self._setting_of.reindex(values.index))
        return {
            int(number): Summary(mean=float(rows.mean()), sd=float(rows.std(ddof=0)), count=len(rows))  # pyright: ignore[reportArgumentType]
            for number, rows in groups
        }

    def summary(self, kind: str, dataset: str, measure: str = "top1") -> dict[int, Summary]:
        """`summarise` of `values`."""
        return self.summarise(self.values(kind, dataset, measure))

    def numbers_of(self, settings: Iterable[Setting]) -> list[int]:
        """The numbers of the encoders of some settings."""
        wanted = {setting.number for setting in settings}
        return [i for i, number in enumerate(self._setting_of) if number in wanted]


def _settings(groups: list[list[EvaluatedEncoder]], base: Mapping[str, Any]) -> list[Setting]:
    factors = [factors_of(group[0]) for group in groups]
    named = [each for each in factors if "data" in each]
    names, varying = factor_names(named), varying_factors(named)
    studies = len({group[0].study for group in groups if group[0].study}) > 1
    labels, shorts = [], []
    for group, own in zip(groups, factors, strict=True):
        prefix = f"{group[0].study}: " if studies and group[0].study else ""
        usual = label_of(own, ("prompt", "guidance_scale") if own.get("data") == "synthetic" else ("data",))
        label = label_of(own, varying) or usual if "data" in own else group[0].name
        different = label_of(own, [f for f in names if own.get(f) != base.get(f)])
        labels.append(prefix + label)
        shorts.append(prefix + (different or usual if "data" in own else label))
    # Labels agree where sizes, recipes or class lists differ: the study tells them apart, else the first encoder.
    for origins in ([group[0].study or group[0].name for group in groups], [group[0].name for group in groups]):
        labels, shorts = _distinct(labels, origins), _distinct(shorts, origins)
    rows = enumerate(zip(groups, factors, labels, shorts, strict=True))
    return [
        Setting(number=n, label=label, short=short, study=group[0].study, factors=own, encoders=tuple(group))
        for n, (group, own, label, short) in rows
    ]


def _distinct(names: list[str], origins: list[str]) -> list[str]:
    """The names, with their origin where several agree."""
    return [
        name if names.count(name) == 1 or name == origin else f"{name} ({origin})"
        for name, origin in zip(names, origins, strict=True)
    ]


def _titles(encoders: list[EvaluatedEncoder], settings: list[Setting]) -> list[str]:
    """The short name of the setting, with the seed where it has several; the encoder's own name settles a tie."""
    titles = [
        f"{setting.short}, seed {encoder.factors['seed']:g}"
        if len(setting.encoders) > 1 and isinstance(encoder.factors.get("seed"), int | float)
        else setting.short
        for encoder, setting in zip(encoders, settings, strict=True)
    ]
    return _distinct(titles, [encoder.name for encoder in encoders])


def _commonest(every: list[dict[str, Any]]) -> dict[str, Any]:
    """The commonest value of every factor, of equally common ones the first."""
    columns = {name: [factors[name] for factors in every if name in factors] for name in factor_names(every)}
    return {name: max(values, key=values.count) for name, values in columns.items()}


def factors_of(encoder: EvaluatedEncoder) -> dict[str, Any]:
    """The factors but the seed; for real images without those that only a generator has."""
    real = encoder.factors.get("data") == "real"
    return {
        name: encoder.factors[name]
        for name in factor_names([encoder.factors])
        if not (real and (name in _OF_GENERATION or name.startswith("generate.")))
    }


def factor_names(every: Iterable[Mapping[str, Any]]) -> list[str]:
    """The factors that occur: those of the papers in their order, then what else a study varied."""
    names = {name for factors in every for name in factors} - _SET_APART
    return [name for name in FACTORS if name in names] + sorted(names - set(FACTORS))


def varying_factors(every: Sequence[Mapping[str, Any]]) -> list[str]:
    """The factors that have several values."""
    return [name for name in factor_names(every) if len({each[name] for each in every if name in each}) > 1]


def _key(encoder: EvaluatedEncoder) -> tuple:
    """What the encoders of one setting share."""
    factors = factors_of(encoder)
    if not factors or "encoder" in encoder.factors:
        return ("", encoder.name, id(encoder))
    if encoder.study:
        training = tuple((key, str(value)) for key, value in sorted(encoder.training.items()))
        return (encoder.study, encoder.class_list, training, *factors.items())
    run, dataset = encoder.run, encoder.dataset
    size = dataset.num_images if dataset else run.data if run else None
    recipe = tuple(sorted((k, v) for k, v in run.facts.items() if k != "seed")) if run else ()
    return ("", encoder.class_list, size, recipe, *factors.items())


def label_of(factors: Mapping[str, Any], names: Iterable[str]) -> str:
    """Factors as a short text, such as "c_dc, scale 2, 10×, strong"."""
    return ", ".join(show_factor(name, factors[name], short=False) for name in names if name in factors)


def show_factor(name: str, value: Any, short: bool = True) -> str:
    """One factor as text; `short`: under a column title that names it."""
    number = f"{value:g}" if isinstance(value, int | float) else str(value)
    if name == "multiple":
        return f"{number}{TIMES}"
    if short:
        return number
    if name == "guidance_scale":
        return f"scale {number}"
    if name == "num_inference_steps":
        return f"{number} steps"
    if name == "data" and value == "real":
        return "real images"
    return number if name in (*FACTORS, "source", "backbone") else f"{_last(name)} {number}"


def factor_title(name: str) -> str:
    """The column title of a factor."""
    return FACTOR_TITLES.get(name) or _last(name).capitalize()


def _last(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")
