"""A dataset from plan to picture: plan it, generate it, verify and repair it, look at it.

The heavy libraries (torch, diffusers) are imported inside the functions that need them.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagenet_sd.core import layout
from imagenet_sd.core.errors import DatasetError, GenerationError, PlanError
from imagenet_sd.core.files import free_bytes
from imagenet_sd.core.progress import Progress, counted, note, size
from imagenet_sd.core.types import PromptTemplate
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.diffusion.options import Offload, check_offload
from imagenet_sd.generation.diffusion.schedulers import scheduler_class, steps_warning
from imagenet_sd.generation.estimate import estimate_time
from imagenet_sd.generation.models import (
    ModelIdentity,
    identify,
    model_kind,
    offline_identity,
    resolve,
    scheduler_config,
)
from imagenet_sd.generation.plan import default_folder, difference, estimate_bytes, make_plan
from imagenet_sd.generation.tokenizers import model_tokenizers
from imagenet_sd.storage.dataset import Dataset


def generate(
    config: GenerationConfig,
    out: Path | None = None,
    *,
    engine: str = "local",
    workers: int = 0,
    gpus_per_worker: float | None = None,
    offload: Offload = "none",
    metrics_file: Path | None = None,
) -> dict[str, Any]:
    """Generate the dataset that `config` describes into a folder; goes on where earlier workers stopped.

    Any number of these may run on one folder at the same time, on one machine or many.

    Args:
        config: what to generate.
        out: dataset folder; None names it after the settings, in the working folder.
        engine: "local" (workers on this machine) or "ray" (one task per shard on a Ray cluster).
        workers: workers on this machine; 0: every visible GPU, or every CPU core.
        gpus_per_worker: GPUs per Ray task; None: 1 where there are any.
        offload: for small GPUs, what waits in the CPU's memory until it is used: none of the model, each model
            (text encoder, denoiser, image decoder) as a whole, or each layer (sequential; slow). Images do not depend
            on it.
        metrics_file: Prometheus text file to keep up to date.

    Returns:
        A summary: `out`, `fingerprint`, `num_images`, `num_shards`, `rounds`, and of this run, without the work of
        others, `shards_generated` and `images_per_second`.

    Raises:
        PlanError: the folder holds another dataset (the differences are named).
        GenerationError: shards failed each attempt; the message lists them, and the others are done.
        Interrupted: a signal came; run again to go on.
        ImagenetSDError: any other known fault.
    """
    if engine not in ("local", "ray"):
        raise PlanError(f"--engine is {engine!r}", "give local or ray")
    check_offload(offload, config.sampling_options)
    dataset, config = _plan_dataset(out, config, offload)
    dataset.write_description()
    plan, todo = dataset.plan, dataset.unfinished()
    if todo:
        _warn(config, dataset, todo)
    started = time.monotonic()
    work = (engine, workers, gpus_per_worker, offload, metrics_file)
    generated = _run_engine(dataset, todo, *work) if todo else set()
    rate = dataset.count_images(generated) / max(1e-9, time.monotonic() - started)
    return {
        "out": str(dataset.folder),
        "fingerprint": plan.fingerprint,
        "num_images": plan.num_images,
        "num_shards": plan.num_shards,
        "rounds": plan.rounds,
        "shards_generated": len(generated),
        "images_per_second": round(rate, 2),
    }


def _warn(config: GenerationConfig, dataset: Dataset, todo: list[int]) -> None:
    """Say before the work begins what will be wrong with its images."""
    from imagenet_sd.prompts.lint import lint_same_prompts

    same = lint_same_prompts(dataset.plan.classes, PromptTemplate.recorded(dataset.settings))
    num_bytes = estimate_bytes(dataset.plan, *dataset.image_size) * len(todo) // dataset.plan.num_shards
    warnings = _warnings(config, dataset.folder, num_bytes, dataset.settings["revision"])
    for text in [*[f"{w.wnid} {w.code}: {w.message}" for w in same], *warnings]:
        note(f"warning: {text}")


def _run_engine(
    dataset: Dataset,
    todo: list[int],
    engine: str,
    workers: int,
    gpus: float | None,
    offload: Offload,
    metrics_file: Path | None,
) -> set[int]:
    """Generate what is missing; returns the numbers of the shards that this run has generated."""
    from imagenet_sd.generation.workers.engines.local import run_local
    from imagenet_sd.generation.workers.engines.ray import run_ray
    from imagenet_sd.generation.workers.status import RunProgress, failures

    plan = dataset.plan
    with Progress("images", plan.num_images, plan.num_images - dataset.count_images(todo)) as bar:
        progress = RunProgress(dataset, bar, metrics_file)
        if engine == "ray":
            run_ray(dataset, todo, gpus, progress, offload)
        else:
            run_local(dataset, workers, progress, len(todo), offload)
        progress.update(last=True)
    if left := dataset.unfinished():
        failed = failures(dataset)
        listed = "; ".join(f"{path}: {error}" for path, error in list(failed.items())[:10])
        more = f"; and {len(failed) - 10} more" if len(failed) > 10 else ""
        raise GenerationError(
            f"{len(left)} of {counted(plan.num_shards, 'shard')} could not be generated, the others are done. "
            f"{listed}{more}",
            f"run the same command again to try them again; `imagenet-sd status {dataset.folder}` lists them",
        )
    return progress.generated


def status(folder: Path, metrics_file: Path | None = None) -> dict[str, Any]:
    """How far a dataset is and who works on it: see `imagenet_sd.generation.workers.status.status`.

    Raises:
        DatasetError: the folder holds no dataset.
    """
    from imagenet_sd.generation.workers.metrics import write_metrics
    from imagenet_sd.generation.workers.status import status as dataset_status

    state = dataset_status(open_dataset(folder))
    if metrics_file:
        write_metrics(state, metrics_file)
    return state


def regenerate(folder: Path, image_id: str, *, offload: Offload = "none") -> dict[str, Any]:
    """Generate one image of a dataset again, alone, and compare it with the stored one.

    Args:
        folder: dataset folder.
        image_id: `{wnid}_{index:06d}`.
        offload: for small GPUs, see `generate`.

    Returns:
        `image_id`, `shard`, `row`, `prompt`, `seed`, `identical` (the pixels as stored), `largest_difference` (0 to
        255) and `identical_bytes` (the JPEG files).

    Raises:
        DatasetError: there is no such image, or its shard is not done.
    """
    from imagenet_sd.generation.regenerate import regenerate_image

    return regenerate_image(open_dataset(folder), image_id, offload)


def dry_run(config: GenerationConfig, out: Path | None = None) -> dict[str, Any]:
    """What `generate` would do, without a model, a network or a file written.

    Returns:
        The settings, counts, shards, folder, sample prompts, warnings, estimates of disk (beside what is free) and of
        time; the time is by GPU, see `imagenet_sd.generation.estimate.estimate_time`. Of a model of the hub whose
        configuration is not here, default settings are None, and the estimates that need them None or empty.
    """
    from imagenet_sd.prompts.lint import lint

    model, auto = offline_identity(config), not config.batch_size
    config = replace(
        resolve(config), batch_size=config.batch_size or 16
    )  # the plan is the same but for its fingerprint
    folder = out or Path(default_folder(config))
    plan, document = make_plan(config, model)
    settings = document["settings"] | ({"batch_size": "auto"} if auto else {})
    scheduler = scheduler_class(scheduler_config(config), config.scheduler)
    tokenizers, is_known = model_tokenizers(config), model_kind(config) is not None
    unknown = [] if tokenizers else [f"how many tokens of a prompt {config.model} reads is not known"]
    if not is_known:
        unknown.append(f"{config.model} is not here: its defaults are not known before `generate` asks the Hub")
    linted = lint(plan.classes, PromptTemplate.recorded(settings), tokenizers)
    num_bytes = estimate_bytes(plan, *config.size) if config.width else None
    samples = [plan.prompts.prompt(spec, 0).text for spec in plan.classes[:5]]
    return {
        "out": str(folder),
        "settings": settings,
        "num_classes": len(plan.classes),
        "num_images": plan.num_images,
        "num_shards": plan.num_shards,
        "rounds": plan.rounds,
        "estimated_bytes": num_bytes,
        "free_bytes": free_bytes(folder),
        "estimated_time": estimate_time(plan, settings, config.model, scheduler) if is_known else {},
        "prompts": samples,
        "warnings": [
            *[f"{w.wnid} {w.code}: {w.message}" for w in linted],
            *unknown,
            *_warnings(config, folder, num_bytes),
        ],
    }


def _warnings(config: GenerationConfig, folder: Path, num_bytes: int | None, revision: str = "") -> list[str]:
    """What will go wrong with a plan that is possible: too few steps, too little space; as far as both are known."""
    warnings = []
    if model_kind(config, revision) is not None:
        scheduler = scheduler_config(config, revision)
        warnings.append(steps_warning(scheduler, config.scheduler, config.steps, config.scale))
    if num_bytes is not None and num_bytes > (free := free_bytes(folder)):
        warnings.append(f"the images need about {size(num_bytes)}, and {size(free)} are free at {folder}")
    return [warning for warning in warnings if warning]


def open_dataset(folder: Path) -> Dataset:
    """The dataset in a folder, finished or not.

    Raises:
        DatasetError: the folder holds no dataset, or its description is damaged.
    """
    return Dataset.open(folder)


def verify(folder: Path, *, repair: bool = False, offload: Offload = "none") -> dict[str, Any]:
    """Read every byte of a dataset and name every fault; with `repair`, generate the bad shards again.

    Args:
        folder: dataset folder.
        repair: whether to generate.
        offload: for small GPUs, see `generate`.

    Returns:
        `num_shards`, `faults` (the list before any repair), `repaired` (shard paths, each with `identical`: whether the
        new file has the SHA-256 that the manifest had promised), `sound`: whether no fault is left.
    """
    from imagenet_sd.storage.verify import verify_dataset

    dataset = open_dataset(folder)
    with Progress("images", dataset.plan.num_images) as progress:
        faults = verify_dataset(dataset, progress.advance)
    bad = [fault.shard for fault in faults if fault.shard is not None]
    repaired = _repair(dataset, bad, offload) if repair and bad else []
    return {
        "out": str(folder),
        "num_images": dataset.plan.num_images,
        "num_shards": dataset.plan.num_shards,
        "faults": [{"shard": fault.path, "message": fault.message} for fault in faults],
        "repaired": repaired,
        "sound": len(repaired) == len(faults),
    }


def _repair(dataset: Dataset, bad: list[int], offload: Offload) -> list[dict[str, Any]]:
    from imagenet_sd.generation.worker import make_worker

    worker = make_worker(dataset, offload=offload)
    repaired = []
    with Progress("images", dataset.count_images(bad)) as progress:
        for i in bad:
            shard = dataset.plan.shard(i)
            try:
                promised = dataset.manifest(shard)
            except DatasetError:
                promised = None
            manifest = worker.run_shard(i)
            identical = None if promised is None else manifest.sha256 == promised.sha256
            repaired.append({"shard": dataset.relative(dataset.shard_path(shard)), "identical": identical})
            progress.advance(shard.num_rows)
    return repaired


def preview(folder: Path, page: Path | None = None, *, images_per_class: int = 12) -> dict[str, Any]:
    """Write a static gallery page and a contact sheet of a dataset, finished or not.

    Args:
        folder: dataset folder.
        page: the HTML file; None: `gallery.html` in the dataset folder. The contact sheet is its neighbour, `.png`.
        images_per_class: images shown of each class.

    Returns:
        `page`, `contact_sheet` and `images` (the number shown).
    """
    from imagenet_sd.report.gallery import write_gallery

    page = page or folder / layout.GALLERY
    sheet = page.with_suffix(".png")
    count = write_gallery(open_dataset(folder), page, sheet, images_per_class)
    return {"page": str(page), "contact_sheet": str(sheet), "images": count}


def _plan_dataset(
    out: Path | None, config: GenerationConfig, offload: Offload = "none"
) -> tuple[Dataset, GenerationConfig]:
    """The dataset of this run, which must be the one in the folder, if there is one; it may have grown.

    Returns:
        The dataset, and the configuration with the defaults of its model filled in.
    """
    if out is None and model_kind(config) is None:
        identify(config)  # has its defaults here, which name the folder
    model = identify(config, _recorded(out or Path(default_folder(resolve(config)))))
    config = resolve(config, model.revision)
    folder = out or Path(default_folder(config))
    if not (folder / layout.DESCRIPTION).exists():
        if (folder / layout.DATA).exists():
            raise PlanError(
                f"{folder} has a data folder but no dataset.json", "restore dataset.json, or name another folder"
            )
        if not config.batch_size:
            return _begin_with_batch_size(folder, config, model, offload), config
        return Dataset.from_document(folder, make_plan(config, model)[1]), config
    existing = Dataset.open(folder)
    config = replace(config, batch_size=config.batch_size or existing.plan.batch_size)
    plan, document = make_plan(config, model)
    if different := difference(existing.document, document):
        raise PlanError(
            f"{folder} holds another dataset: {'; '.join(different)}",
            "give --out a new folder, or run the command that began this dataset",
        )
    if existing.plan.rounds > plan.rounds:
        there, asked = counted(existing.plan.rounds, "round"), counted(plan.rounds, "round")
        note(f"note: {folder} holds {there} already; nothing is removed for a --multiple of {asked}, all are completed")
    document["rounds"] = max(plan.rounds, existing.plan.rounds)
    document["made_with"] = existing.document["made_with"]
    return Dataset.from_document(folder, document), config


def _recorded(folder: Path) -> ModelIdentity | None:
    """The model of a dataset that is there already."""
    if not (folder / layout.DESCRIPTION).exists():
        return None
    return ModelIdentity.recorded(Dataset.open(folder).settings)


def _begin_with_batch_size(folder: Path, config: GenerationConfig, model: ModelIdentity, offload: Offload) -> Dataset:
    """Find the largest batch that fits this device, and begin the dataset with it; or join who was faster."""
    from imagenet_sd.generation.batch_size import find_batch_size

    trial = make_plan(replace(config, batch_size=1, compile=False), model)[1]  # compiling takes minutes for each size
    with tempfile.TemporaryDirectory() as empty:
        size, device = find_batch_size(Dataset.from_document(Path(empty), trial), offload)
    config = replace(config, batch_size=size)
    dataset = Dataset.from_document(folder, make_plan(config, model)[1])
    if not dataset.begin():
        return _plan_dataset(folder, replace(config, batch_size=0), offload)[0]
    note(
        f"note: batches of {counted(size, 'image')}, found on {device} and recorded in the plan. A GPU with less "
        "memory that joins later stops with an error and gives its shard back; it never takes another batch size"
    )
    return dataset
