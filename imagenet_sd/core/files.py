"""Files: atomic publishing, hashes, which ones are images, the shipped data folder, the user's cache folder.

Knows nothing of what is in the files.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagenet_sd.core.errors import DatasetError, ImagenetSDError, one_line

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
IMAGE_BYTES_LIMIT = 64 << 20
"""Bytes of the largest encoded image that is read."""
IMAGE_PIXELS_LIMIT = 100_000_000
"""Pixels of the largest image that is decoded."""
JSON_LIMIT = 64 << 20
"""Bytes of the largest JSON file that is read."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Publish a file all at once: write a temporary neighbour, fsync it, rename it, fsync the folder.

    A reader sees the old file or the new one, never a part; after a crash only a hidden `.tmp` file may be left over.

    Args:
        path: the file to publish; its folder must exist.
        write: is given the temporary path and writes the whole content there.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
            ours = os.fstat(file.fileno())
        _replace(temporary, path, ours)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            name_file(error, path)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _replace(temporary: Path, path: Path, ours: os.stat_result) -> None:
    """Rename; a network file system may report an error though the rename took place, so look before believing it."""
    try:
        os.replace(temporary, path)
    except OSError:
        try:
            there = os.stat(path)
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise


def name_file(error: OSError, path: Path) -> None:
    """Let an error say which file it was about; a full disk does not say it by itself."""
    if error.filename is None:
        error.filename = str(path)


def write_json(path: Path, value: Any) -> None:
    """Publish `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: the file is missing, is larger than `JSON_LIMIT`, or is not JSON.
    """
    try:
        if (size := path.stat().st_size) > JSON_LIMIT:
            raise DatasetError(f"{path} has {size:,} bytes; files over {JSON_LIMIT:,} are not read as JSON")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist") from None
    except DatasetError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path} is not readable as JSON: {one_line(error)}", "restore the file from a copy"
        ) from None


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def free_bytes(path: Path) -> int:
    """Bytes that are free on the disk of a path, which need not exist yet."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def is_image(name: str) -> bool:
    """Whether a file name is that of an image: it ends in one of `IMAGE_SUFFIXES` and is not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder and of all folders below it, sorted; none where there is no such folder."""
    return sorted(path for path in folder.rglob("*") if is_image(path.name))


def data_path(*parts: str) -> Path:
    """Path of a file this project ships: inside the installed package, else in the checkout beside it."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_data"
    return (installed if installed.is_dir() else package.parent).joinpath(*parts)


def cache_dir() -> Path:
    """The user's cache folder for this project: $IMAGENET_SD_CACHE, else $XDG_CACHE_HOME/imagenet-sd."""
    if named := os.environ.get("IMAGENET_SD_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagenet-sd"


def check_safe_name(name: str, what: str) -> str:
    """Return `name` when it is harmless as a file name: letters, digits and `_.-`, no leading dot, at most 100.

    Raises:
        ImagenetSDError: it is not.
    """
    if not _SAFE_NAME.fullmatch(name):
        raise ImagenetSDError(
            f"{what} {name!r} is not usable as an id",
            "use letters, digits, '_', '-' and '.', starting with a letter or digit",
        )
    return name
