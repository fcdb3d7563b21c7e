"""What a repository of the Hugging Face Hub holds and at which commit, asked once and within seconds."""

import os
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

from imagenet_sd.core.errors import ModelError, one_line

_SECONDS = 12


def ask_hub(repository: str, revision: str, fault: str, hint: str) -> tuple[str, set[str]]:
    """The commit of a repository and its files; from the cache when the hub does not answer.

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
            cached = Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
            return cached.name, {path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file()}
        except Exception:
            raise ModelError(
                f"{fault} nor available from the Hugging Face Hub ({one_line(error) or 'no answer'})", hint
            ) from None
