"""Publishing a shard: the Parquet file first, its manifest last. Done means that the manifest exists."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.files import atomic_write, read_json, sha256_file, write_json
from imagenet_sd.core.types import GenerationPlan, Shard, ShardManifest
from imagenet_sd.storage.schema import Row, to_table

ROW_GROUP = 100
_REPEATED = ["wnid", "prompt", "template", "background", "model_id"]
_ORDERED = ["label", "wnid", "image_id", "seed"]


def round_folder(out: Path, round_: int) -> Path:
    """Folder of a round's shards."""
    return out / "data" / f"round-{round_:03d}"


def shard_path(out: Path, shard: Shard) -> Path:
    """Path of a shard's Parquet file."""
    return round_folder(out, shard.round) / shard.filename


def manifest_path(out: Path, shard: Shard) -> Path:
    """Path of a shard's manifest."""
    return round_folder(out, shard.round) / ".manifests" / f"train-{shard.index:05d}.json"


def write_shard(
    out: Path,
    shard: Shard,
    rows: Sequence[Row],
    wnids: Sequence[str],
    *,
    fingerprint: str,
    generator: dict[str, object],
) -> ShardManifest:
    """Publish a shard and then its manifest, each atomically.

    The same rows give the same bytes (with one version of pyarrow). Pages carry checksums; a row group has 100 rows.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing half-written is left under a final name.
    """
    path, manifest_file = shard_path(out, shard), manifest_path(out, shard)
    manifest_file.parent.mkdir(parents=True, exist_ok=True)
    table = to_table(rows, wnids)
    atomic_write(
        path,
        lambda temporary: pq.write_table(
            table,
            temporary,
            row_group_size=ROW_GROUP,
            compression="zstd",
            use_dictionary=_REPEATED,  # pyright: ignore[reportArgumentType]  # the stubs know a bool only
            write_statistics=_ORDERED,  # pyright: ignore[reportArgumentType]  # of images they would hold whole files
            write_page_checksum=True,
        ),
    )
    manifest = ShardManifest(
        fingerprint=fingerprint,
        round=shard.round,
        index=shard.index,
        num_rows=len(rows),
        sha256=sha256_file(path),
        num_bytes=path.stat().st_size,
        generator=generator,
    )
    write_json(manifest_file, asdict(manifest))
    return manifest


def read_manifest(out: Path, shard: Shard) -> ShardManifest | None:
    """The manifest of a shard; None when the shard is not done.

    Raises:
        DatasetError: the manifest is there but garbled.
    """
    path = manifest_path(out, shard)
    if not path.exists():
        return None
    content = read_json(path)
    try:
        manifest = ShardManifest(**content)
    except TypeError:
        raise DatasetError(f"{path} is not a manifest", "run `imagenet-sd verify --repair`") from None
    if not (isinstance(manifest.sha256, str) and isinstance(manifest.num_rows, int)):
        raise DatasetError(f"{path} is not a manifest", "run `imagenet-sd verify --repair`")
    return manifest


def manifest_names(out: Path, plan: GenerationPlan) -> dict[int, set[str]]:
    """Round -> names of its manifests, by listing folders alone; `is_done` looks closer."""
    found = {}
    for round_ in range(plan.rounds):
        try:
            names = os.listdir(round_folder(out, round_) / ".manifests")
        except FileNotFoundError:
            continue
        found[round_] = {name for name in names if name.endswith(".json") and not name.startswith(".")}
    return found


def published(out: Path, plan: GenerationPlan) -> set[tuple[int, int]]:
    """(round, index) of the shards that have a manifest; `is_done` looks closer."""
    named = manifest_names(out, plan).items()
    return {(round_, int(name[6:-5])) for round_, names in named for name in names if name[6:-5].isdigit()}


def is_done(out: Path, shard: Shard, fingerprint: str) -> bool:
    """Whether the shard is finished: a manifest of this plan exists and matches the file.

    The file's size is compared always, its SHA-256 only when the file was written to after its manifest; rot that
    leaves the time stamps alone is `verify`'s to find.
    """
    try:
        manifest = read_manifest(out, shard)
        if manifest is None or (manifest.fingerprint, manifest.round, manifest.index, manifest.num_rows) != (
            fingerprint,
            shard.round,
            shard.index,
            shard.num_rows,
        ):
            return False
        path = shard_path(out, shard)
        there, written = path.stat(), manifest_path(out, shard).stat().st_mtime_ns
        if manifest.num_bytes and there.st_size != manifest.num_bytes:
            return False
        return there.st_mtime_ns <= written or sha256_file(path) == manifest.sha256
    except (DatasetError, OSError):
        return False
