"""The stages of a study: what each depends on, the folder of its results, and whether it is up to date.

A stage is done when its folder holds a stamp, `stage.json`, with the hash of the inputs it has now. Folders are named
by these hashes, so a changed study never writes over older results; nothing is ever deleted.
"""

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from imagenet_sd.core import layout
from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.files import read_json
from imagenet_sd.core.specs import DataSpec, EncoderSpec
from imagenet_sd.core.typed import located
from imagenet_sd.core.types import GenerationPlan
from imagenet_sd.evaluation.config import recorded as evaluation_recorded
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import identify, model_kind, offline_identity, resolve
from imagenet_sd.generation.plan import ModelIdentity, known, make_plan
from imagenet_sd.pipeline import open_dataset
from imagenet_sd.prompts.classes import class_list_name
from imagenet_sd.study.grid import GridCell
from imagenet_sd.study.schema import EvalSection, Study
from imagenet_sd.training.config import recorded
from imagenet_sd.training.self_supervised import SELF_SUPERVISED

STAMP = "stage.json"
Kind = Literal["generate", "train", "evaluate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One unit of work that is done once.

    Attributes:
        kind: what it does.
        folder: holds its results and its stamp.
        inputs: hash of all that decides its results.
        product: file in the folder that is there when it is done.
        work: its size in units that its kind takes about equally long for; 0 where that is not known.
        study: the settings of its cell.
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
    study: Study
    data: str = ""
    encoder: str = ""
    section: EvalSection | None = None
    shards: int = 0

    def is_done(self) -> bool:
        """Whether the results are there and come from these inputs; reads two small files at most."""
        stamp = read_stamp(self.folder)
        if stamp.get("inputs") != self.inputs or not (self.folder / self.product).is_file():
            return False
        return not self.shards or len(open_dataset(self.folder).finished_files()) >= self.shards


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCell:
    """A cell and the stages that it needs, in order; stages may belong to several cells.

    Attributes:
        cell: the cell.
        stages: generate (not for real data), train (not for a given encoder), then the evaluations.
    """

    cell: GridCell
    stages: tuple[Stage, ...]

    def folder(self, kind: Kind) -> Path | None:
        """The folder of its dataset or run; None if it has no such stage."""
        return next((stage.folder for stage in self.stages if stage.kind == kind), None)


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
        path: file of the study, for messages.
        forgiving: plan as if a missing `generate.match` folder were not asked for, and leave the defaults of a model of
            the hub open whose configuration is not here; for a dry run. Otherwise it is downloaded.

    Raises:
        SettingsError: a class list, a template, a count or a model is wrong.
    """

    def __init__(self, cells: list[GridCell], out: Path, path: str, forgiving: bool = False):
        self.out, self.path, self.forgiving = out, path, forgiving
        self.cells = [self._resolved(cell) for cell in cells]
        self._plans: dict[GenerationConfig, tuple[GenerationPlan, str]] = {}
        self._models: dict[tuple[str, str, str], ModelIdentity] = {}
        self._rounds: dict[str, int] = {}
        for (
            cell
        ) in self.cells:  # the largest multiple of a dataset is generated once; smaller ones are its first rounds
            if is_generated(cell.study):
                plan, _ = self._plan(cell.study.generate)
                self._rounds[plan.fingerprint] = max(plan.rounds, self._rounds.get(plan.fingerprint, 0))

    def plan(self) -> list[PlannedCell]:
        """All cells with their stages; of cells that come to the same results only the first.

        Raises:
            ImagenetSDError: a class list, a template or a count is wrong.
        """
        unique: dict[tuple[Path, ...], PlannedCell] = {}
        for cell in self.cells:
            planned = self._cell(cell)
            unique.setdefault(tuple(stage.folder for stage in planned.stages), planned)
        return list(unique.values())

    def num_images(self, study: Study) -> int:
        """Images of the dataset that a study generates; on real data, those that it would generate."""
        return self._plan(study.generate)[0].num_images

    def unknown_models(self) -> list[str]:
        """The models of the hub whose defaults a dry run does not know."""
        configs = [cell.study.generate for cell in self.cells if is_generated(cell.study)]
        return sorted({config.model for config in configs if model_kind(config) is None})

    def _resolved(self, cell: GridCell) -> GridCell:
        """The cell with the defaults of its model filled in, where it generates."""
        if not is_generated(cell.study):
            return cell
        config = cell.study.generate
        with located(f"{self.path}: generate"):
            if not self.forgiving and model_kind(config) is None:
                identify(config)  # its configuration is here afterwards
            return replace(cell, study=replace(cell.study, generate=resolve(config)))

    def _cell(self, cell: GridCell) -> PlannedCell:
        study = cell.study
        if study.encoder:
            folder = self.out / "encoders" / f"{slug(study.encoder)}-{digest(study.encoder)[:8]}"
            stages = self._evaluations(study, study.encoder, folder, digest(_weights(study.encoder)))
            return PlannedCell(cell=cell, stages=tuple(stages))
        datasets = [self._dataset(study)] if is_generated(study) else []
        train = self._train(study, *datasets)
        evaluations = self._evaluations(study, str(train.folder), train.folder, train.inputs)
        return PlannedCell(cell=cell, stages=(*datasets, train, *evaluations))

    def _plan(self, config: GenerationConfig) -> tuple[GenerationPlan, str]:
        if config not in self._plans:
            asked = replace(config, match="") if self.forgiving and not Path(config.match).is_dir() else config
            with located(f"{self.path}: generate"):
                key = (config.model, config.revision, config.lora)
                self._models.setdefault(key, offline_identity(config))
                self._plans[config] = (make_plan(asked, self._models[key])[0], class_list_name(config.class_list))
        return self._plans[config]

    def _dataset(self, study: Study) -> Stage:
        config = study.generate
        plan, name = self._plan(config)
        rounds = self._rounds[plan.fingerprint]
        if rounds > plan.rounds:
            config = replace(config, multiple=float(rounds))
            plan, _ = self._plan(config)
        title = f"{name}-sd_{config.prompt}_{_sampling(config)}"
        share = f"_x{config.multiple:g}" if config.multiple < 1 else ""
        folder = f"{slug(f'{title}{share}_seed{config.seed}')}-{plan.fingerprint[:8]}"
        return Stage(
            kind="generate",
            folder=self.out / "datasets" / folder,
            inputs=digest([plan.fingerprint, rounds]),
            product=layout.DESCRIPTION,
            work=float(plan.num_images * (config.num_inference_steps or 0)),
            study=replace(study, generate=config),
            shards=plan.num_shards,
        )

    def _train(self, study: Study, dataset: Stage | None = None) -> Stage:
        section = study.train
        config = section.config(f"{self.path}: train")
        rounds = epochs = 0
        if dataset is not None:
            plan, _ = self._plan(study.generate)
            rounds, data, identity = plan.rounds, f"{dataset.folder}@rounds={plan.rounds}", [plan.fingerprint]
            epochs = config.optimizer.epochs * plan.num_images
        else:
            data, identity = section.data, _identity(section.data)
        more = [_identity(section.also)] if section.also else []
        inputs = digest([identity, rounds, recorded(config), section.steps, section.validation, *more])
        return Stage(
            kind="train",
            folder=self.out / "runs" / f"{cell_title(study)}-{inputs[:8]}",
            inputs=inputs,
            product="result.json",
            work=float(section.steps * config.optimizer.batch_size or epochs),
            study=study,
            data=data,
        )

    def _evaluations(self, study: Study, encoder: str, folder: Path, upstream: str) -> list[Stage]:
        stages = []
        for section in study.evaluate:
            if study.encoder and section.suite == "imagenet" and not _has_classifier(study.encoder):
                continue
            settings = evaluation_recorded(section)
            settings |= _preprocessing_since_0_1_0(study, section)
            if section.suite == "imagenet-probe":
                settings["order"] = list(section.data)  # the first with training images trains the probe
            inputs = digest([upstream, settings, {k: _identity(v) for k, v in section.data.items()}])
            stages.append(
                Stage(
                    kind="evaluate",
                    folder=folder / f"evaluate-{section.suite}-{inputs[:8]}",
                    inputs=inputs,
                    product="results.json",
                    work=0.0,
                    study=study,
                    encoder=encoder,
                    section=section,
                )
            )
        return stages


def is_generated(study: Study) -> bool:
    """Whether the training images are generated."""
    return not study.encoder and not study.train.data


def augmentation(study: Study) -> str:
    """The augmentation of the papers' tables: "strong" (DINO's) or "plain" (crop and flip)."""
    return "strong" if study.train.config().augmentation == "dino" else "plain"


def cell_title(study: Study) -> str:
    """A readable folder name for the run of a cell; it need not be unique."""
    config, train = study.generate, study.train
    if is_generated(study):
        data = f"{config.prompt}_{_sampling(config)}_x{config.multiple:g}"
    else:
        data = f"real_{train.data.rpartition('/')[2]}"
    also = "_and_real" if train.also else ""
    method = f"_{train.recipe}" if train.recipe in SELF_SUPERVISED else ""
    return slug(f"{data}{also}{method}_{augmentation(study)}_seed{train.config().seed}")


def _sampling(config: GenerationConfig) -> str:
    """Guidance scale and steps as a part of a folder's name."""
    return f"scale{known(config.guidance_scale)}_steps{known(config.num_inference_steps)}"


