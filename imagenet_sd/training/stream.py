"""Training while generation goes on: shards are read in the order of the plan, as they appear (thesis 5.6)."""

import time
from pathlib import Path
from typing import Any

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.types import Shard
from imagenet_sd.data.images import LabelledImage
from imagenet_sd.data.parquet import ParquetSet
from imagenet_sd.storage.writer import ROW_GROUP, manifest_path, shard_path


class GrowingSet:
    """A dataset whose shards may not exist yet; its row groups are known from `dataset.json`.

    Args:
        folder: dataset folder.
        document: its `dataset.json`.
        patience: seconds to wait for a shard before giving up.
        poll: seconds between two looks.
    """

    def __init__(self, folder: Path, document: dict[str, Any], patience: float = 3600.0, poll: float = 1.0):
        self.name, self.folder, self.patience, self.poll = f"stream:{folder}", folder, patience, poll
        self.classes = tuple(entry["wnid"] for entry in document["classes"])
        per_round = sum(entry["count"] for entry in document["classes"])
        shard_size = document["recipe"]["shard_size"]
        count = -(-per_round // shard_size)
        self.groups: list[tuple[Shard, int]] = []
        self.group_sizes: list[int] = []
        for round_ in range(document["rounds"]):
            for index in range(count):
                start, stop = index * shard_size, min((index + 1) * shard_size, per_round)
                shard = Shard(round=round_, index=index, num_shards=count, start=start, stop=stop)
                for group, first in enumerate(range(0, shard.num_rows, ROW_GROUP)):
                    self.groups.append((shard, group))
                    self.group_sizes.append(min(ROW_GROUP, shard.num_rows - first))

    def read_group(self, group: int) -> list[LabelledImage]:
        """All images of a row group; waits until its shard is finished.

        Raises:
            DatasetError: the shard did not appear in time, or is damaged.
        """
        shard, row_group = self.groups[group]
        deadline = time.monotonic() + self.patience
        while not manifest_path(self.folder, shard).exists():
            if time.monotonic() > deadline:
                raise DatasetError(
                    f"{shard_path(self.folder, shard)} did not appear within {self.patience:g} seconds",
                    "is `imagenet-sd generate` still running? Start it again, then train again",
                )
            time.sleep(self.poll)
        return ParquetSet(self.name, [str(shard_path(self.folder, shard))]).read_group(row_group)
