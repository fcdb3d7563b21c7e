"""Models that differ in nothing but the seed are one setting: it has a mean and a population deviation."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imagenet_sd.report.checks import TIMES
from imagenet_sd.report.results import TRANSFER, Model, Score

FACTORS = ("data", "prompt", "guidance_scale", "num_inference_steps", "multiple", "augmentation")
FACTOR_TITLES = {
    "data": "Data",
    "prompt": "Prompt",
    "guidance_scale": "Scale",
    "num_inference_steps": "Steps",
    "multiple": "Size",
    "augmentation": "Augmentation",
}
_OF_SYNTHETIC = {"prompt", "guidance_scale", "num_inference_steps"}
_SET_APART = {"seed", "encoder"}  # the seed makes no setting, and an encoder's name is its label


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Models of one study that share all factors but the seed; a model without factors is a setting of its own.

    Attributes:
        label: all factors that vary over the report, as text.
        short: for legends: the factors that are not those of `base_of`; "base" where all are.
        study: name of the study; "" for none.
        factors: see `Model.factors`; without the seed, and for real images without those of the generator.
        models: one per seed.
    """

    label: str
    short: str
    study: str
    factors: Mapping[str, Any]
    models: tuple[Model, ...]

    @property
    def class_list(self) -> str:
        """The class list of its models; "" where it is unknown."""
        return self.models[0].class_list

    @property
    def num_images(self) -> int | None:
        """Images that its models were trained on; None where nobody says."""
        return self.models[0].num_images


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Mean and population standard deviation over `count` models."""

    mean: float
    sd: float
    count: int


def summary(values: Iterable[float | None]) -> Summary | None:
    """Of the values that are there; None where there are none."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    mean = math.fsum(found) / len(found)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in found) / len(found))
    return Summary(mean=mean, sd=sd, count=len(found))


def settings_of(models: list[Model]) -> list[Setting]:
    """Group models into settings, in the order of their first models, with labels that tell them apart."""
    groups: dict[tuple, list[Model]] = {}
    for model in models:
        groups.setdefault(_key(model), []).append(model)
    named = [group[0] for group in groups.values() if "data" in group[0].factors]
    names = factor_names(map(factors_of, named))
    varying = [f for f in names if len({m.factors[f] for m in named if f in factors_of(m)}) > 1] or names
    base = base_of(named)
    studies = len({model.study for model in models if model.study}) > 1
    settings = []
    for group in groups.values():
        factors = factors_of(group[0])
        label = (label_of(factors, varying) if "data" in factors else "") or group[0].name
        short = label_of(factors, [f for f in names if factors.get(f) != base.get(f)]) or "base"
        prefix = f"{group[0].study}: " if studies and group[0].study else ""
        settings.append(
            Setting(
                label=prefix + label,
                short=prefix + short if "data" in factors and len(named) > 1 else prefix + label,
                study=group[0].study,
                factors=factors,
                models=tuple(group),
            )
        )
    return _distinct(settings)


def base_of(models: Iterable[Model]) -> dict[str, Any]:
    """The commonest value of every factor, of equally common ones the first: what legends take for granted."""
    found: dict[str, Any] = {}
    every = [factors_of(model) for model in models]
    for name in factor_names(every):
        values = [factors[name] for factors in every if name in factors]
        if values:
            found[name] = max(dict.fromkeys(values), key=values.count)
    return found


def _distinct(settings: list[Setting]) -> list[Setting]:
    """Settings whose labels agree (other sizes, recipes or class lists) get the name of their first model added."""

    def named(setting: Setting, text: str, every: list[str]) -> str:
        return text if every.count(text) == 1 else f"{text} ({setting.models[0].name})"

    labels, shorts = [s.label for s in settings], [s.short for s in settings]
    return [replace(s, label=named(s, s.label, labels), short=named(s, s.short, shorts)) for s in settings]


def factors_of(model: Model) -> dict[str, Any]:
    """The factors but the seed; for real images without those that only a generator has."""
    real = model.factors.get("data") == "real"
    return {
        name: model.factors[name]
        for name in factor_names([model.factors])
        if not (real and (name in _OF_SYNTHETIC or name.startswith("generate.")))
    }


def factor_names(every: Iterable[Mapping[str, Any]]) -> list[str]:
    """The factors that occur: those of the papers in their order, then what else a study varied."""
    found = {name for factors in every for name in factors} - _SET_APART
    return [name for name in FACTORS if name in found] + sorted(found - set(FACTORS))


def _key(model: Model) -> tuple:
    factors = factors_of(model)
    if not factors or "encoder" in model.factors:
        return ("", model.name, id(model))
    if model.study:
        return (model.study, model.class_list, *factors.items())
    size = model.dataset.num_images if model.dataset else model.run.data if model.run else None
    recipe = tuple(sorted((k, v) for k, v in model.run.facts.items() if k != "seed")) if model.run else ()
    return ("", model.class_list, size, recipe, *factors.items())


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
    return number if name in (*FACTORS, "source") else f"{_last(name)} {number}"


def factor_title(name: str) -> str:
    """The column title of a factor."""
    return FACTOR_TITLES.get(name) or _last(name).capitalize()


def _last(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")


def over(setting: Setting, measure: Callable[[Model], float | None]) -> Summary | None:
    """Mean and deviation of a measure over the models of a setting."""
    return summary(measure(model) for model in setting.models)


def find_score(model: Model, accept: Callable[[Score], bool]) -> Score | None:
    """The first score of a model that `accept` takes."""
    return next((score for score in model.scores if accept(score)), None)


def transfer_sets(models: Iterable[Model]) -> list[str]:
    """Data sets on which a probe was trained, those of Tab. 5.3 first and in its order."""
    found = {s.dataset for model in models for s in model.scores if s.kind == "transfer"}
    return [name for name in TRANSFER if name in found] + sorted(found - set(TRANSFER))


def training_sets(models: Iterable[Model]) -> list[str]:
    """Data sets that the encoders' own classifiers were scored on; `val` first, then in order of appearance."""
    found = list(dict.fromkeys(s.dataset for model in models for s in model.scores if s.kind == "training"))
    return sorted(found, key=lambda name: name != "val")


def on_training(model: Model, dataset: str, measure: str = "top1") -> float | None:
    """A measure of the encoder's own classifier on a data set."""
    score = find_score(model, lambda s: s.kind == "training" and s.dataset == dataset)
    return getattr(score, measure) if score else None


def on_transfer(model: Model, dataset: str, measure: str = "top1") -> float | None:
    """A measure of a probe on a data set."""
    score = find_score(model, lambda s: s.kind == "transfer" and s.dataset == dataset)
    return getattr(score, measure) if score else None


def mean_over(model: Model, datasets: Sequence[str], measure: str = "top1") -> float | None:
    """Mean of a measure over transfer sets; None unless the model has it on every one."""
    values = [on_transfer(model, name, measure) for name in datasets]
    found = [value for value in values if value is not None]
    return math.fsum(found) / len(found) if found and len(found) == len(values) else None
