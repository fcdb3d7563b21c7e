"""The stages of a study: what each depends on, where its results lie, and whether it is up to date.

A stage is done when its folder holds a stamp, `stage.json`, with the hash of the inputs it has now. Folders are named
by these hashes, so a changed recipe never writes over older results; nothing is ever deleted.
"""

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from imagenet_sd.core.errors import DatasetError, ImagenetSDError
from imagenet_sd.core.files import read_json
from imagenet_sd.core.specs import DataSpec, EncoderSpec
from imagenet_sd.core.types import GenerationPlan
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import offline_identity
from imagenet_sd.generation.plan import ModelIdentity, make_plan
from imagenet_sd.prompts.classes import class_list_name
from imagenet_sd.study import Cell, EvalSection, Recipe, RecipeError, to_mapping
from imagenet_sd.training.config import resolved

STAMP = "stage.json"
Kind = Literal["generate", "train", "evaluate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One unit of work that is done once.

    Attributes:
        kind: what it does.
        folder: where its results and its stamp lie.
        inputs: hash of all that decides its results.
        product: file in the folder that it leaves when it is done.
        work: its size in units that its kind takes about equally long for; 0 where that is not known.
        recipe: the cell's recipe that it carries out.
        data: data spec of the training images (train).
        encoder: what is evaluated (evaluate).
        section: the settings of an evaluation.
        shards: Parquet files of the dataset (generate).
    """

    kind: Kind
    folder: Path
    inputs: str
    product: str
    work: float
    recipe: Recipe
    data: str = ""
    encoder: str = ""
    section: EvalSection | None = None
    shards: int = 0

    def is_done(self) -> bool:
        """Whether the results are there and come from these inputs; reads two small files at most."""
        stamp = read_stamp(self.folder)
        if stamp.get("inputs") != self.inputs or not (self.folder / self.product).is_file():
            return False
        return not self.shards or sum(1 for _ in self.folder.glob("data/round-*/train-*.parquet")) >= self.shards


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCell:
    """A cell and the stages that it needs, in order; stages may belong to several cells.

    Attributes:
        cell: the cell.
        stages: generate (not for real data), train (not for a given encoder), then the evaluations.
        dataset: folder of its dataset; None for real data.
        run: folder of its run; None for a given encoder.
    """

    cell: Cell
    stages: tuple[Stage, ...]
    dataset: Path | None
    run: Path | None

    @property
    def evaluations(self) -> list[Stage]:
        """Its evaluations."""
        return [stage for stage in self.stages if stage.kind == "evaluate"]


def read_stamp(folder: Path, name: str = STAMP) -> dict[str, Any]:
    """The stamp of a folder; {} where there is none that can be read."""
    with suppress(DatasetError):
        stamp = read_json(folder / name) if (folder / name).is_file() else {}
        return stamp if isinstance(stamp, dict) else {}
    return {}


def digest(value: Any) -> str:
    """Hash of plain values, 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def slug(text: str) -> str:
    """A text as a part of a folder name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:60] or "x"


def unique_stages(cells: list[PlannedCell]) -> list[Stage]:
    """The stages of all cells in the order of work, each folder once."""
    return list({stage.folder: stage for cell in cells for stage in cell.stages}.values())


class Planner:
    """Turns cells into stages.

    Args:
        cells: the cells of the study.
        out: folder of the study.
        path: file of the recipe, for messages.
        forgiving: plan as if a missing `generate.match` folder were not asked for; for a dry run.
    """

    def __init__(self, cells: list[Cell], out: Path, path: str, forgiving: bool = False):
        self.cells, self.out, self.path, self.forgiving = cells, out, path, forgiving
        self._plans: dict[GenerationConfig, tuple[GenerationPlan, str]] = {}
        self._models: dict[tuple[str, str], ModelIdentity] = {}
        self._rounds: dict[str, int] = {}
        for cell in cells:  # the largest multiple of a dataset is drawn once; smaller ones are its first rounds
            if drawn(cell.recipe):
                plan, _ = self._plan(cell.recipe.generate)
                self._rounds[plan.fingerprint] = max(plan.rounds, self._rounds.get(plan.fingerprint, 0))

    def plan(self) -> list[PlannedCell]:
        """All cells with their stages; of cells that come to the same results only the first.

        Raises:
            ImagenetSDError: a class list, a template or a count is wrong.
        """
        found: dict[tuple[Path, ...], PlannedCell] = {}
        for cell in self.cells:
            planned = self._cell(cell)
            found.setdefault(tuple(stage.folder for stage in planned.stages), planned)
        return list(found.values())

    def num_images(self, recipe: Recipe) -> int:
        """Images of the dataset that a recipe draws; of one that draws none, those that it would draw."""
        return self._plan(recipe.generate)[0].num_images

    def _cell(self, cell: Cell) -> PlannedCell:
        recipe = cell.recipe
        if recipe.encoder:
            folder = self.out / "encoders" / f"{slug(recipe.encoder)}-{digest(recipe.encoder)[:8]}"
            stages = self._evaluations(recipe, recipe.encoder, folder, digest(_weights(recipe.encoder)))
            return PlannedCell(cell=cell, stages=tuple(stages), dataset=None, run=None)
        dataset = self._dataset(recipe) if drawn(recipe) else None
        train = self._train(cell, dataset)
        evaluations = self._evaluations(recipe, str(train.folder), train.folder, train.inputs)
        stages = (*([dataset] if dataset else []), train, *evaluations)
        return PlannedCell(cell=cell, stages=stages, dataset=dataset.folder if dataset else None, run=train.folder)

    def _plan(self, config: GenerationConfig) -> tuple[GenerationPlan, str]:
        if config not in self._plans:
            asked = replace(config, match="") if self.forgiving and not Path(config.match).is_dir() else config
            try:
                key = (config.model, config.revision)
                self._models.setdefault(key, offline_identity(config))
                self._plans[config] = (make_plan(asked, self._models[key])[0], class_list_name(config.class_list))
            except RecipeError:
                raise
            except ImagenetSDError as error:
                raise RecipeError(f"{self.path}: generate: {error}", error.hint) from None
        return self._plans[config]

    def _dataset(self, recipe: Recipe) -> Stage:
        config = recipe.generate
        plan, name = self._plan(config)
        rounds = self._rounds[plan.fingerprint]
        if rounds > plan.rounds:
            config = replace(config, multiple=float(rounds))
            plan, _ = self._plan(config)
        title = f"{name}-sd_{config.prompt}_scale{config.guidance_scale:g}_steps{config.num_inference_steps}"
        share = f"_x{config.multiple:g}" if config.multiple < 1 else ""
        folder = f"{slug(f'{title}{share}_seed{config.seed}')}-{plan.fingerprint[:8]}"
        return Stage(
            kind="generate",
            folder=self.out / "datasets" / folder,
            inputs=digest([plan.fingerprint, rounds]),
            product="dataset.json",
            work=float(plan.num_images * config.num_inference_steps),
            recipe=replace(recipe, generate=config),
            shards=plan.num_shards,
        )

    def _train(self, cell: Cell, dataset: Stage | None) -> Stage:
        recipe, section = cell.recipe, cell.recipe.train
        config = section.config(f"{self.path}: train")
        rounds = 0
        if dataset is not None:
            plan, _ = self._plan(recipe.generate)
            rounds, data, identity = plan.rounds, f"{dataset.folder}@rounds={plan.rounds}", [plan.fingerprint]
        else:
            data, identity = section.data, _identity(section.data)
        inputs = digest([identity, rounds, resolved(config), section.steps, section.validation])
        epochs = config.optimizer.epochs * self.num_images(recipe) if dataset else 0
        return Stage(
            kind="train",
            folder=self.out / "runs" / f"{cell_title(recipe)}-{inputs[:8]}",
            inputs=inputs,
            product="result.json",
            work=float(section.steps * config.optimizer.batch_size or epochs),
            recipe=recipe,
            data=data,
        )

    def _evaluations(self, recipe: Recipe, encoder: str, folder: Path, upstream: str) -> list[Stage]:
        stages = []
        for section in recipe.evaluate:
            if recipe.encoder and section.suite == "imagenet":
                continue  # a given encoder has no classifier for these classes
            settings = to_mapping(section)
            settings["side"] = settings.pop("crop_size")  # its name in the stamps of older studies
            inputs = digest([upstream, settings, {k: _identity(v) for k, v in section.data.items()}])
            stages.append(
                Stage(
                    kind="evaluate",
                    folder=folder / f"evaluate-{section.suite}-{inputs[:8]}",
                    inputs=inputs,
                    product="results.json",
                    work=0.0,
                    recipe=recipe,
                    encoder=encoder,
                    section=section,
                )
            )
        return stages


def drawn(recipe: Recipe) -> bool:
    """Whether the training images are generated."""
    return not recipe.encoder and not recipe.train.data


def strength(recipe: Recipe) -> str:
    """The augmentation of the papers' tables: "strong" (DINO's) or "plain" (crop and flip)."""
    return "strong" if recipe.train.config().augmentation == "dino" else "plain"


def cell_title(recipe: Recipe) -> str:
    """A readable folder name for the run of a cell; it need not be unique."""
    config, train = recipe.generate, recipe.train
    if drawn(recipe):
        data = f"{config.prompt}_scale{config.guidance_scale:g}_steps{config.num_inference_steps}_x{config.multiple:g}"
    else:
        data = f"real_{train.data.rpartition('/')[2]}"
    return slug(f"{data}_{strength(recipe)}_seed{train.config().seed}")


def _weights(encoder: str) -> list[Any]:
    """What an encoder stands for: its name, and size and time of its weights where they are files here."""
    files = [spec.weights for spec in EncoderSpec.parse_ensemble(encoder)]
    stats = [file.stat() for file in files if file and file.is_file()]
    return [encoder, *([stat.st_size, stat.st_mtime_ns] for stat in stats)]


def _identity(text: str) -> list[Any]:
    """What a data spec stands for: a generated dataset by its fingerprint, anything else by its name."""
    spec = DataSpec.parse(text)
    if spec.kind in ("dataset", "parquet") and (spec.paths[0] / "dataset.json").is_file():
        document = read_json(spec.paths[0] / "dataset.json")
        return [document.get("fingerprint"), document.get("rounds"), spec.limit, spec.number]
    return [text]
