"""Which weights draw, and which judge: identities that a plan records. Imports no heavy library."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagenet_sd.core.errors import PlanError
from imagenet_sd.core.files import sha256_file
from imagenet_sd.generation.config import GenerationConfig

EMBEDDED_FOLDER = Path(__file__).parent / "embedded_model"
_FILES = ("*.json", "*.txt", "*.safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelIdentity:
    """Which weights draw the images.

    Attributes:
        model_id: hub id, "embedded", or the name of the local folder.
        revision: commit of the hub repository; "" for a folder.
        weights_sha256: hash over the files of a folder; "" for a hub model, whose commit says it.
    """

    model_id: str
    revision: str = ""
    weights_sha256: str = ""


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of the JSON, text and safetensors files of a model folder."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _FILES for path in folder.rglob(pattern)}):
        digest.update(f"{path.relative_to(folder).as_posix()}\n{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def local_folder(config: GenerationConfig) -> Path | None:
    """The folder that `config.model` means; None for a model of the hub."""
    if config.embedded:
        return EMBEDDED_FOLDER
    folder = Path(config.model)
    return folder if folder.is_dir() else None


def checker_identity(config: GenerationConfig, model: ModelIdentity) -> dict[str, Any] | None:
    """Which safety checker flags the images: that of the model itself; None when none is asked for.

    Returns:
        The fields of a `ModelIdentity`; the hash is over the checker's folder alone.

    Raises:
        PlanError: the model's folder holds no safety checker.
    """
    if not config.flag_nsfw:
        return None
    folder = local_folder(config)
    if folder is None:
        return asdict(model)
    require_checker(config.model, {path.relative_to(folder).as_posix() for path in folder.glob("*/*")})
    identity = ModelIdentity(model_id=model.model_id, weights_sha256=folder_hash(folder / "safety_checker"))
    return asdict(identity)


def require_checker(model: str, files: set[str]) -> None:
    """Refuse a model whose files, as paths with slashes, hold no safety checker.

    Raises:
        PlanError: see above.
    """
    weights = any(name.startswith("safety_checker/") and name.endswith(".safetensors") for name in files)
    if not (weights and "feature_extractor/preprocessor_config.json" in files):
        raise PlanError(
            f"model {model!r} has no safety checker that --flag-nsfw could ask",
            "leave out --flag-nsfw, or use a model with safety_checker/*.safetensors and feature_extractor/",
        )
