"""What a study holds: one section per stage, and the grid whose cells are the rows of a table."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.typed import SettingsError, build, from_mapping, join, located, merge
from imagenet_sd.evaluation.config import EvalConfig
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.training.config import TrainConfig, upgraded
from imagenet_sd.training.recipes import train_mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSection:
    """Section `train`: the fields below, and beside them any field of `TrainConfig`, laid over the named recipe."""

    recipe: str = "imagenet-sd"
    """Name of a training recipe, or a YAML file of one."""
    data: str = ""
    """Data spec of real training images (a baseline); empty: the dataset of section `generate`."""
    also: str = ""
    """Data spec of more training images of the same classes, added to those of the dataset; empty for none."""
    validation: str = ""
    """Data spec of real images to validate on while training; empty for none."""
    steps: int = 0
    """Train for about this many steps whatever the size of the data: it sets the whole number of epochs that comes
    nearest, at least one. 0: `optimizer.epochs`."""
    workers: int = -1
    """Data workers per process; -1 chooses."""
    processes: int = 0
    """Training processes, started with torchrun; 0: one per visible GPU."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of `TrainConfig` that differ from the recipe, nested; in a file they stand in the section itself."""

    def config(self, path: str = "") -> TrainConfig:
        """The training recipe with the settings over it; messages say that it stands at `path`.

        Raises:
            SettingsError: no such recipe, an unknown key, a value of a wrong type or out of its range.
        """
        with located(join(path, "recipe")):
            mapping = train_mapping(self.recipe)
        keys = [*mapping, *(f.name for f in fields(self) if f.name != "settings")]
        merge(dict.fromkeys(keys), dict.fromkeys(self.settings), path)  # so that the hint names the section's own keys
        merge(mapping, self.settings, path)
        return from_mapping(TrainConfig, mapping, path)

    @classmethod
    def from_flat(cls, content: Mapping[str, Any], path: str) -> "TrainSection":
        """The section as it stands in a file; the settings are checked at once."""
        own = {f.name for f in fields(cls)}
        settings = upgraded(dict(content.get("settings", {})) | {k: v for k, v in content.items() if k not in own})
        section = build(cls, {k: v for k, v in content.items() if k in own} | {"settings": settings}, path)
        if section.steps < 0 or section.processes < 0:
            raise SettingsError(f"{path}: steps and processes must not be negative", "0 lets the tool choose")
        section.config(path)
        return section

    def to_flat(self) -> dict[str, Any]:
        """The inverse of `from_flat`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "settings"} | self.settings


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSection(EvalConfig):
    """Section `evaluate`, or an entry of its list: a suite, its settings, and its data."""

    data: dict[str, str] = field(default_factory=dict)
    """Name -> data spec."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportSection:
    """Section `report`."""

    page: str = "report.html"
    """File name of the page, in the folder of the study."""
    study: str = "study.json"
    """File name of the cells and their numbers, in the same folder."""

    def __post_init__(self) -> None:
        for key, ending in (("page", ".html"), ("study", ".json")):
            name = getattr(self, key)
            if Path(name).name != name or not name.endswith(ending) or name.startswith("."):
                raise ImagenetSDError(f"{key} is {name!r}", f"give a file name that ends in {ending}, without a folder")


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A study: the path from classes to numbers, once or over a grid.

    Attributes:
        name: what the study is called; "" in a file takes the file's name.
        out: folder of the study; "" is `studies/NAME`. Studies that name one folder share datasets and runs there; give
            each a report of its own.
        paths: names for folders of real data; `${name}` in any text of the study stands for one.
        encoder: a given encoder (`timm:NAME`, `timm:NAME@CHECKPOINT`, a run folder) that is evaluated as it is, without
            the suite `imagenet`; "" trains one.
        generate: what to generate.
        train: how to train on it.
        evaluate: what to measure, in order.
        report: the page.
        grid: each mapping is a full product: dotted key -> list of values (or one value); the key `seed` sets
            `generate.seed` and `train.seed`; the key `star` holds axes of which one at a time leaves the base. The
            cells of all mappings together are the study; without any, the study itself is its one cell.
    """

    name: str = ""
    out: str = ""
    paths: dict[str, str] = field(default_factory=dict)
    encoder: str = ""
    generate: GenerationConfig = field(default_factory=GenerationConfig)
    train: TrainSection = field(default_factory=TrainSection)
    evaluate: tuple[EvalSection, ...] = ()
    report: ReportSection = field(default_factory=ReportSection)
    grid: tuple[dict[str, Any], ...] = ()
