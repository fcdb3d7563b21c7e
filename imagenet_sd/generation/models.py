"""Finding the weights: a hub repository pinned to a commit, a local folder with its hash, or the embedded model.

Imports neither torch nor diffusers, so that a wrong name is an error within seconds.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

from imagenet_sd.core.errors import ModelError
from imagenet_sd.core.files import sha256_file
from imagenet_sd.generation.config import EMBEDDED, GenerationConfig
from imagenet_sd.generation.plan import ModelIdentity

EMBEDDED_FOLDER = Path(__file__).parent / "embedded_model"
_HUB_SECONDS = 12
_FILES = ("*.json", "*.txt", "*.safetensors")
_HINT = "check the name and the network, or give `--model embedded`, or the path of a local diffusers folder"


def identify(config: GenerationConfig) -> ModelIdentity:
    """Which weights `config.model` means, pinned: the hub's commit, or a hash over the folder's files.

    Raises:
        ModelError: there is no such folder, and the hub does not answer or does not know the name; within 15 seconds.
    """
    if config.embedded:
        return ModelIdentity(model_id=EMBEDDED, weights_sha256=folder_hash(EMBEDDED_FOLDER))
    folder = Path(config.model)
    if folder.is_dir():
        _check_folder(folder)
        return ModelIdentity(model_id=folder.resolve().name, weights_sha256=folder_hash(folder))
    return ModelIdentity(model_id=config.model, revision=_hub_commit(config.model, config.revision))


def offline_identity(config: GenerationConfig) -> ModelIdentity:
    """As `identify`, but never asks the network: a hub model keeps the revision that the user gave, pinned or not."""
    if config.embedded or Path(config.model).is_dir():
        return identify(config)
    return ModelIdentity(model_id=config.model, revision=config.revision)


def fetch(source: str, model: ModelIdentity) -> Path:
    """The local folder of a model's files, downloaded when it comes from the hub and is not in its cache yet.

    Args:
        source: what the user gave as `--model`.
        model: its identity.

    Raises:
        ModelError: the download fails, or a local folder has changed since the plan was made.
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
        return Path(snapshot_download(model.model_id, revision=model.revision, allow_patterns=list(_FILES)))
    except Exception as error:  # the hub client raises many kinds; each means that the weights cannot be had
        raise ModelError(f"model {model.model_id!r} cannot be downloaded: {_line(error)}", _HINT) from None


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of the JSON, text and safetensors files of a model folder."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _FILES for path in folder.rglob(pattern)}):
        digest.update(f"{path.relative_to(folder).as_posix()}\n{sha256_file(path)}\n".encode())
    return digest.hexdigest()


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


def _hub_commit(repository: str, revision: str) -> str:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, constants, snapshot_download

    def ask() -> str:
        return HfApi().model_info(repository, revision=revision or None, timeout=_HUB_SECONDS - 2).sha or ""

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
            cached = snapshot_download(repository, revision=revision or None, local_files_only=True)
            return Path(cached).name
        except Exception:
            raise ModelError(
                f"model {repository!r} is neither a local folder nor to be had from the Hugging Face Hub "
                f"({_line(error) or 'no answer'})",
                _HINT,
            ) from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
