"""Reading JSON that others wrote: size-limited, and every value checked where it is taken out.

A fault is one line that names the file, the place in it and the remedy. Knows nothing of what the files mean.
"""

import json
import math
import re
import unicodedata
from pathlib import Path
from typing import Any, NoReturn

from imagenet_sd.core.errors import ImagenetSDError

JSON_LIMIT = 64 << 20
"""Bytes of the largest JSON file that is read."""
TIMES, DASH = "\u00d7", "\u2013"
"""The multiplication sign, and the dash that stands for what is not there."""
TEXT_LIMIT = 400
"""Characters of a string that are kept."""
_MEND = "write the file again with the command that made it"


class ReportError(ImagenetSDError):
    """A result file is missing, damaged or not of its format."""


def read_text(path: Path, limit: int = JSON_LIMIT) -> str:
    """The text of a file.

    Args:
        path: a file.
        limit: bytes from which it is refused.

    Raises:
        ReportError: the file is missing, larger than `limit`, or not UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise ReportError(f"{path} has {size:,} bytes; files over {limit:,} are not read", "is it the right file?")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReportError(f"{path} does not exist", "check the path") from None
    except (OSError, UnicodeError) as error:
        raise ReportError(f"{path} cannot be read: {' '.join(str(error).split())}", _MEND) from None


def read_object(path: Path, limit: int = JSON_LIMIT) -> "Record":
    """The JSON object in a file.

    Raises:
        ReportError: the file cannot be read, or holds no JSON object.
    """
    try:
        value = json.loads(read_text(path, limit), parse_constant=_refuse)
    except ReportError:
        raise
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not JSON: {' '.join(str(error).split())[:200]}", _MEND) from None
    if not isinstance(value, dict):
        raise ReportError(f"{path} holds {_kind(value)}, not a JSON object", _MEND)
    return Record(value, path)


def clean(text: str) -> str:
    """`text` on one line without control and direction characters, cut to `TEXT_LIMIT`."""
    shown = "".join(
        c if unicodedata.category(c)[0] != "C" else "\ufffd" for c in " ".join(text[: 4 * TEXT_LIMIT].split())
    )
    return shown if len(shown) <= TEXT_LIMIT else shown[: TEXT_LIMIT - 1] + "…"


def slug(text: str) -> str:
    """A name that is harmless as a file name and as an id."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "x"


class Record:
    """A JSON object that knows where it came from.

    Args:
        value: the object.
        file: the file that holds it.
        place: its place in the file, such as "results[2]"; "" for the whole.
    """

    def __init__(self, value: dict[str, Any], file: Path, place: str = ""):
        self.value, self.file, self.place = value, file, place

    def fail(self, key: str, fault: str, hint: str = _MEND) -> NoReturn:
        """Raise the one-line error about the value at `key`."""
        where = ".".join(filter(None, (self.place, key)))
        raise ReportError(f"{self.file}: {where} {fault}", hint)

    def has(self, key: str) -> bool:
        """Whether `key` is there and not null."""
        return self.value.get(key) is not None

    def text(self, key: str, default: str | None = None) -> str:
        """A string, cleaned for display."""
        return clean(self.raw_text(key, default))

    def raw_text(self, key: str, default: str | None = None) -> str:
        """A string as it stands; only for paths and keys, which are not shown."""
        value = self._get(key, default)
        if not isinstance(value, str):
            self.fail(key, f"is {_show(value)}, not a text")
        return value

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number in [low, high]."""
        value = self._get(key, None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(key, f"is {_show(value)}, not a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number) or not low <= number <= high:
            self.fail(key, f"is {number:g}, not a number from {low:g} to {high:g}")
        return number

    def optional(self, key: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        """A finite number in [low, high], or None where there is none."""
        return self.number(key, low, high) if self.has(key) else None

    def record(self, key: str, required: bool = False) -> "Record":
        """An object; an empty one where there is none and none is required."""
        value = self._get(key, None if required else {})
        if not isinstance(value, dict):
            self.fail(key, f"is {_show(value)}, not an object")
        return Record(value, self.file, ".".join(filter(None, (self.place, key))))

    def records(self, key: str, limit: int = 100_000) -> list["Record"]:
        """A list of objects."""
        place = ".".join(filter(None, (self.place, key)))
        found = []
        for number, value in enumerate(self.items(key, limit)):
            if not isinstance(value, dict):
                self.fail(f"{key}[{number}]", f"is {_show(value)}, not an object")
            found.append(Record(value, self.file, f"{place}[{number}]"))
        return found

    def texts(self, key: str, limit: int = 10_000) -> list[str]:
        """A list of strings as they stand."""
        values = self.items(key, limit)
        for number, value in enumerate(values):
            if not isinstance(value, str):
                self.fail(f"{key}[{number}]", f"is {_show(value)}, not a text")
        return values

    def items(self, key: str, limit: int) -> list[Any]:
        """A list of at most `limit` values; an empty one where there is none."""
        value = self._get(key, [])
        if not isinstance(value, list):
            self.fail(key, f"is {_show(value)}, not a list")
        if len(value) > limit:
            self.fail(key, f"has {len(value):,} entries; at most {limit:,} are read")
        return value

    def fractions(self, key: str, limit: int = 100_000) -> dict[str, float]:
        """An object of fractions in [0, 1]; an empty one where there is none."""
        record = self.record(key)
        if len(record.value) > limit:
            self.fail(key, f"has {len(record.value):,} entries; at most {limit:,} are read")
        return {clean(name): record.number(name, 0, 1) for name in record.value}

    def facts(self, key: str) -> dict[str, str]:
        """An object of texts and numbers, as texts for display."""
        record = self.record(key)
        if len(record.value) > 200:
            self.fail(key, f"has {len(record.value):,} entries; at most 200 are read")
        return {
            clean(name): clean(str(value)) for name, value in record.value.items() if not isinstance(value, dict | list)
        }

    def _get(self, key: str, default: Any) -> Any:
        value = self.value.get(key)
        if value is None:
            if default is None:
                self.fail(key, "is missing")
            return default
        return value


def inside(folder: Path, relative: str, record: Record, key: str) -> Path:
    """The path `relative` under `folder`, which it must not leave, also not through a link.

    Raises:
        ReportError: it is absolute or leads outside.
    """
    root = folder.resolve()
    try:
        path = (root / relative).resolve()
        contained = path.is_relative_to(root) and not Path(relative).is_absolute()
    except (OSError, ValueError, RuntimeError):
        contained = False
    if not contained:
        record.fail(
            key, f"is {clean(relative)[:80]!r}, outside the folder of the file", "give a path relative to the file"
        )
    return folder / relative


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _show(value: Any) -> str:
    return _kind(value) if isinstance(value, dict | list) else clean(repr(value))[:60]


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a single value"
