"""The errors that a user can fix: one line that says what is wrong and where, and a hint that says how to fix it."""

import errno
import re

# C0 and C1 controls, line and paragraph separator, characters that turn the direction of writing, lone surrogates.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class ImagenetSDError(ValueError):
    """A known fault in the user's input, files or surroundings.

    Args:
        message: what is wrong and where, one line.
        hint: how to fix it, one line.
    """

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.hint = hint


class ClassListError(ImagenetSDError):
    """A class list cannot be read; the message names file and line."""


class WordNetError(ImagenetSDError):
    """WordNet 3.0 is missing, damaged or of another version."""


class TemplateError(ImagenetSDError):
    """A prompt template is unknown or malformed."""


class PlanError(ImagenetSDError):
    """The generation request contradicts itself, or the dataset already in the folder."""


class ModelError(ImagenetSDError):
    """The text-to-image model cannot be loaded."""


class GenerationError(ImagenetSDError):
    """A shard could not be generated."""


class UnusableImageError(GenerationError):
    """An image holds values that are not numbers, or one single colour."""


class GenerationMemoryError(GenerationError):
    """The device has too little memory for a batch; results never change silently, so the run stops."""


class DeviceError(GenerationError):
    """The GPU is not there or has failed; a new process may be able to use it."""


class DatasetError(ImagenetSDError):
    """A generated dataset is missing, damaged or not of this format."""


class Interrupted(Exception):
    """Work was stopped by a signal and given back; nothing is lost, and the same command goes on.

    Args:
        signum: the signal; the exit code is 128 plus this number, as shells have it.
    """

    def __init__(self, signum: int):
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


def printable(text: str) -> str:
    """A text in one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


_FULL, _CLOSED = {errno.ENOSPC, errno.EDQUOT}, {errno.EROFS, errno.EACCES, errno.EPERM}


def os_hint(error: OSError) -> str:
    """How to fix what the operating system refused; "" where that is not known."""
    if error.errno in _FULL:
        return "free space there, then run the same command again: what is finished stays"
    return "name a folder that you may write to, or change its permissions" if error.errno in _CLOSED else ""


def visible(text: str) -> str:
    """A text that is safe on a terminal: control characters other than tab and line feed by number, as in JSON."""
    return _CONTROL.sub(lambda match: match[0] if match[0] in "\t\n" else f"\\u{ord(match[0]):04x}", text)


def control_character(text: str, allowed: str = "") -> str:
    """The first control character of a text that is not among the allowed ones, as `U+001B`; "" for none."""
    return next((f"U+{ord(char):04X}" for char in _CONTROL.findall(text) if char not in allowed), "")


def one_line(error: BaseException, limit: int = 200) -> str:
    """The text of an error in one line of at most `limit` characters, to be quoted in a message."""
    return visible(" ".join(str(error).split()))[:limit]
