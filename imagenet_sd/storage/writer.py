"""Publishing a shard: the Parquet file first, its manifest last. Done means that the manifest exists and matches."""

from collections.abc import Sequence
from dataclasses import asdict

import pyarrow.parquet as pq

from imagenet_sd.core.files import atomic_write, sha256_file, write_json
from imagenet_sd.core.types import Shard, ShardManifest
from imagenet_sd.storage.dataset import Dataset
from imagenet_sd.storage.schema import Row, to_table

ROW_GROUP = 100
_REPEATED = ["wnid", "prompt", "template", "background", "model_id"]
_ORDERED = ["label", "wnid", "image_id", "seed"]


def write_shard(dataset: Dataset, shard: Shard, rows: Sequence[Row], generator: dict[str, object]) -> ShardManifest:
    """Publish a shard and then its manifest, each atomically.

    The same rows give the same bytes (with one version of pyarrow). Pages carry checksums; a row group has 100 rows.

    Args:
        dataset: where to.
        shard: which one.
        rows: its rows, in the order of `plan.requests(shard)`.
        generator: facts for the manifest; see `ShardManifest`.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing half-written is left under a final name.
    """
    path, manifest_file = dataset.shard_path(shard), dataset.manifest_path(shard)
    manifest_file.parent.mkdir(parents=True, exist_ok=True)
    table = to_table(rows, dataset.wnids)
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
        fingerprint=dataset.fingerprint,
        round=shard.round,
        index=shard.index,
        num_rows=len(rows),
        sha256=sha256_file(path),
        num_bytes=path.stat().st_size,
        generator=generator,
    )
    write_json(manifest_file, asdict(manifest))
    return manifest
