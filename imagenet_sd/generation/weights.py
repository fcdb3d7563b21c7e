"""The files of a model on this machine: downloaded if need be, and checked against the plan or the hub."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from imagenet_sd.core.errors import ModelError
from imagenet_sd.core.files import sha256_file
from imagenet_sd.generation.config import EMBEDDED
from imagenet_sd.generation.hub import model_parts, reason
from imagenet_sd.generation.models import EMBEDDED_FOLDER, HINT, ModelIdentity, check_pipeline_folder, folder_hash

_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        check_pipeline_folder(folder)
        if folder_hash(folder) != model.weights_sha256:
            raise ModelError(
                f"the weights in {folder} are not those of the plan: their hash differs",
                "restore the model folder, or generate into a new folder",
            )
        return folder
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        index = hf_hub_download(model.model_id, "model_index.json", revision=model.revision)
        allow, ignore = download_patterns(model_parts(Path(index)), flag_nsfw)
        folder = Path(
            snapshot_download(model.model_id, revision=model.revision, allow_patterns=allow, ignore_patterns=ignore)
        )
    except Exception as error:  # the hub client raises many kinds; each means that the weights are not available
        raise ModelError(f"model {model.model_id!r} cannot be downloaded: {reason(error)}", HINT) from None
    check_snapshot(folder, flag_nsfw=flag_nsfw)
    return folder


def download_patterns(parts: Iterable[str], flag_nsfw: bool) -> tuple[list[str], list[str]]:
    """Which files of a hub repository are needed: `allow_patterns` and `ignore_patterns` of the hub client.

    Neither single-file checkpoints, weights of another precision or of no part of the pipeline, nor a safety checker
    that is not used.

    Args:
        parts: folders of the pipeline.
        flag_nsfw: whether the safety checker is used.
    """
    used = [part for part in parts if part != "safety_checker"] + ["safety_checker"] * flag_nsfw
    weights = [f"{part}/*.safetensors" for part in used]
    return ["*.json", "*.txt", "*.model", *weights], ["*.fp16[.-]*", "*.bf16[.-]*", "*.non_ema.*"]


def check_snapshot(folder: Path, *, flag_nsfw: bool = False) -> None:
    """Compare the weights of a hub snapshot with their names: the cache names a large file by its SHA-256.

    A bit-flipped safetensors file loads without an error, so it has to be detected here. Where the cache holds copies
    in the place of links (systems without symbolic links) there is no name to compare with.

    Raises:
        ModelError: a file is truncated, changed or missing.
    """
    for path in sorted(folder.glob("*/*.safetensors")):
        part = path.parent.name
        if part != "safety_checker" or flag_nsfw:
            blob = path.parent / os.readlink(path) if path.is_symlink() else path
            if not _SHA256.fullmatch(blob.name):
                continue
            sha256 = sha256_file(path) if path.is_file() else "missing"
            if sha256 != blob.name:
                raise ModelError(
                    f"{part}/{path.name} in the hub's cache is damaged: its SHA-256 is {sha256[:12]}, "
                    f"the hub says {blob.name[:12]}",
                    f"delete {blob.resolve()} and run the command again: it is downloaded again",
                )
