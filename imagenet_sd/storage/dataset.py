"""The dataset handle: a folder, the plan and the settings of its `dataset.json`, and what of it is done."""

import hashlib
import json
import os
import uuid
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagenet_sd.core import layout
from imagenet_sd.core.errors import DatasetError, one_line
from imagenet_sd.core.files import atomic_write, read_json, sha256_file, write_json
from imagenet_sd.core.types import ClassSpec, GenerationPlan, PromptTemplate, Shard, ShardManifest
from imagenet_sd.prompts.build import PromptBuilder

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 2
REPAIR = "run `imagenet-sd verify --repair`"
"""The hint where a shard is damaged."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """A dataset folder, finished or not. It holds no state of its own: each method reads the folder when it is called.

    Attributes:
        folder: the folder; see `core/layout.py` for what is in it.
        plan: which image stands where.
        document: the content of `dataset.json`, in the present format.
    """

    folder: Path
    plan: GenerationPlan
    document: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """The dataset in a folder.

        Raises:
            DatasetError: the folder holds no dataset, or its description is damaged.
        """
        if not layout.holds_dataset(folder):
            raise DatasetError(
                f"{folder} holds no dataset: there is no {layout.DESCRIPTION}",
                "name a folder that `imagenet-sd generate` made",
            )
        return cls.from_document(folder, read_json(folder / layout.DESCRIPTION))

    @classmethod
    def from_document(cls, folder: Path, document: dict[str, Any]) -> "Dataset":
        """The dataset that a `dataset.json` of any format version describes; the folder need not exist yet.

        Raises:
            DatasetError: see `load_plan`.
        """
        document = upgrade(document)
        return cls(folder=folder, plan=load_plan(document), document=document)

    @property
    def settings(self) -> dict[str, Any]:
        """The generation settings: every choice that decides the pixels, of the classes and prompts only the names."""
        return self.document["settings"]

    @property
    def fingerprint(self) -> str:
        """Hash of settings and classes; see `fingerprint`."""
        return self.plan.fingerprint

    @property
    def wnids(self) -> list[str]:
        """The class ids, sorted."""
        return [spec.wnid for spec in self.plan.classes]

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of every image in pixels."""
        return self.settings["width"], self.settings["height"]

    def begin(self) -> bool:
        """Write `dataset.json` unless there is one; of several processes at the same time, one does.

        Returns:
            Whether this one has written it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / layout.DESCRIPTION
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        write_json(draft, self.document)
        try:
            os.link(draft, path)  # fails where there is one, unlike a rename
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def write_description(self) -> None:
        """Write `dataset.json` and the card where they do not say this already.

        A `dataset.json` of an older format stays as it is as long as it says the same.
        """
        from imagenet_sd.storage.card import dataset_card

        self.folder.mkdir(parents=True, exist_ok=True)
        description, readme = self.folder / layout.DESCRIPTION, self.folder / layout.CARD
        if not description.exists() or upgrade(read_json(description)) != self.document:
            write_json(description, self.document)
        card = dataset_card(self.document)
        if not readme.exists() or readme.read_text(encoding="utf-8") != card:
            atomic_write(readme, lambda path: path.write_text(card, encoding="utf-8"))

    def shard_path(self, shard: Shard) -> Path:
        """Path of a shard's Parquet file."""
        return layout.shard_path(self.folder, shard)

    def manifest_path(self, shard: Shard) -> Path:
        """Path of a shard's manifest."""
        return layout.manifest_path(self.folder, shard)

    def relative(self, path: Path) -> str:
        """A path in the folder, relative to it and with slashes: the name of the file on the Hub and in messages."""
        return path.relative_to(self.folder).as_posix()

    def manifest(self, shard: Shard) -> ShardManifest | None:
        """The manifest of a shard; None when it has none.

        Raises:
            DatasetError: the manifest is there but garbled.
        """
        path = self.manifest_path(shard)
        if not path.exists():
            return None
        with suppress(TypeError):
            manifest = ShardManifest(**read_json(path))
            if isinstance(manifest.sha256, str) and isinstance(manifest.num_rows, int):
                return manifest
        raise DatasetError(f"{path} is not a manifest", REPAIR)

    def owns(self, manifest: ShardManifest, shard: Shard) -> bool:
        """Whether a manifest is that of this shard of this plan."""
        expected = (self.fingerprint, shard.round, shard.index, shard.num_rows)
        return (manifest.fingerprint, manifest.round, manifest.index, manifest.num_rows) == expected

    def is_done(self, shard: Shard) -> bool:
        """Whether the shard is finished: its manifest exists, is of this plan, and matches the file.

        The file's size is compared always, its SHA-256 only when the file was written to after its manifest; rot that
        leaves the time stamps alone is `verify`'s to find.
        """
        try:
            manifest = self.manifest(shard)
            if manifest is None or not self.owns(manifest, shard):
                return False
            path = self.shard_path(shard)
            file, finished = path.stat(), self.manifest_path(shard).stat().st_mtime_ns
            if manifest.num_bytes and file.st_size != manifest.num_bytes:
                return False
            return file.st_mtime_ns <= finished or sha256_file(path) == manifest.sha256
        except (DatasetError, OSError):
            return False

    def unfinished(self) -> list[int]:
        """Numbers of the shards that are not done, each checked with `is_done`."""
        listed = self.listed_shards()  # spares a look at the files of shards that are still to come
        return [i for i in range(self.plan.num_shards) if i not in listed or not self.is_done(self.plan.shard(i))]

    def listed_shards(self) -> set[int]:
        """Numbers of the shards that have a manifest: a listing of folders, no check of what is in the files.

        Cheap enough for every look at a dataset of thousands of shards; `is_done` decides.
        """
        per_round = self.plan.shards_per_round
        listed: set[int] = set()
        with suppress(FileNotFoundError):
            rounds = map(layout.parse_round_name, os.listdir(self.folder / layout.DATA))
            for round_ in (number for number in rounds if number is not None and number < self.plan.rounds):
                with suppress(FileNotFoundError):
                    names = os.listdir(layout.manifest_folder(self.folder, round_))
                    indices = map(layout.parse_manifest_name, names)
                    first = self.plan.number(round_, 0)
                    listed.update(first + i for i in indices if i is not None and i < per_round)
        return listed

    def count_images(self, shards: Collection[int]) -> int:
        """Number of images in the shards with these numbers; the last shard of a round may be smaller."""
        per_round, size = self.plan.shards_per_round, self.plan.shard_size
        smaller = per_round * size - self.plan.images_per_round
        return len(shards) * size - smaller * sum(i % per_round == per_round - 1 for i in shards)

    def finished_files(self, rounds: int = 0) -> list[Path]:
        """The Parquet files that have a manifest, in the order of the plan; of the first `rounds` rounds, 0 for all."""
        most = rounds * self.plan.shards_per_round if rounds else self.plan.num_shards
        paths = (self.shard_path(self.plan.shard(i)) for i in sorted(self.listed_shards()) if i < most)
        return [path for path in paths if path.exists()]

    def row_groups(self, columns: list[str]) -> Iterator["pa.Table"]:
        """The rows of all finished shards in the order of the plan, a row group (at most 100 images) at a time.

        Raises:
            DatasetError: a shard is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        from imagenet_sd.storage.schema import row_batches

        for path in self.finished_files():
            try:
                with pq.ParquetFile(path, page_checksum_verification=True) as file:
                    for group in range(file.num_row_groups):
                        if batches := list(row_batches(file, group, columns)):
                            yield pa.Table.from_batches(batches)
            except DatasetError as error:
                raise DatasetError(f"{path}: {error}", error.hint) from None
            except (pa.ArrowException, OSError) as error:
                raise DatasetError(f"{path} is damaged: {one_line(error)}", REPAIR) from None


def upgrade(document: dict[str, Any]) -> dict[str, Any]:
    """A `dataset.json` in the present format. Version 1 called the settings "recipe"."""
    if not isinstance(document, dict) or document.get("format_version") != 1:
        return document
    renamed = {"settings" if key == "recipe" else key: value for key, value in document.items()}
    return renamed | {"format_version": FORMAT_VERSION}


def fingerprint(document: dict[str, Any]) -> str:
    """Hash of all that decides the pixels and their place: settings and classes, but not rounds or tool version."""
    # The 1 is the format version in which the fingerprint was defined. Later versions rename keys around the content,
    # not the content, so a dataset keeps its fingerprint, and its shards, when its description is upgraded.
    decisive = [1, document["settings"], document["classes"]]
    return hashlib.blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=16).hexdigest()


def load_plan(document: dict[str, Any]) -> GenerationPlan:
    """The plan that a `dataset.json` describes, in any format version.

    Raises:
        DatasetError: the document is not of a known format, or was changed by hand.
    """
    document = upgrade(document)
    try:
        if document["format_version"] != FORMAT_VERSION:
            raise DatasetError(
                f"dataset.json has format {document['format_version']}, this version reads 1 to {FORMAT_VERSION}",
                "use the version of imagenet-sd that made the dataset",
            )
        if document["fingerprint"] != fingerprint(document):
            raise DatasetError(
                "dataset.json does not match its fingerprint: it was changed after the dataset was begun",
                "restore the file from a copy",
            )
        plan = build_plan(document)
        _check_settings(document["settings"])
        json.dumps(document, ensure_ascii=False).encode()
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"dataset.json lacks or garbles {error}", "restore the file from a copy") from None
    except UnicodeEncodeError:
        raise DatasetError("dataset.json holds half of a character", "restore the file from a copy") from None
    if plan.excess:
        raise DatasetError(f"dataset.json plans {plan.excess}", "restore the file from a copy")
    return plan


_TEXTS = ("class_list", "prompt", "template", "model_id", "revision", "negative_prompt", "dtype")


def _check_settings(settings: dict[str, Any]) -> None:
    """Refuse settings of a wrong kind: the card, exports and the gallery write them down, whoever made the file."""
    for name in _TEXTS:
        if not isinstance(settings[name], str):
            raise TypeError(f"the setting {name}: {settings[name]!r}")
    for name in ("width", "height", "num_inference_steps"):
        if type(settings[name]) is not int or not 1 <= settings[name] <= 1 << 20:
            raise TypeError(f"the setting {name}: {settings[name]!r}")
    scale, seed, scenes = settings["guidance_scale"], settings["seed"], settings.get("backgrounds", [])
    if type(scale) not in (int, float) or not 0 <= scale <= 1000:
        raise TypeError(f"the setting guidance_scale: {scale!r}")
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise TypeError(f"the setting seed: {seed!r}")
    if not isinstance(scenes, list) or not all(isinstance(scene, str) for scene in scenes):
        raise TypeError(f"the setting backgrounds: {scenes!r}")


def build_plan(document: dict[str, Any]) -> GenerationPlan:
    """The plan of a `dataset.json` of the present format, whatever its size.

    Raises:
        KeyError, TypeError, AttributeError: the document is garbled.
    """
    settings, counts = document["settings"], tuple(entry["count"] for entry in document["classes"])
    rounds, shard_size, batch_size = document["rounds"], settings["shard_size"], settings["batch_size"]
    for number, least in [(n, 1) for n in (rounds, shard_size, batch_size)] + [(n, 0) for n in counts]:
        if type(number) is not int or number < least:
            raise TypeError(f"a count: {number!r}")
    if not sum(counts):
        raise TypeError("a count: there are no images")
    return GenerationPlan(
        fingerprint=document["fingerprint"],
        classes=tuple(map(ClassSpec.from_json, document["classes"])),
        counts=counts,
        rounds=rounds,
        shard_size=shard_size,
        batch_size=batch_size,
        seed=settings["seed"],
        prompts=PromptBuilder(PromptTemplate.recorded(settings), settings["seed"]),
    )
