"""A dataset repository of the Hugging Face Hub as a place for files: list, read, upload, commit.

Every call goes through one door that tries again after passing trouble and turns what is left into one line without
secrets. Knows nothing of shards and plans.
"""

import hashlib
import json
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import responses
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imagenet_sd import __version__
from imagenet_sd.core.errors import ImagenetSDError

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.hf_api import RepoFile

T = TypeVar("T")
_PASSING = {408, 409, 412, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}
_LONGEST_WAIT = 300.0
_LONGEST_RETRY_AFTER = 3600.0
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write there"
_AGAIN = "run the same command again: what is there is not uploaded twice"
_SECRETS = (
    (re.compile(r"\bhf_\w{4,}"), "[secret]"),
    (re.compile(r"(?i)\b(bearer|basic)(\s+|%20|\+)[^\s\"',;&<>]+"), r"\1 [secret]"),
    (re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*)(?!(?:bearer|basic)\b)[^\s,;]+"), r"\1[secret]"),
    (re.compile(r"(?i)([?&][\w.-]*(?:signature|token|credential|secret|key)[\w.-]*=)[^&\s\"']+"), r"\1[secret]"),
    (re.compile(r"(://)[^/\s@]+@"), r"\1[secret]@"),
)
_XET_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})\b")


class HubError(ImagenetSDError):
    """The Hub cannot be reached, refuses, or holds something else."""


def holds(file: "RepoFile | None", content: bytes | str) -> bool:
    """Whether a file of a repository (None: there is none) has this content, given as bytes or as its SHA-256."""
    if file is None or file.lfs is None:  # git keeps small files, and knows nothing of their SHA-256
        return file is not None and isinstance(content, bytes) and file.blob_id == git_blob_id(content)
    return file.lfs.sha256 == (content if isinstance(content, str) else hashlib.sha256(content).hexdigest())


def git_blob_id(content: bytes) -> str:
    """Git's id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def scrub(text: str, *secrets: str | None) -> str:
    """One printable line of at most 400 characters without these secrets, and without what looks like one."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "[secret]")
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 400 else f"{line[:400]}..."