def _has_classifier(encoder: str) -> bool:
    """Whether the imagenet suite can score it; of a checkpoint that has none, the evaluation says so."""
    specs = EncoderSpec.parse_ensemble(encoder)
    return len(specs) == 1 and not specs[0].random


def _weights(encoder: str) -> list[Any]:
    """What an encoder stands for: its name, and size and time of its weights where they are files here."""
    specs = EncoderSpec.parse_ensemble(encoder)
    files = [spec.weights for spec in specs]
    stats = [file.stat() for file in files if file and file.is_file()]
    start = ["zero_init_last=False"] if any(spec.random for spec in specs) else []  # not so in version 0.1.0
    return [encoder, *([stat.st_size, stat.st_mtime_ns] for stat in stats), *start]


def _preprocessing_since_0_1_0(study: Study, section: EvalSection) -> dict[str, Any]:
    """What tells an evaluation from one of version 0.1.0 that showed the images in another way; else nothing."""
    if section.preprocessing == "model":
        return {"own_preprocessing": ["crop_pct", "interpolation"]}
    size = section.crop_size if study.encoder else study.train.config().val_crop_size
    return {"resize_size": 256} if section.suite == "imagenet" and size == 224 else {}


def _identity(text: str) -> list[Any]:
    """What a data spec stands for: a generated dataset by its fingerprint, anything else by its name."""
    spec = DataSpec.parse(text)
    if spec.kind in ("dataset", "parquet") and layout.holds_dataset(spec.paths[0]):
        document = read_json(path := spec.paths[0] / layout.DESCRIPTION)
        if not isinstance(document, dict):
            raise DatasetError(f"{path} holds no JSON object", "restore the file from a copy")
        return [document.get("fingerprint"), document.get("rounds"), spec.limit, spec.number]
    return [text]
