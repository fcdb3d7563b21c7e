"""From a configuration to a plan and its `dataset.json`. Imports no heavy library."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imagenet_sd import __version__
from imagenet_sd.core.errors import PlanError
from imagenet_sd.core.files import image_files
from imagenet_sd.core.types import ClassSpec, GenerationPlan
from imagenet_sd.generation.config import JPEG, GenerationConfig
from imagenet_sd.generation.diffusion.options import SAMPLING_DEFAULTS
from imagenet_sd.generation.diffusion.schedulers import check_steps
from imagenet_sd.generation.kinds import STABLE_DIFFUSION
from imagenet_sd.generation.lora import parse_lora
from imagenet_sd.generation.models import ModelIdentity, checker_identity, model_kind, resolve, scheduler_config
from imagenet_sd.prompts.build import PromptBuilder
from imagenet_sd.prompts.classes import class_list_name, load_classes
from imagenet_sd.prompts.templates import get_template, load_templates
from imagenet_sd.storage.dataset import FORMAT_VERSION, build_plan, fingerprint

# Settings that a dataset.json names only where they differ from these, so that older datasets keep their fingerprints.
_OPTIONAL: dict[str, Any] = {
    **json.loads(json.dumps(SAMPLING_DEFAULTS)),
    "nsfw_checker": None,
    "lora": None,
    "backgrounds": [],
    "pipeline": STABLE_DIFFUSION.pipeline,
}


def make_plan(config: GenerationConfig, model: ModelIdentity) -> tuple[GenerationPlan, dict[str, Any]]:
    """Work out the plan, and the content of `dataset.json`, from which `Dataset.open` reads it back.

    Of a model whose kind is not known (see `model_kind`), default settings are None: that serves a dry run alone.

    Args:
        config: generation settings.
        model: what `generation.models.identify` says of the model and the LoRA of these settings.

    Returns:
        The plan, and the document.

    Raises:
        ImagenetSDError: the class list, the template, the counts or the number of steps are wrong.
    """
    if not config.batch_size:
        raise PlanError("batch_size is auto, which only `generate` can find", "give a number, such as 16")
    assert bool(config.lora) == (model.lora is not None), "the identity is not that of this configuration"
    config, kind = resolve(config, model.revision), model_kind(config, model.revision)
    classes = load_classes(config.class_list, hypernym_lemmas=config.hypernym_lemmas)
    template = get_template(config.prompt, load_templates(Path(config.templates) if config.templates else None))
    PromptBuilder(template).check_fields(classes)
    if kind is not None:
        check_steps(scheduler_config(config, model.revision), config.scheduler, config.steps)
    counts = _counts(config, classes)
    settings = {
        "class_list": class_list_name(config.class_list),
        "prompt": template.key,
        "template": template.text,
        "hypernym_lemmas": config.hypernym_lemmas,
        **model.settings(),
        "guidance_scale": None if config.guidance_scale is None else float(config.guidance_scale),
        "num_inference_steps": config.num_inference_steps,
        "negative_prompt": config.negative_prompt,
        "width": config.width or None,
        "height": config.height or None,
        "seed": config.seed,
        "dtype": config.dtype,
        "shard_size": config.shard_size,
        "batch_size": config.batch_size,
        "image": JPEG,
        **config.sampling_options.recorded(),
    }
    if kind is not None and kind.pipeline != STABLE_DIFFUSION.pipeline:
        settings["pipeline"] = kind.pipeline
    if template.backgrounds:
        settings["backgrounds"] = template.backgrounds
    if checker := checker_identity(config, model):
        settings["nsfw_checker"] = checker
    document = {
        "format_version": FORMAT_VERSION,
        "made_with": f"imagenet-sd {__version__}",
        "fingerprint": "",
        "settings": settings,
        "rounds": int(config.multiple) if config.multiple >= 1 else 1,
        "model_source": config.model,
        **({"lora_source": parse_lora(config.lora)[0]} if config.lora else {}),
        "classes": [{**asdict(spec), "count": count} for spec, count in zip(classes, counts, strict=True)],
    }
    document = json.loads(json.dumps(document))  # as it will be read back: lists for tuples
    document["fingerprint"] = fingerprint(document)
    plan = build_plan(document)
    if plan.excess:
        raise PlanError(f"the plan has {plan.excess}", "give fewer images, or a larger --shard-size")
    return plan, document


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The settings in which two `dataset.json` documents differ, one line each; empty when they are one dataset."""
    keys = dict.fromkeys([*new["settings"], *old["settings"]])
    values = {key: [document["settings"].get(key, _OPTIONAL.get(key)) for document in (old, new)] for key in keys}
    lines = [f"{key}: {there!r} there, {asked!r} asked for" for key, (there, asked) in values.items() if there != asked]
    if old["classes"] != new["classes"]:
        before, after = sum(c["count"] for c in old["classes"]), sum(c["count"] for c in new["classes"])
        lines.append(
            f"classes: {len(old['classes'])} with {before} images there, {len(new['classes'])} with {after} asked for"
        )
    return lines


def default_folder(config: GenerationConfig) -> str:
    """Name of the output folder after the settings of a resolved configuration: class list, prompt, scale, seed."""
    name = class_list_name(config.class_list)
    return f"{name}-sd_{config.prompt}_scale{known(config.guidance_scale)}_seed{config.seed}"


def known(number: float | None) -> str:
    """A setting as a part of a folder's name; "?" for the default of a model whose kind is not known."""
    return "?" if number is None else f"{number:g}"


def estimate_bytes(plan: GenerationPlan, width: int, height: int) -> int:
    """Disk estimate: a JPEG of quality 95 without chroma subsampling takes 0.45 bytes a pixel and 700 bytes a row."""
    return int(plan.num_images * (700 + 0.45 * width * height))


def _counts(config: GenerationConfig, classes: list[ClassSpec]) -> tuple[int, ...]:
    base = _real_counts(Path(config.match), classes) if config.match else [config.base_count] * len(classes)
    if config.multiple < 1:
        base = [max(1, round(count * config.multiple)) if count else 0 for count in base]
    return tuple(base)


def _real_counts(folder: Path, classes: list[ClassSpec]) -> list[int]:
    if not folder.is_dir():
        raise PlanError(f"--match {folder} is no folder", "name an ImageFolder: one folder of images per class id")
    counts = []
    for spec in classes:
        if not (folder / spec.wnid).is_dir():
            raise PlanError(
                f"--match {folder} has no folder {spec.wnid}", "every class of the list needs a folder named by its id"
            )
        counts.append(len(image_files(folder / spec.wnid)))
    if not sum(counts):
        raise PlanError(f"--match {folder} holds no images of these classes", "name an ImageFolder with images")
    return counts
