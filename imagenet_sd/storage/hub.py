"""A repository of the Hugging Face Hub as a place for files: list, read, upload, commit.

Every call goes through one door that tries again after passing trouble and turns what is left into one line without
secrets. Knows nothing of shards and plans.
"""

import hashlib
import json
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from http.client import responses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from imagenet_sd import __version__
from imagenet_sd.core.errors import ImagenetSDError, printable
from imagenet_sd.core.progress import note

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
    line = printable(text)
    return line if len(line) <= 400 else f"{line[:400]}..."


class HubRepo:
    """A repository on the Hub (or whatever `HF_ENDPOINT` names).

    Args:
        repo_id: "NAMESPACE/NAME".
        kind: what it holds.
        revision: branch, made from main where it does not exist.
        token: access token; None takes that of HF_TOKEN or `hf auth login`.
        attempts: how often a call is tried at most, at least 1.

    Raises:
        HubError: `repo_id` is malformed.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        kind: Literal["dataset", "model"] = "dataset",
        revision: str = "main",
        token: str | None = None,
        attempts: int = 10,
    ):
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(repo_id)
            _namespace, _name = repo_id.split("/")
        except ValueError:  # the client's own error for a malformed id is one
            text = f"{scrub(repo_id)!r} is no repository id"
            raise HubError(text, "write NAMESPACE/NAME, such as you/digits-sd") from None
        self.repo_id, self.revision, self.attempts = repo_id, revision, attempts
        self._token = token or get_token()
        self._api = HfApi(token=token, library_name="imagenet-sd", library_version=__version__)
        self._here: dict[str, Any] = {"repo_id": repo_id, "repo_type": kind}
        self._branch = {**self._here, "revision": revision}

    def open(self, *, private: bool = False) -> None:
        """Make sure that repository and branch exist.

        Raises:
            HubError: no access, or the repository is public though a private one was asked for.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        def look() -> Any:
            with suppress(RepositoryNotFoundError):
                return self._api.repo_info(**self._here)

        info = self._call("look it up", look)
        if info is None:
            self._call("create it", lambda: self._api.create_repo(**self._here, private=private, exist_ok=True))
        elif private and not info.private:
            raise HubError(
                f"{self.repo_id} is public, and --private was asked for", "make it private on the Hub, or leave it out"
            )
        if self.revision != "main":
            branch = {**self._here, "branch": self.revision, "exist_ok": True}
            self._call(f"create branch {self.revision}", lambda: self._api.create_branch(**branch))

    def files(self) -> "dict[str, RepoFile]":
        """All files of the branch, by path."""
        return self._call("list its files", lambda: _by_path(self._api.list_repo_tree(**self._branch, recursive=True)))

    def read(self, path: str) -> bytes:
        """Content of a small file of the branch."""

        def download() -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                there = self._api.hf_hub_download(**self._branch, filename=path, local_dir=folder)
                return Path(there).read_bytes()

        return self._call(f"read {path}", download)

    def upload(self, operation: "CommitOperationAdd") -> None:
        """Send a file's content, streamed from its path; it is part of the repository after `commit`."""
        self._call(
            f"upload {operation.path_in_repo}",
            lambda: self._api.preupload_lfs_files(
                **self._branch, additions=[operation], num_threads=1, free_memory=False
            ),
        )

    def commit(self, operations: Sequence["CommitOperationAdd"], message: str) -> None:
        """Make uploaded files part of the branch, all at once; those that are part of it already are left out."""
        todo, tried = list(operations), False

        def commit() -> None:
            nonlocal todo, tried
            if tried:  # an answer that was lost on its way may have been a success
                paths = [operation.path_in_repo for operation in todo]
                there = _by_path(self._api.get_paths_info(**self._branch, paths=paths))
                todo = [o for o in todo if not holds(there.get(o.path_in_repo), _content(o))]
            tried = True
            if todo:
                self._api.create_commit(**self._branch, operations=todo, commit_message=message, num_threads=1)

        self._call(f"commit {len(todo)} files", commit)

    def _call(self, what: str, function: Callable[[], T]) -> T:
        """Call the Hub; passing trouble is waited out, as long as the Hub asks for or twice as long each time.

        `what` completes "could not ..."; HubError is raised for what fails for good, or too often.
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
                note(f"{text}; try {attempt + 1} of {self.attempts} in {wait:.0f} s")
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, (KeyError, AttributeError, TypeError)):
            return "its answer makes no sense"
        if answer := _answer(error):
            said = scrub(str(getattr(answer, "server_message", None) or ""), self._token)
            status = answer.response.status_code
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
    """Seconds to wait after what attempt number `attempt` (from 1) raised; None when another one is of no use."""
    if not _passing(error):
        return None
    backoff = min(_LONGEST_WAIT, 2.0 ** (attempt - 1)) * random.uniform(0.75, 1.25)
    asked = _retry_after(error) or 0.0
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


def _content(operation: "CommitOperationAdd") -> bytes | str:
    content = operation.path_or_fileobj
    return content if isinstance(content, bytes) else operation.upload_info.sha256.hex()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes: the client wraps what went wrong on the network into errors of its own."""
    while error is not None:
        yield error
        error = error.__cause__


def _answer(error: BaseException) -> Any:
    """The first error of the chain that has a response of the Hub; None when there is none."""
    return next((link for link in _chain(error) if getattr(link, "response", None) is not None), None)


def _status(error: BaseException) -> int | None:
    """The HTTP status that made the call fail; the xet client has it in the text alone."""
    if answer := _answer(error):
        return int(answer.response.status_code)
    told = _XET_STATUS.search("\n".join(map(str, _chain(error))))
    return int(told[1]) if told else None


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
    answer = _answer(error)
    headers = answer.response.headers if answer else {}
    text = str(headers.get("retry-after", "")).strip()
    if text.isascii() and text.isdigit():
        return float(text)
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    exhausted = re.search(r";\s*r=0\s*;\s*t=(\d{1,9})", str(headers.get("ratelimit", "")))
    return float(exhausted[1]) if exhausted else None
