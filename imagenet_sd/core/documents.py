"""Typed JSON documents: texts that are cleaned, numbers in their ranges, and files read with faults named by place."""

import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.files import JSON_LIMIT

TEXT_LIMIT = 400
"""Characters of a text that are kept of a file."""
_HINT = "write the file again with the command that made it"


class ResultsError(ImagenetSDError):
    """A file of results, a study, a run or a dataset is missing, damaged or not of its format."""


def clean(text: str) -> str:
    """`text` on one line without control and direction characters, cut to `TEXT_LIMIT`."""
    line = " ".join(text[: 4 * TEXT_LIMIT].split())
    line = "".join("\ufffd" if unicodedata.category(c)[0] == "C" else c for c in line)
    return line if len(line) <= TEXT_LIMIT else line[: TEXT_LIMIT - 1] + "…"


def _from_file(text: str, info: ValidationInfo) -> str:
    return clean(text) if info.context else text


def _inside(relative: str, info: ValidationInfo) -> str:
    """Refuse a path that leaves the folder of the file that names it, also through a link."""
    if info.context:
        root = info.context.parent.resolve()
        try:
            contained = (root / relative).resolve().is_relative_to(root) and not Path(relative).is_absolute()
        except (OSError, ValueError, RuntimeError):
            contained = False
        if not contained:
            raise ValueError(f"{clean(relative)[:80]!r} is outside the folder of the file; paths are relative to it")
    return relative


Text = Annotated[str, AfterValidator(_from_file)]
"""A text; one that comes from a file is cleaned for display."""
RelativePath = Annotated[str, AfterValidator(_inside)]
"""A path below the folder of the file that names it."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
NotNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
IntervalEnd = Annotated[Number, Field(ge=-1, le=2)]  # the normal interval of episodes may pass 0 or 1 by a little
Count = Annotated[int, Field(strict=True, ge=1, le=1 << 53)]
Texts = Annotated[tuple[Text, ...], Field(max_length=10_000)]
Versions = Annotated[dict[Text, Text], Field(max_length=200)]


class Document(BaseModel):
    """A part of a JSON file. Keys that it does not know are left out when it is read."""

    model_config = ConfigDict(frozen=True)

    def to_json(self) -> dict[str, Any]:
        """The JSON object: what was given, without the defaults of what was not."""
        return self.model_dump(mode="json", exclude_unset=True)


D = TypeVar("D", bound=BaseModel)


def read_text(path: Path, limit: int = JSON_LIMIT) -> str:
    """The text of a file of at most `limit` bytes.

    Raises:
        ResultsError: the file is missing, larger, or not UTF-8.
    """
    try:
        if (size := path.stat().st_size) > limit:
            raise ResultsError(f"{path} has {size:,} bytes; files over {limit:,} are not read", "is it the right file?")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ResultsError(f"{path} does not exist", "check the path") from None
    except (OSError, UnicodeError) as error:
        raise ResultsError(f"{path} cannot be read: {clean(str(error))}", _HINT) from None


def parse_json(text: str, path: Path) -> Any:
    """The JSON value in `text`.

    Raises:
        ResultsError: it is not JSON, or holds NaN or an infinity.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path} is not JSON: {clean(str(error))[:200]}", _HINT) from None


def validate(kind: type[D], value: Any, path: Path) -> D:
    """`value`, which was read from `path`, as a typed document.

    Raises:
        ResultsError: a value is missing, of a wrong type or out of its range; the message names its place.
    """
    try:
        return kind.model_validate(value, context=path)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason, value = first["msg"].removeprefix("Value error, "), first["input"]
        if first["type"] == "missing":
            reason = "is missing"
        elif first["type"] != "value_error":
            shown = {dict: "an object", list: "a list"}.get(type(value)) or clean(repr(value))[:60]
            reason = f"is {shown}; {_plain(reason)}"
        raise ResultsError(f"{path}: {_place(first['loc'])} {reason}".replace(":  ", ": "), _HINT) from None


def read_document(kind: type[D], path: Path) -> D:
    """The typed document in a JSON file.

    Raises:
        ResultsError: the file cannot be read, or a value in it is missing, of a wrong type or out of its range.
    """
    return validate(kind, parse_json(read_text(path), path), path)


def _place(location: Iterable[int | str]) -> str:
    """Such as "results[2].top1"."""
    parts = [part for part in location if part not in _kinds(Document)]  # the tags of a union
    return clean("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix("."))


def _kinds(kind: type[Document]) -> set[str]:
    """Names of the kinds of a document."""
    return {kind.__name__, *(name for each in kind.__subclasses__() for name in _kinds(each))}


def _plain(reason: str) -> str:
    """A sentence of pydantic in the words of JSON."""
    reason = re.sub("valid dictionary or instance of .*", "JSON object", reason)
    return reason.replace("Input should", "it should").replace("tuple", "list").replace("dictionary", "object")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