class HubRepo:
    """A dataset repository on the Hub (or whatever `HF_ENDPOINT` names).

    Args:
        repo_id: "NAMESPACE/NAME".
        revision: branch, made from main where it does not exist.
        token: access token; None takes that of HF_TOKEN or `hf auth login`.
        attempts: how often a call is tried at most, at least 1.

    Raises:
        HubError: `repo_id` is malformed.
    """

    def __init__(self, repo_id: str, *, revision: str = "main", token: str | None = None, attempts: int = 10):
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils import HFValidationError, validate_repo_id

        try:
            validate_repo_id(repo_id)
            well_formed = repo_id.count("/") == 1
        except HFValidationError:
            well_formed = False
        if not well_formed:
            raise HubError(f"{scrub(repo_id)!r} is no repository id", "write NAMESPACE/NAME, such as you/digits-sd")
        self.repo_id, self.revision, self.attempts = repo_id, revision, attempts
        self._token = token or get_token()
        self._api = HfApi(token=token, library_name="imagenet-sd", library_version=__version__)
        self._here: dict[str, Any] = {"repo_id": repo_id, "repo_type": "dataset"}

    def open(self, *, private: bool = False) -> None:
        """Make sure that repository and branch exist.

        Raises:
            HubError: no access, or the repository is public though a private one was asked for.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        def look() -> Any:
            try:
                return self._api.repo_info(**self._here)
            except RepositoryNotFoundError:
                return None

        info = self.call("look it up", look)
        if info is None:
            self.call("create it", lambda: self._api.create_repo(**self._here, private=private, exist_ok=True))
        elif private and not info.private:
            raise HubError(
                f"{self.repo_id} is public, and --private was asked for", "make it private on the Hub, or leave it out"
            )
        if self.revision != "main":
            branch = {**self._here, "branch": self.revision, "exist_ok": True}
            self.call(f"create branch {self.revision}", lambda: self._api.create_branch(**branch))

    def files(self) -> "dict[str, RepoFile]":
        """All files of the branch, by path."""
        tree = {**self._here, "revision": self.revision, "recursive": True}
        return self.call("list its files", lambda: _by_path(self._api.list_repo_tree(**tree)))

    def read(self, path: str) -> bytes:
        """Content of a small file of the branch."""

        def download() -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                there = self._api.hf_hub_download(
                    **self._here, filename=path, revision=self.revision, local_dir=folder, force_download=True
                )
                return Path(there).read_bytes()

        return self.call(f"read {path}", download)

    def upload(self, operation: "CommitOperationAdd") -> None:
        """Send a file's content, streamed from its path; it is part of the repository after `commit`."""
        self.call(
            f"upload {operation.path_in_repo}",
            lambda: self._api.preupload_lfs_files(
                **self._here, additions=[operation], revision=self.revision, num_threads=1, free_memory=False
            ),
        )

    def commit(self, operations: Sequence["CommitOperationAdd"], message: str) -> None:
        """Make uploaded files part of the branch, all at once; those that are part of it already are left out."""
        todo, tried = list(operations), False

        def commit() -> None:
            nonlocal todo, tried
            if tried:  # an answer that was lost on its way may have been a success
                there = self._api.get_paths_info(
                    **self._here, paths=[o.path_in_repo for o in todo], revision=self.revision
                )
                todo = [operation for operation in todo if not _is_there(operation, _by_path(there))]
            tried = True
            if todo:
                self._api.create_commit(
                    **self._here, operations=todo, commit_message=message, revision=self.revision, num_threads=1
                )

        self.call(f"commit {len(todo)} files", commit)

    def call(self, what: str, function: Callable[[], T]) -> T:
        """Call the Hub; passing trouble is waited out, as long as the Hub asks for or twice as long each time.

        Args:
            what: what is done, for messages: "I could not ...".
            function: the call; may be called several times.

        Raises:
            HubError: it failed for good, or too often.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                with quiet_client():
                    return function()
            except Exception as error:  # a hostile answer can raise any kind; all end in one line without secrets
                wait = wait_before_retry(error, attempt)
                if wait is None or attempt == self.attempts:
                    raise self._known(what, error, attempt) from None
                text = f"{self.repo_id}: could not {what} ({self._reason(error)})"
                print(f"{text}; try {attempt + 1} of {self.attempts} in {wait:.0f} s", file=sys.stderr, flush=True)
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, (KeyError, AttributeError, TypeError)):
            return "its answer makes no sense"
        for link in _chain(error):
            if (status := getattr(getattr(link, "response", None), "status_code", None)) is not None:
                said = scrub(str(getattr(link, "server_message", None) or ""), self._token)
                return f"{status} {responses.get(status, 'from the Hub')}{f', {said}' if said else ''}"
        return scrub(str(error) or type(error).__name__, self._token)

    def _known(self, what: str, error: Exception, attempts: int) -> HubError:
        from huggingface_hub.errors import OfflineModeIsEnabled

        status, reason = _status(error), self._reason(error)
        if isinstance(error, OfflineModeIsEnabled):
            return HubError(f"{self.repo_id}: offline mode is on", "unset HF_HUB_OFFLINE")
        if not self._token and status in (401, 403, 404):
            return HubError(f"{self.repo_id}: could not {what}, since no token was found: {reason}", _LOGIN)
        if status in (401, 403) or isinstance(error, PermissionError):
            return HubError(f"{self.repo_id}: this token may not {what}: {reason}", _LOGIN)
        tried = f" after {attempts} attempts" if attempts > 1 else ""
        return HubError(f"{self.repo_id}: could not {what}{tried}: {reason}", _AGAIN)


def wait_before_retry(error: BaseException, attempt: int) -> float | None:
    """Seconds to wait before another attempt; None when another attempt is of no use.

    Args:
        error: what was raised.
        attempt: how often it was tried, from 1.
    """
    if not _passing(error):
        return None
    backoff = min(_LONGEST_WAIT, 2.0 ** (attempt - 1)) * random.uniform(0.75, 1.25)
    asked = _retry_after(error)
    if asked is None:
        return backoff
    return max(asked, backoff) if asked <= _LONGEST_RETRY_AFTER else None


@contextmanager
def quiet_client() -> Iterator[None]:
    """Keep the client library from printing bars, and warnings with addresses that are signed or echo a header."""
    import warnings

    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils import logging as hub_logging

    level, bars = hub_logging.get_verbosity(), not are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hub_logging.set_verbosity(hub_logging.CRITICAL)
        disable_progress_bars()
        try:
            yield
        finally:
            hub_logging.set_verbosity(level)
            if bars:
                enable_progress_bars()


def _by_path(entries: Any) -> "dict[str, RepoFile]":
    from huggingface_hub.hf_api import RepoFile

    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _is_there(operation: "CommitOperationAdd", files: "dict[str, RepoFile]") -> bool:
    content = operation.path_or_fileobj
    digest_or_bytes = content if isinstance(content, bytes) else operation.upload_info.sha256.hex()
    return holds(files.get(operation.path_in_repo), digest_or_bytes)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes: the client wraps what went wrong on the network into errors of its own."""
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    """The HTTP status that made the call fail; the xet client has it in the text alone."""
    for link in _chain(error):
        if (status := getattr(getattr(link, "response", None), "status_code", None)) is not None:
            return int(status)
        if found := _XET_STATUS.search(str(link)):
            return int(found[1])
    return None


def _passing(error: BaseException) -> bool:
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    status = _status(error)
    if status is not None:
        return status in _PASSING
    for link in _chain(error):
        if isinstance(link, OfflineModeIsEnabled) or type(link).__name__ in ("UnsupportedProtocol", "InvalidURL"):
            return False
        if isinstance(link, (HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError)):
            return True
    # The xet client raises bare RuntimeErrors, and other kinds for want of access.
    return type(error) is RuntimeError and error.__cause__ is None


def _retry_after(error: BaseException) -> float | None:
    """Seconds the Hub asks to wait: `Retry-After` as a number or a date, else the reset of an exhausted rate limit."""
    for link in _chain(error):
        headers = getattr(getattr(link, "response", None), "headers", None)
        if headers is None:
            continue
        text = str(headers.get("retry-after", "")).strip()
        if text.isascii() and text.isdigit():
            return float(text)
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError):
            pass
        if found := re.search(r";\s*r=0\s*;\s*t=(\d{1,9})", str(headers.get("ratelimit", ""))):
            return float(found[1])
    return None
