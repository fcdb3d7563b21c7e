"""A dataset from plan to picture: plan it, draw it, verify and mend it, look at it.

The heavy rooms (torch, diffusers) are imported inside the functions that need them.
"""

from pathlib import Path
from typing import Any

from imagenet_sd.core.errors import DatasetError, GenerationError, PlanError
from imagenet_sd.core.files import atomic_write, read_json, write_json
from imagenet_sd.core.progress import Progress
from imagenet_sd.core.types import GenerationPlan
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import ModelIdentity, identify, offline_identity
from imagenet_sd.generation.plan import default_folder, difference, estimate_bytes, load_plan, make_plan


def generate(
    config: GenerationConfig,
    out: Path | None = None,
    *,
    engine: str = "local",
    workers: int = 0,
    gpus_per_worker: float | None = None,
    metrics_file: Path | None = None,
) -> dict[str, Any]:
    """Draw the dataset that `config` describes into a folder; goes on where earlier workers stopped.

    Any number of these may run on one folder at the same time, on one machine or many.

    Args:
        config: what to generate.
        out: dataset folder; None names it after the recipe, in the working folder.
        engine: "local" (workers on this machine) or "ray" (one task per shard on a Ray cluster).
        workers: workers on this machine; 0: every visible GPU, or every CPU core.
        gpus_per_worker: GPUs per Ray task; None: 1 where there are any.
        metrics_file: Prometheus text file to keep up to date.

    Returns:
        A summary: `out`, `fingerprint`, `num_images`, `num_shards`, `shards_drawn`, `images_per_second`.

    Raises:
        PlanError: the folder holds another dataset (the differences are named).
        GenerationError: shards failed each attempt; the message lists them, and the others are done.
        Interrupted: a signal came; run again to go on.
        ImagenetSDError: any other known fault.
    """
    if engine not in ("local", "ray"):
        raise PlanError(f"--engine is {engine!r}", "give local or ray")
    out = out or Path(default_folder(config))
    plan, document = _agree(out, config)
    _publish_description(out, document)
    from imagenet_sd.generation.workers.status import Watch, unfinished

    todo = unfinished(out, plan)
    rate = 0.0
    if todo:
        missing = sum(plan.shard(i).num_rows for i in todo)
        with Progress("images", plan.num_images, plan.num_images - missing) as progress:
            watch = Watch(out, plan, progress, metrics_file)
            if engine == "ray":
                from imagenet_sd.generation.workers.engines.ray import run_ray

                run_ray(out, plan, todo, gpus_per_worker, watch)
            else:
                from imagenet_sd.generation.workers.engines.local import run_local

                run_local(out, plan, workers, watch, len(todo))
            watch.show(last=True)
            rate = progress.rate()
        _require_complete(out, plan)
    return {
        "out": str(out),
        "fingerprint": plan.fingerprint,
        "num_images": plan.num_images,
        "num_shards": plan.num_shards,
        "shards_drawn": len(todo),
        "images_per_second": round(rate, 2),
    }


def _require_complete(out: Path, plan: GenerationPlan) -> None:
    from imagenet_sd.generation.workers.status import failures, unfinished

    if left := unfinished(out, plan):
        failed = failures(out, plan)
        listed = "; ".join(f"{path}: {error}" for path, error in list(failed.items())[:10])
        more = f"; and {len(failed) - 10} more" if len(failed) > 10 else ""
        raise GenerationError(
            f"{len(left)} of {plan.num_shards} shards are not done, the others are. {listed}{more}",
            f"run the same command again to try them again; `imagenet-sd status {out}` lists them",
        )


def status(out: Path, metrics_file: Path | None = None) -> dict[str, Any]:
    """How far a dataset is, how fast it grows, who works on it, and which shards failed.

    Returns:
        See `imagenet_sd.generation.workers.status.status`.

    Raises:
        DatasetError: the folder holds no dataset.
    """
    from imagenet_sd.generation.workers.status import status as look
    from imagenet_sd.generation.workers.status import write_metrics

    plan, _ = open_dataset(out)
    state = look(out, plan)
    if metrics_file:
        write_metrics(state, metrics_file)
    return state


def regenerate(out: Path, image_id: str) -> dict[str, Any]:
    """Draw one image of a dataset again, alone, and compare it with the stored one.

    Args:
        out: dataset folder.
        image_id: `{wnid}_{index:06d}`.

    Returns:
        `image_id`, `shard`, `row`, `prompt`, `seed`, `identical` (the pixels as stored), `largest_difference` (0 to
        255) and `identical_bytes` (the JPEG files).

    Raises:
        DatasetError: there is no such image, or its shard is not done.
    """
    from imagenet_sd.generation.regenerate import regenerate_image

    plan, document = open_dataset(out)
    return regenerate_image(out, plan, document, image_id)


def dry_run(config: GenerationConfig, out: Path | None = None) -> dict[str, Any]:
    """What `generate` would do, without a model, a network or a file written.

    Returns:
        The recipe, counts, shards, disk estimate, folder, sample prompts and lint warnings.
    """
    from imagenet_sd.core.types import PromptTemplate
    from imagenet_sd.prompts.lint import lint

    plan, document = make_plan(config, offline_identity(config))
    recipe = document["recipe"]
    warnings = lint(plan.classes, PromptTemplate(key=recipe["prompt"], text=recipe["template"]))
    samples = [plan.prompts.prompt(spec, 0).text for spec in plan.classes[:5]]
    return {
        "out": str(out or default_folder(config)),
        "recipe": recipe,
        "num_classes": len(plan.classes),
        "num_images": plan.num_images,
        "num_shards": plan.num_shards,
        "rounds": plan.rounds,
        "estimated_bytes": estimate_bytes(plan, recipe["width"], recipe["height"]),
        "prompts": samples,
        "warnings": [f"{w.wnid} {w.code}: {w.message}" for w in warnings],
    }


