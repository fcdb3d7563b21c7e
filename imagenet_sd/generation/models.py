"""Which model generates: a hub repository pinned to a commit, a local folder known by its hash, or the embedded model.

Imports neither torch nor diffusers, so that a wrong name is an error within seconds.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from imagenet_sd.core.errors import ModelError, PlanError
from imagenet_sd.core.files import sha256_file
from imagenet_sd.core.progress import counted
from imagenet_sd.generation.config import DEFAULT_MODEL, EMBEDDED, GenerationConfig
from imagenet_sd.generation.diffusion.schedulers import scheduler_class
from imagenet_sd.generation.hub import ask_hub, fetch_configs, model_parts
from imagenet_sd.generation.kinds import STABLE_DIFFUSION, PipelineKind, find_kind
from imagenet_sd.generation.lora import LoraIdentity, identify_lora, offline_lora

EMBEDDED_FOLDER = Path(__file__).parent / "embedded_model"
HINT = "check the name and the network, or give `--model embedded`, or the path of a local diffusers folder"
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_WEIGHTS = ("model_id", "revision", "weights_sha256")
_TELLING = ("unet", "transformer", "vae", "scheduler")  # parts whose configuration decides on defaults


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelIdentity:
    """Which weights generate the images (or flag them), as a plan records it.

    Attributes:
        model_id: hub id, "embedded", or the name of the local folder.
        revision: commit of the hub repository; "" for a folder.
        weights_sha256: hash over the files of a folder; "" for a hub model, whose commit says it.
        lora: what is fused into them, if anything.
    """

    model_id: str
    revision: str = ""
    weights_sha256: str = ""
    lora: LoraIdentity | None = None

    @classmethod
    def recorded(cls, settings: Mapping[str, Any]) -> "ModelIdentity":
        """The identity that the settings of a `dataset.json` record."""
        return cls(**{name: settings[name] for name in _WEIGHTS}, lora=LoraIdentity.recorded(settings))

    def settings(self) -> dict[str, Any]:
        """The identity as `recorded` reads it; without a LoRA there is no key for one."""
        weights = {name: getattr(self, name) for name in _WEIGHTS}
        return weights if self.lora is None else weights | {"lora": asdict(self.lora)}


def identify(config: GenerationConfig, recorded: ModelIdentity | None = None) -> ModelIdentity:
    """Which weights `config` means, pinned: the hub's commit, or a hash over the folder's files; with its LoRA.

    The configuration of a model of the hub is in the cache afterwards: `model_kind` finds it there.

    Args:
        config: names the model.
        recorded: that of the dataset which is there already. A commit of the hub that it pins is not asked for again.

    Raises:
        ModelError: there is no such folder, and the hub does not answer or does not know the name; within 15 seconds.
            Or the hub does not hand out the configuration.
        PlanError: images are to be flagged, and the model has no safety checker; or a folder is to have a revision.
    """
    lora = identify_lora(config.lora, recorded.lora if recorded else None)
    pinned = recorded.revision if recorded and recorded.model_id == config.model else ""
    if recorded and pinned and config.revision in ("", pinned):
        _have_configs(config, pinned, pinned)
        return replace(recorded, lora=lora)
    if (folder := _local_folder(config)) is not None:
        if config.revision:
            raise PlanError(
                f"revision is {config.revision!r}, and model {config.model} is no repository of the hub",
                "leave out --revision",
            )
        check_pipeline_folder(folder)
        name = EMBEDDED if config.embedded else folder.resolve().name
        identity = ModelIdentity(model_id=name, weights_sha256=folder_hash(folder), lora=lora)
        checker_identity(config, identity)
        return identity
    fault = f"model {config.model!r} is neither a local folder"
    commit, files = ask_hub(config.model, config.revision, fault, HINT)
    if config.flag_nsfw:
        require_checker(config.model, files)
    _have_configs(config, config.revision, commit)
    return ModelIdentity(model_id=config.model, revision=commit, lora=lora)


def offline_identity(config: GenerationConfig) -> ModelIdentity:
    """As `identify`, but never asks the network: a hub model keeps the revision that the user gave, pinned or not."""
    lora = offline_lora(config.lora)
    if _local_folder(config) is not None:
        return replace(identify(replace(config, lora="")), lora=lora)
    return ModelIdentity(model_id=config.model, revision=config.revision, lora=lora)


def checker_identity(config: GenerationConfig, model: ModelIdentity) -> dict[str, Any] | None:
    """Which safety checker flags the images: that of the model itself; None when none is asked for.

    Returns:
        The fields of a `ModelIdentity` without a LoRA; the hash is over the checker's folder alone.

    Raises:
        PlanError: the model's folder holds no safety checker.
    """
    if not config.flag_nsfw:
        return None
    folder = _local_folder(config)
    if folder is None:
        return replace(model, lora=None).settings()
    require_checker(config.model, {path.relative_to(folder).as_posix() for path in folder.glob("*/*")})
    return ModelIdentity(model_id=model.model_id, weights_sha256=folder_hash(folder / "safety_checker")).settings()


def require_checker(model: str, files: set[str]) -> None:
    """Raise PlanError for a model whose files, as paths with slashes, hold no safety checker."""
    weights = any(name.startswith("safety_checker/") and name.endswith(".safetensors") for name in files)
    if not (weights and "feature_extractor/preprocessor_config.json" in files):
        raise PlanError(
            f"model {model!r} has no safety checker that --flag-nsfw could ask",
            "leave out --flag-nsfw, or use a model with safety_checker/*.safetensors and feature_extractor/",
        )


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of the JSON, text and safetensors files of a model folder, links followed."""
    digest = hashlib.sha256()
    for path in sorted(path for path in _files_below(folder) if any(map(path.match, _FILES))):
        digest.update(f"{path.relative_to(folder).as_posix()}\n{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _files_below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """All files of a folder and its subfolders, linked ones too, but for a link back to one of the folders `above`."""
    real = folder.resolve()
    if real in above:
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files_below(path, above | {real})
        else:
            yield path


def check_pipeline_folder(folder: Path) -> PipelineKind:
    """The kind of a diffusers folder, by its `model_index.json` alone.

    Raises:
        ModelError: it is no pipeline, or none that turns texts into images.
    """
    try:
        kind = json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError, RecursionError):
        raise ModelError(f"{folder} is not a diffusers pipeline: it has no readable model_index.json", HINT) from None
    return find_kind(str(kind))


def model_kind(config: GenerationConfig, revision: str = "") -> PipelineKind | None:
    """What kind of pipeline `config.model` is, with what its configuration tells; never asks the network.

    Args:
        config: names the model.
        revision: commit of a model of the hub.

    Returns:
        None for a model of the hub whose configuration is not in the cache; `identify` has it there. Of the default
        model it is known without.
    """
    folder = config_folder(config, revision)
    if folder is None:
        return STABLE_DIFFUSION if config.model == DEFAULT_MODEL else None
    return kind_of_folder(folder, config.model)


def kind_of_folder(folder: Path, name: str) -> PipelineKind:
    """The kind of a pipeline's folder, narrowed down by its configuration.

    Args:
        folder: in the layout of diffusers.
        name: the model as the user gave it.

    Raises:
        ModelError: see `check_pipeline_folder`.
    """
    return check_pipeline_folder(folder).of(partial(_read_config, folder), name)


def resolve(config: GenerationConfig, revision: str = "") -> GenerationConfig:
    """The configuration with the defaults of its model filled in: guidance scale, steps and size.

    Args:
        config: as the user gave it; a resolved one comes back as it is, and so does one of a model whose kind is not
            known.
        revision: see `model_kind`.

    Raises:
        PlanError: a setting that the model cannot honour, such as a guidance scale for one that was distilled without.
    """
    kind = model_kind(config, revision)
    if kind is None:
        return config
    width, height = (config.width, config.height) if config.width else (32, 32) if config.embedded else kind.size
    filled = replace(
        config,
        guidance_scale=kind.guidance_scale if config.guidance_scale is None else config.guidance_scale,
        num_inference_steps=config.num_inference_steps or kind.steps,
        width=width,
        height=height,
    )
    kind.check(config.model, filled.scale, filled.negative_prompt, config.lora, filled.size)
    _check_options(filled, kind, revision)
    return filled


def _check_options(config: GenerationConfig, kind: PipelineKind, revision: str) -> None:
    """Refuse the sampling options that a kind of pipeline cannot honour, as far as configurations tell.

    Raises:
        PlanError: see above.
    """
    if kind.pipeline != STABLE_DIFFUSION.pipeline:
        for name, default in (("guidance_interval", (0.0, 1.0)), ("cache_interval", 1)):
            if getattr(config, name) != default:
                raise PlanError(
                    f"{name} is for Stable Diffusion 1 and 2, and {config.model} is a {kind.pipeline}",
                    f"leave out --{name.replace('_', '-')}",
                )
    scheduler = scheduler_config(config, revision)
    own, sampler = (scheduler_class(scheduler, name) for name in ("", config.scheduler))
    if config.scheduler and own.startswith("FlowMatch"):
        raise PlanError(
            f"{config.model} samples with {own}, which --scheduler {config.scheduler} cannot replace",
            "leave out --scheduler",
        )
    most = scheduler.get("original_inference_steps", 50)
    if sampler == "LCMScheduler" and isinstance(most, int) and config.steps > most:
        raise PlanError(
            f"num_inference_steps is {config.steps}, and {config.model} was distilled from {counted(most, 'step')}",
            f"give at most {most} --steps; 4 to 8 are usual",
        )
    if config.attention == "xformers" and kind.denoiser != "unet" and not _has_unet(config, revision):
        raise PlanError(
            f"--attention xformers is for UNets, and {config.model} is a {kind.pipeline}",
            "leave out --attention xformers",
        )


def scheduler_config(config: GenerationConfig, revision: str = "") -> dict[str, Any]:
    """The `scheduler_config.json` of a model; {} for a model of the hub whose files are not here yet.

    Raises:
        ModelError: its timesteps are no numbers.
    """
    folder = config_folder(config, revision)
    content = _read_config(folder, "scheduler") if folder is not None else {}
    for name, least in (("num_train_timesteps", 1), ("steps_offset", 0)):
        value = content.get(name, least)
        if type(value) is not int or not least <= value <= 1 << 20:
            raise ModelError(f"{config.model}: its scheduler_config.json has a {name} of {value!r}", HINT)
    return content


def config_folder(config: GenerationConfig, revision: str = "") -> Path | None:
    """The folder with a model's configuration files; None for a model of the hub that lacks one in the cache."""
    if (folder := _local_folder(config)) is not None:
        return folder
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):  # not the name of a repository
        index = try_to_load_from_cache(config.model, "model_index.json", revision=revision or config.revision or None)
        if isinstance(index, str) and _is_complete(Path(index)):
            return Path(index).parent
    return None


