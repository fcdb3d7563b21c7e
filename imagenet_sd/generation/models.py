"""Finding the weights: a hub repository pinned to a commit, a local folder with its hash, or the embedded model.

Imports neither torch nor diffusers, so that a wrong name is an error within seconds.
"""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

from imagenet_sd.core.errors import ModelError
from imagenet_sd.core.files import sha256_file
from imagenet_sd.generation.config import EMBEDDED, GenerationConfig
from imagenet_sd.generation.identity import (
    EMBEDDED_FOLDER,
    ModelIdentity,
    checker_identity,
    folder_hash,
    local_folder,
    require_checker,
)

_HUB_SECONDS = 12
_WEIGHTS = ("text_encoder", "unet", "vae")
_SAFETY = "safety_checker"
_BLOB = re.compile(r"[0-9a-f]{64}")
_HINT = "check the name and the network, or give `--model embedded`, or the path of a local diffusers folder"


def identify(config: GenerationConfig) -> ModelIdentity:
    """Which weights `config.model` means, pinned: the hub's commit, or a hash over the folder's files.

    Raises:
        ModelError: there is no such folder, and the hub does not answer or does not know the name; within 15 seconds.
        PlanError: images are to be flagged, and the model has no safety checker.
    """
    folder = local_folder(config)
    if folder is not None:
        _check_folder(folder)
        name = EMBEDDED if config.embedded else folder.resolve().name
        identity = ModelIdentity(model_id=name, weights_sha256=folder_hash(folder))
        checker_identity(config, identity)
        return identity
    commit, files = _ask_hub(config.model, config.revision)
    if config.flag_nsfw:
        require_checker(config.model, files)
    return ModelIdentity(model_id=config.model, revision=commit)


def offline_identity(config: GenerationConfig) -> ModelIdentity:
    """As `identify`, but never asks the network: a hub model keeps the revision that the user gave, pinned or not."""
    if local_folder(config) is not None:
        return identify(config)
    return ModelIdentity(model_id=config.model, revision=config.revision)


def fetch(source: str, model: ModelIdentity, *, flag_nsfw: bool = False) -> Path:
    """The local folder of a model's files, downloaded when it comes from the hub and is not in its cache yet.

    Args:
        source: what the user gave as `--model`.
        model: its identity.
        flag_nsfw: whether the safety checker (1.2 GB in Stable Diffusion 1.4) is needed too.

    Raises:
        ModelError: the download fails, a file of the hub's cache is damaged, or a local folder has changed since the
            plan was made.
    """
    if model.weights_sha256:
        folder = EMBEDDED_FOLDER if source == EMBEDDED else Path(source)
        _check_folder(folder)
        if folder_hash(folder) != model.weights_sha256:
            raise ModelError(
                f"the weights in {folder} are not those of the plan: their hash differs",
                "restore the model folder, or generate into a new folder",
            )
        return folder
    from huggingface_hub import snapshot_download

    try:
        allow, ignore = download_patterns(flag_nsfw)
        folder = Path(
            snapshot_download(model.model_id, revision=model.revision, allow_patterns=allow, ignore_patterns=ignore)
        )
    except Exception as error:  # the hub client raises many kinds; each means that the weights cannot be had
        raise ModelError(f"model {model.model_id!r} cannot be downloaded: {_line(error)}", _HINT) from None
    check_snapshot(folder, flag_nsfw=flag_nsfw)
    return folder


def download_patterns(flag_nsfw: bool) -> tuple[list[str], list[str]]:
    """Which files of a hub repository are needed: `allow_patterns` and `ignore_patterns` of the hub client.

    Neither single-file checkpoints, weights of another precision, nor a safety checker that nobody asks.
    """
    parts = (*_WEIGHTS, _SAFETY) if flag_nsfw else _WEIGHTS
    return ["*.json", "*.txt", *(f"{part}/*.safetensors" for part in parts)], ["*.fp16.*", "*.non_ema.*"]


def check_snapshot(folder: Path, *, flag_nsfw: bool = False) -> None:
    """Compare the weights of a hub snapshot with their names: the cache names a large file by its SHA-256.

    A bit-flipped safetensors file loads without an error, so it has to be found here. Where the cache holds copies in
    the place of links (systems without symbolic links) there is no name to compare with.

    Raises:
        ModelError: a file is truncated, changed or missing.
    """
    for part in (*_WEIGHTS, _SAFETY) if flag_nsfw else _WEIGHTS:
        for path in sorted((folder / part).glob("*.safetensors")):
            blob = path.parent / os.readlink(path) if path.is_symlink() else path
            if not _BLOB.fullmatch(blob.name):
                continue
            found = sha256_file(path) if path.is_file() else "missing"
            if found != blob.name:
                raise ModelError(
                    f"{part}/{path.name} in the hub's cache is damaged: its SHA-256 is {found[:12]}, "
                    f"the hub says {blob.name[:12]}",
                    f"delete {blob.resolve()} and run the command again: it is downloaded anew",
                )


def _check_folder(folder: Path) -> None:
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        kind = index.get("_class_name")
    except (OSError, ValueError, AttributeError):
        raise ModelError(f"{folder} is not a diffusers pipeline: it has no readable model_index.json", _HINT) from None
    if kind != "StableDiffusionPipeline":
        raise ModelError(
            f"{folder} holds a {kind}, not a StableDiffusionPipeline",
            "use a model of the Stable Diffusion 1.x/2.x kind",
        )


def _ask_hub(repository: str, revision: str) -> tuple[str, set[str]]:
    """The commit of a repository and its files; from the cache when the hub does not answer."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, constants, snapshot_download

    def ask() -> tuple[str, set[str]]:
        info = HfApi().model_info(repository, revision=revision or None, timeout=_HUB_SECONDS - 2)
        return info.sha or "", {file.rfilename for file in info.siblings or ()}

    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        pool = ThreadPoolExecutor(1)
        try:
            return pool.submit(ask).result(timeout=_HUB_SECONDS)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    except (Exception, FutureTimeout) as error:  # whatever the hub client raises: look into its cache before giving up
        try:
            cached = Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
            return cached.name, {path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file()}
        except Exception:
            raise ModelError(
                f"model {repository!r} is neither a local folder nor to be had from the Hugging Face Hub "
                f"({_line(error) or 'no answer'})",
                _HINT,
            ) from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
