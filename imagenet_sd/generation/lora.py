"""Which LoRA is fused into the model: a safetensors file, known by its hash, on disk or at a commit of the hub.

Imports no heavy library, so that a wrong name is an error within seconds.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from imagenet_sd.core.errors import DatasetError, ModelError, PlanError
from imagenet_sd.core.files import sha256_file
from imagenet_sd.generation.hub import ask_hub, reason

_SUFFIX = ".safetensors"
_WEIGHT = re.compile(r"(.*):([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)", re.DOTALL)
_ON_HUB = re.compile(rf"(\w[\w.-]*/\w[\w.-]*)(?:/(.+{re.escape(_SUFFIX)}))?", re.ASCII)
_HINT = (
    "give a .safetensors file, a folder or a hub repository that holds one, or owner/name/file.safetensors; "
    "then :WEIGHT if it is not 1"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraIdentity:
    """A LoRA as a plan records it.

    Attributes:
        name: name of the local file, or `owner/name/file.safetensors` on the hub.
        revision: commit of the hub repository; "" for a local file.
        sha256: of the file; "" where nobody has looked yet.
        weight: its scale.
    """

    name: str
    revision: str = ""
    sha256: str = ""
    weight: float = 1.0

    @classmethod
    def recorded(cls, settings: Mapping[str, Any]) -> "LoraIdentity | None":
        """The LoRA that the settings of a `dataset.json` record; None without one.

        Raises:
            DatasetError: it is garbled.
        """
        lora = settings.get("lora")
        if lora is None:
            return None
        if not isinstance(lora, dict) or set(lora) != {field.name for field in fields(cls)}:
            raise DatasetError("dataset.json garbles its LoRA", "restore the file from a copy")
        return cls(**lora)


def parse_lora(text: str) -> tuple[str, float]:
    """Take `PATH_OR_REPO[:weight]` apart at its last colon, where a number follows it.

    Returns:
        (path or repository, weight); the weight is 1 where none is given.

    Raises:
        PlanError: nothing stands before the weight, or the weight is 0 or beyond 100.
    """
    match = _WEIGHT.fullmatch(text)
    source, weight = (match[1], float(match[2])) if match else (text, 1.0)
    if not source:
        raise PlanError(f"lora is {text!r}, which names no file", _HINT)
    if not (math.isfinite(weight) and 0 < abs(weight) <= 100):
        raise PlanError(
            f"the weight of the LoRA is {weight:g}", "give a number between -100 and 100, or leave out --lora for 0"
        )
    return source, weight


def identify_lora(text: str, recorded: LoraIdentity | None = None) -> LoraIdentity | None:
    """Which LoRA `text` means, pinned; the file is hashed, and downloaded first where it is on the hub.

    Args:
        text: `PATH_OR_REPO[:weight]`; "" for none.
        recorded: that of the dataset which is there already. A commit of the hub that it pins is not asked for again.

    Raises:
        ModelError: there is no such file, or several; it is no safetensors file; peft is missing.
    """
    if not text:
        return None
    source, weight = parse_lora(text)
    require_peft()
    if (path := _local_file(source)) is not None:
        return LoraIdentity(name=path.name, sha256=sha256_file(path), weight=weight)
    repository, file = _repository(source)
    if recorded and recorded.revision and recorded.name == f"{repository}/{file or _file_of(recorded.name)}":
        return replace(recorded, weight=weight)
    commit, files = ask_hub(repository, "", f"LoRA {source!r} is neither a local file", _HINT)
    file = file or _only_one([name for name in files if name.endswith(_SUFFIX)], source)
    path = _download(repository, file, "")  # by the name of the branch, whose commit the cache then knows
    if commit not in path.parts:  # there is a newer one since
        path = _download(repository, file, commit)
    return LoraIdentity(name=f"{repository}/{file}", revision=commit, sha256=sha256_file(path), weight=weight)


def offline_lora(text: str) -> LoraIdentity | None:
    """As `identify_lora`, but without the network and without peft: one of the hub has neither commit nor hash."""
    if not text:
        return None
    source, weight = parse_lora(text)
    if (path := _local_file(source)) is not None:
        return LoraIdentity(name=path.name, sha256=sha256_file(path), weight=weight)
    _repository(source)
    return LoraIdentity(name=source, weight=weight)


def fetch_lora(source: str, lora: LoraIdentity) -> Path:
    """The file of a LoRA on this machine, downloaded if need be.

    Args:
        source: what the user gave as `--lora`, without the weight.
        lora: its identity.

    Raises:
        ModelError: it cannot be found or downloaded, or is not the file of the plan; peft is missing.
    """
    require_peft()
    if lora.revision:
        repository, file = _repository(lora.name)
        path = _download(repository, file, lora.revision)
    else:
        path = _local_file(source)
        if path is None:
            raise ModelError(f"there is no LoRA {source!r}", "restore the file, or generate into a new folder")
    if sha256_file(path) != lora.sha256:
        raise ModelError(
            f"the LoRA in {path} is not that of the plan: its hash differs",
            "restore the file, or generate into a new folder",
        )
    return path


def require_peft() -> None:
    """Raise ModelError where the package that loads LoRAs is missing."""
    if find_spec("peft") is None:
        raise ModelError("--lora needs peft, which is not installed", 'install it: pip install "imagenet-sd[lora]"')


def _local_file(source: str) -> Path | None:
    """The safetensors file that a path means; None where there is nothing under that path."""
    path = Path(source)
    if path.is_dir():
        files = [file.name for file in path.iterdir() if file.is_file() and file.name.endswith(_SUFFIX)]
        return path / _only_one(files, source)
    if path.is_file() and path.suffix != _SUFFIX:
        raise ModelError(f"LoRA {source} is no .safetensors file, and no other format is read", _HINT)
    return path if path.is_file() else None


def _only_one(files: Collection[str], source: str) -> str:
    if len(files) != 1:
        several = f"holds several .safetensors files: {', '.join(sorted(files)[:10])}"
        raise ModelError(
            f"LoRA {source} {several if files else 'holds no .safetensors file'}",
            f"name one of them, such as {source}/{sorted(files)[0]}" if files else _HINT,
        )
    return next(iter(files))


def _repository(source: str) -> tuple[str, str]:
    """Repository and file of a source on the hub; "" for the file where the source is the repository alone."""
    match = _ON_HUB.fullmatch(source)
    if match is None or (match[2] is None and source.endswith(_SUFFIX)):
        raise ModelError(f"there is no LoRA {source!r}", _HINT)
    return match[1], match[2] or ""


def _file_of(name: str) -> str:
    return name.split("/", 2)[-1]


def _download(repository: str, file: str, commit: str) -> Path:
    """The file in the hub's cache; "" for the commit is the newest."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file, revision=commit or None))
    except Exception as error:  # the hub client raises many kinds; each means that the file is not available
        raise ModelError(f"LoRA '{repository}/{file}' cannot be downloaded: {reason(error)}", _HINT) from None