def open_dataset(out: Path) -> tuple[GenerationPlan, dict[str, Any]]:
    """The plan and the `dataset.json` of a dataset folder.

    Raises:
        DatasetError: the folder holds no dataset, or its description is damaged.
    """
    if not (out / "dataset.json").is_file():
        raise DatasetError(f"{out} holds no dataset: there is no dataset.json", "name a folder made by `generate`")
    document = read_json(out / "dataset.json")
    return load_plan(document), document


def verify(out: Path, *, repair: bool = False) -> dict[str, Any]:
    """Read every byte of a dataset and name every fault; with `repair`, draw the bad shards again.

    Returns:
        `num_shards`, `faults` (the list before any repair), `repaired` (shard paths, each with `identical`: whether the
        new file has the SHA-256 that the manifest had promised), `sound`: whether no fault is left.
    """
    from imagenet_sd.storage.verify import verify_dataset

    plan, document = open_dataset(out)
    size = (document["recipe"]["width"], document["recipe"]["height"])
    with Progress("images", plan.num_images) as progress:
        faults = verify_dataset(out, plan, size, progress.advance)
    bad = [fault.shard for fault in faults if fault.shard is not None]
    repaired = _repair(out, plan, document, bad) if repair and bad else []
    return {
        "out": str(out),
        "num_images": plan.num_images,
        "num_shards": plan.num_shards,
        "faults": [{"shard": fault.path, "message": fault.message} for fault in faults],
        "repaired": repaired,
        "sound": len(repaired) == len(faults),
    }


def _repair(out: Path, plan: GenerationPlan, document: dict[str, Any], bad: list[int]) -> list[dict[str, Any]]:
    from imagenet_sd.generation.worker import make_worker
    from imagenet_sd.storage.writer import read_manifest, shard_path

    worker = make_worker(out, plan, document)
    repaired = []
    with Progress("images", sum(plan.shard(i).num_rows for i in bad)) as progress:
        for i in bad:
            shard = plan.shard(i)
            try:
                promised = read_manifest(out, shard)
            except DatasetError:
                promised = None
            manifest = worker.run_shard(i)
            identical = None if promised is None else manifest.sha256 == promised.sha256
            repaired.append({"shard": str(shard_path(out, shard).relative_to(out)), "identical": identical})
            progress.advance(shard.num_rows)
    return repaired


def preview(out: Path, page: Path | None = None, *, images_per_class: int = 12) -> dict[str, Any]:
    """Write a static gallery page and a contact sheet of a dataset, finished or not.

    Args:
        out: dataset folder.
        page: the HTML file; None: `gallery.html` in the dataset folder. The contact sheet is its neighbour, `.png`.
        images_per_class: images shown of each class.

    Returns:
        `page`, `contact_sheet` and `images` (the number shown).
    """
    from imagenet_sd.report.gallery import write_gallery

    _, document = open_dataset(out)
    page = page or out / "gallery.html"
    sheet = page.with_suffix(".png")
    count = write_gallery(out, document, page, sheet, images_per_class)
    return {"page": str(page), "contact_sheet": str(sheet), "images": count}


def _agree(out: Path, config: GenerationConfig) -> tuple[GenerationPlan, dict[str, Any]]:
    """The plan of this run, which must be that of the dataset in the folder, if there is one; it may have grown."""
    existing = read_json(out / "dataset.json") if (out / "dataset.json").exists() else None
    if existing is None:
        if (out / "data").exists():
            raise PlanError(
                f"{out} has a data folder but no dataset.json", "restore dataset.json, or name another folder"
            )
        return make_plan(config, identify(config))
    load_plan(existing)
    recorded = {key: existing["recipe"][key] for key in ("model_id", "revision", "weights_sha256")}
    pinned = recorded["revision"] and recorded["model_id"] == config.model
    if pinned and config.revision in ("", recorded["revision"]):
        identity = ModelIdentity(**recorded)  # no need to ask the hub again what the newest commit is
    else:
        identity = identify(config)
    plan, document = make_plan(config, identity)
    if different := difference(existing, document):
        raise PlanError(
            f"{out} holds another dataset: {'; '.join(different)}",
            "give --out a new folder, or run the command that began this dataset",
        )
    document["rounds"] = max(plan.rounds, existing["rounds"])
    document["made_with"] = existing["made_with"]
    return load_plan(document), document


def _publish_description(out: Path, document: dict[str, Any]) -> None:
    from imagenet_sd.storage.card import dataset_card

    out.mkdir(parents=True, exist_ok=True)
    if not (out / "dataset.json").exists() or read_json(out / "dataset.json") != document:
        write_json(out / "dataset.json", document)
    card = dataset_card(document)
    if not (out / "README.md").exists() or (out / "README.md").read_text(encoding="utf-8") != card:
        atomic_write(out / "README.md", lambda path: path.write_text(card, encoding="utf-8"))
