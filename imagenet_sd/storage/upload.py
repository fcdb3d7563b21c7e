"""Uploading a dataset: its finished shards and their manifests, in groups, each shard checked against its manifest.

The description (dataset.json, README.md) goes first: it says whose the repository is. The repository itself is the only
memory: what it holds with the right hash is done, so an upload goes on where the last one stopped.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagenet_sd.core import layout
from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.progress import note
from imagenet_sd.core.types import GenerationPlan, Shard
from imagenet_sd.storage.card import dataset_card
from imagenet_sd.storage.dataset import Dataset
from imagenet_sd.storage.hub import HubError, HubRepo, holds

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.hf_api import RepoFile

MAX_FILES_PER_FOLDER = 10_000
MAX_FILES = 100_000


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished shard on disk: its number in the plan, its file and that file's hash, its manifest as it was read."""

    number: int
    shard: Shard
    path: Path
    sha256: str
    manifest_path: Path
    manifest: bytes


class Upload:
    """Brings a repository up to what is finished of a dataset: first `prepare`, then `run`.

    Args:
        dataset: what to upload; see `check_limits`.
        repo: where to; opened.
        shards_per_commit: shards that become visible together, at least 1. The Hub allows about 128 commits an hour.
    """

    def __init__(self, dataset: Dataset, repo: HubRepo, *, shards_per_commit: int = 16):
        self.dataset, self.plan, self.repo = dataset, dataset.plan, repo
        self.shards_per_commit = shards_per_commit
        self.there: set[int] = set()
        self.uploaded: list[str] = []
        self.refused: dict[int, str] = {}
        self.remote: dict[str, RepoFile] = {}
        self._seen: dict[int, tuple[int, ...]] = {}

    def prepare(self) -> None:
        """Look at what the repository holds; changes nothing. `there` then has the shards that need no upload.

        Raises:
            HubError: the repository holds something else, or cannot be read.
        """
        self.remote = self.repo.files()
        self._description = self._describe()
        self.there |= {
            finished.number
            for finished in self._finished()
            if self._holds(finished.path, finished.sha256) and self._holds(finished.manifest_path, finished.manifest)
        }

    def run(self, on_images: Callable[[int], object], *, follow: bool = False, poll: float = 30.0) -> None:
        """Upload what is finished; `on_images` is called with the number of images of each shard that arrived.

        With `follow`, look again every `poll` seconds until the last shard is handled.

        Raises:
            HubError: the repository cannot be written.
        """
        try:
            self._commit(self._description, "Describe the dataset")
            self._upload_finished(on_images)
            while follow and len(self.there) + len(self.refused) < self.plan.num_shards:
                time.sleep(poll)
                self._upload_finished(on_images)
        except KeyboardInterrupt:
            text = f"interrupted: {self.repo.repo_id} holds {len(self.there):,} of {self.plan.num_shards:,} shards"
            note(f"{text}; run the same command again to go on")
            raise
        # A .gitignore in the repository can keep files out silently.
        files = self.repo.files() if self.uploaded else {}
        if lost := [path for path in self.uploaded if path not in files]:
            raise HubError(
                f"{self.repo.repo_id} does not hold {lost[0]} and {len(lost) - 1} more, though it took them",
                "look for a .gitignore in the repository, and push again",
            )

    def summary(self) -> dict[str, Any]:
        """What was uploaded, what is there, what is missing and what was refused: see `pipeline.push`."""
        return {
            "num_shards": self.plan.num_shards,
            "shards_there": len(self.there),
            "shards_uploaded": sum(path.endswith(".parquet") for path in self.uploaded),
            "files_uploaded": len(self.uploaded),
            "shards_missing": self.plan.num_shards - len(self.there) - len(self.refused),
            "refused": [{"shard": self._name(i), "message": message} for i, message in sorted(self.refused.items())],
        }

    def _describe(self) -> list["CommitOperationAdd"]:
        """What of dataset.json and README.md has to be uploaded, once it is clear that the repository is ours."""
        text = json.dumps(published_document(self.dataset.document), indent=2, ensure_ascii=False) + "\n"
        card = self.dataset.folder / layout.CARD
        contents = {
            layout.DESCRIPTION: text.encode(),
            layout.CARD: card.read_bytes() if card.is_file() else dataset_card(self.dataset.document).encode(),
        }
        rounds = self._remote_rounds(contents[layout.DESCRIPTION])
        self._check_foreign_files(max(rounds, self.plan.rounds))
        if rounds > self.plan.rounds:
            text = f"{self.repo.repo_id} holds {rounds} rounds of this dataset, more than the {self.plan.rounds} here"
            note(f"{text}; its dataset.json and README.md stay as they are")
            return []
        return [
            _operation(path, content) for path, content in contents.items() if not holds(self.remote.get(path), content)
        ]

    def _remote_rounds(self, ours: bytes) -> int:
        """Number of rounds that the repository's dataset.json speaks of; 0 when it has none."""
        there = self.remote.get(layout.DESCRIPTION)
        if there is None:
            return 0
        if holds(there, ours):
            return self.plan.rounds
        try:
            theirs = json.loads(self.repo.read(layout.DESCRIPTION))
            fingerprint, rounds = str(theirs["fingerprint"]), int(theirs["rounds"])
        except (ValueError, TypeError, KeyError, RecursionError):
            fingerprint, rounds = "", 0
        if fingerprint != self.plan.fingerprint:
            raise HubError(
                f"{self.repo.repo_id} holds another dataset: its fingerprint is {fingerprint[:64]!r}, "
                f"that of {self.dataset.folder} is {self.plan.fingerprint!r}",
                "name another repository; nothing was changed",
            )
        return rounds

    def _check_foreign_files(self, rounds: int) -> None:
        """Refuse a repository with data files that `load_dataset` would mix with ours."""
        per_round = self.plan.shards_per_round
        for path in self.remote:
            round_, index, num_shards = layout.parse_shard_path(path) or (rounds, 0, 0)
            if path.endswith(".parquet") and (round_ >= rounds or index >= per_round or num_shards != per_round):
                raise HubError(
                    f"{self.repo.repo_id} holds {path!r}, which is no shard of this dataset",
                    "name another repository, or delete that file on the Hub",
                )

    def _upload_finished(self, on_images: Callable[[int], object]) -> None:
        """Upload each finished shard that is not there yet, and commit them in groups."""
        sent = ((finished, self._send(finished)) for finished in self._finished())
        whole = ((finished, operations) for finished, operations in sent if operations is not None)
        while group := list(islice(whole, self.shards_per_commit)):
            names = [f"round {finished.shard.round} shard {finished.shard.index}" for finished, _ in group]
            span = names[0] if len(group) == 1 else f"{len(group)} shards, {names[0]} to {names[-1]}"
            self._commit([operation for _, operations in group for operation in operations], f"Add {span}")
            for finished, _ in group:
                self.there.add(finished.number)
                on_images(finished.shard.num_rows)

    def _finished(self) -> Iterator[Finished]:
        """Finished shards that are not known to be there; bad ones once, and again when their files changed."""
        for number in sorted(self.dataset.listed_shards() - self.there):
            shard = self.plan.shard(number)
            path, manifest_path = self.dataset.shard_path(shard), self.dataset.manifest_path(shard)
            stamp = _stamp(manifest_path) + _stamp(path)
            if number in self.refused and stamp == self._seen.get(number):
                continue
            self._seen[number] = stamp
            self.refused.pop(number, None)
            try:
                content = manifest_path.read_bytes()
                manifest = self.dataset.manifest(shard)
            except (DatasetError, OSError) as error:
                self._refuse(number, f"its manifest is not readable: {error}")
                continue
            if manifest is None:
                continue
            if not self.dataset.owns(manifest, shard):
                self._refuse(number, "its manifest belongs to another plan")
                continue
            yield Finished(number, shard, path, manifest.sha256, manifest_path, content)

    def _send(self, finished: Finished) -> list["CommitOperationAdd"] | None:
        """Send the shard's content where it is missing; returns what is left to commit, None for a damaged shard."""
        operations, path = [], finished.path
        if not self._holds(path, finished.sha256):
            try:
                before = _stamp(path)
                operation = _operation(self.dataset.relative(path), path)
                digest = operation.upload_info.sha256.hex()
            except (OSError, ValueError) as error:
                return self._refuse(finished.number, f"it is not readable: {error}")
            if digest != finished.sha256:
                return self._refuse(finished.number, "its SHA-256 differs from its manifest")
            self.repo.upload(operation)
            if _stamp(path) != before:
                return self._refuse(finished.number, "it was written to while it was uploaded")
            operations.append(operation)
        if not self._holds(finished.manifest_path, finished.manifest):
            operations.append(_operation(self.dataset.relative(finished.manifest_path), finished.manifest))
        return operations

    def _holds(self, path: Path, content: bytes | str) -> bool:
        """Whether the repository has a file of the dataset with this content; see `holds`."""
        return holds(self.remote.get(self.dataset.relative(path)), content)

    def _name(self, number: int) -> str:
        return self.dataset.relative(self.dataset.shard_path(self.plan.shard(number)))

    def _refuse(self, number: int, message: str) -> None:
        self.refused[number] = message = " ".join(message.split())
        note(f"{self._name(number)} is not uploaded: {message}")

    def _commit(self, operations: list["CommitOperationAdd"], message: str) -> None:
        if operations:
            self.repo.commit(operations, message)
            self.uploaded += [operation.path_in_repo for operation in operations]


