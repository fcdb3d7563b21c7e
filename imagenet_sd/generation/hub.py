"""What a repository of the Hugging Face Hub holds and at which commit, asked once and within seconds."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

from imagenet_sd.core.errors import ModelError
from imagenet_sd.storage.hub import scrub

_SECONDS = 12
_PART = re.compile(r"\w+")
_CONFIGS = ("config.json", "scheduler_config.json", "tokenizer.json", "vocab.json", "merges.txt")


def ask_hub(repository: str, revision: str, fault: str, hint: str) -> tuple[str, set[str]]:
    """The commit of a repository and its files; when the hub does not answer, those that are in its cache.

    The cache knows the commit of a branch or tag where a file was downloaded by that name.

    Args:
        repository: `owner/name`.
        revision: branch, tag or commit; "" for the newest.
        fault: begins the message of the error: what the name is not, if it is no repository either.
        hint: of the error.

    Returns:
        (commit, names of the files, with slashes).

    Raises:
        ModelError: the hub does not answer or does not know the name, and it is not in the cache; within 15 seconds.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, constants, snapshot_download

    def ask() -> tuple[str, set[str]]:
        info = HfApi().model_info(repository, revision=revision or None, timeout=_SECONDS - 2)
        return info.sha or "", {file.rfilename for file in info.siblings or ()}

    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        pool = ThreadPoolExecutor(1)
        try:
            return pool.submit(ask).result(timeout=_SECONDS)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    except (Exception, FutureTimeout) as error:  # whatever the hub client raises: look into its cache before giving up
        try:
            cached = Path(  # no file is asked for, so that none can be missing
                snapshot_download(repository, revision=revision or None, allow_patterns=[], local_files_only=True)
            )
            return cached.name, {path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file()}
        except Exception:
            text = reason(error) or "no answer"
            raise ModelError(f"{fault} nor available from the Hugging Face Hub ({text})", hint) from None


def fetch_configs(repository: str, revision: str, commit: str, hint: str) -> Path:
    """Have the small files that tell a pipeline's kind, defaults and tokenizers in the hub's cache.

    The first one is downloaded by the name of its branch or tag, whose commit the cache then knows without the network.

    Args:
        repository: `owner/name`.
        revision: branch, tag or commit; "" for the newest.
        commit: what `ask_hub` says that this is.
        hint: of the error.

    Returns:
        The folder of the commit in the cache.

    Raises:
        ModelError: a file cannot be downloaded, or there is no `model_index.json`.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        index = Path(hf_hub_download(repository, "model_index.json", revision=revision or None))
        if index.parent.name != commit:  # there is a newer one since
            index = Path(hf_hub_download(repository, "model_index.json", revision=commit))
        parts = [part for part in model_parts(index) if part != "safety_checker"]
        files = [f"{part}/{name}" for part in parts for name in _CONFIGS]
        return Path(snapshot_download(repository, revision=commit, allow_patterns=["model_index.json", *files]))
    except Exception as error:  # the hub client raises many kinds; each means that the files are not available
        raise ModelError(
            f"the configuration of model {repository!r} cannot be downloaded: {reason(error)}", hint
        ) from None


def model_parts(index: Path) -> list[str]:
    """The folders of a pipeline, from its `model_index.json`.

    Raises:
        ValueError: it is no such file.
    """
    content = json.loads(index.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("its model_index.json is no mapping")
    return [name for name, kind in content.items() if isinstance(kind, list) and _PART.fullmatch(name)]


def reason(error: BaseException) -> str:
    """What the hub's client says of a fault: one line without secrets; "" for an error without a text."""
    from huggingface_hub import get_token

    return scrub(str(error), get_token())