def _is_complete(index: Path) -> bool:
    """Whether the configurations are there that a `model_index.json` promises: a download may have been broken off."""
    parts = [part for part in _TELLING if part in model_parts(index)]
    return all((index.parent / part / _config_name(part)).is_file() for part in parts)


def _have_configs(config: GenerationConfig, revision: str, commit: str) -> None:
    """Have the configuration of a model of the hub in the cache; see `fetch_configs`, whose errors these are."""
    check_pipeline_folder(fetch_configs(config.model, revision, commit, HINT))
    if config_folder(config, commit) is None:
        raise ModelError(f"model {config.model!r} lacks a configuration that its model_index.json promises", HINT)


def _has_unet(config: GenerationConfig, revision: str) -> bool:
    """Whether the `model_index.json` of a model names a UNet."""
    folder = config_folder(config, revision)
    return folder is not None and "unet" in model_parts(folder / "model_index.json")


def _read_config(folder: Path, part: str) -> dict[str, Any]:
    """The configuration of a part of a pipeline's folder; {} where there is none that can be read."""
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads((folder / part / _config_name(part)).read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def _config_name(part: str) -> str:
    return "scheduler_config.json" if part == "scheduler" else "config.json"


def _local_folder(config: GenerationConfig) -> Path | None:
    """The folder that `config.model` means; None for a model of the hub."""
    if config.embedded:
        return EMBEDDED_FOLDER
    folder = Path(config.model)
    return folder if folder.is_dir() else None