def upload_files(repo: HubRepo, contents: Mapping[str, bytes], message: str) -> list[str]:
    """Make a few files in memory part of an opened repository, in one commit; those that are there are left out.

    Returns:
        The paths that were uploaded.

    Raises:
        HubError: the repository cannot be read or written.
    """
    there = repo.files()
    todo = [_operation(path, content) for path, content in contents.items() if not holds(there.get(path), content)]
    for operation in todo:
        repo.upload(operation)
    if todo:
        repo.commit(todo, message)
    return [operation.path_in_repo for operation in todo]


def published_document(document: dict[str, Any]) -> dict[str, Any]:
    """The `dataset.json` to publish: what lies on this machine, model or LoRA, is named without the path to it."""
    sources = {key: str(document[key]) for key in ("model_source", "lora_source") if document.get(key)}
    return document | {
        key: Path(source).name
        for key, source in sources.items()
        if Path(source).is_absolute() or Path(source).exists() or source.startswith((".", "~"))
    }


def check_limits(plan: GenerationPlan) -> None:
    """Refuse what the Hub would not take: 10,000 files in a folder, 100,000 in a repository.

    Raises:
        DatasetError: the plan has too many shards.
    """
    hint = "generate it again with a larger --shard-size; each round has a folder of its own"
    if plan.shards_per_round >= MAX_FILES_PER_FOLDER:  # the folder of the manifests is an entry too
        raise DatasetError(
            f"a round has {plan.shards_per_round:,} shards, and the Hub takes {MAX_FILES_PER_FOLDER:,} files a folder",
            hint,
        )
    files = 2 * plan.num_shards + 3
    if files > MAX_FILES:
        raise DatasetError(f"the dataset has {files:,} files, and the Hub takes {MAX_FILES:,} in a repository", hint)


def _operation(path: str, content: bytes | Path) -> "CommitOperationAdd":
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file is written or replaced; zeros for a file that is not there."""
    with suppress(OSError):
        facts = path.stat()
        return facts.st_ino, facts.st_size, facts.st_mtime_ns
    return (0, 0, 0)
