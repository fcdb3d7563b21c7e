"""Training while generation goes on: shards are read in the order of the plan, as they appear (thesis 5.6)."""

import time

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.data.images import LabelledImage
from imagenet_sd.data.parquet import ParquetSet
from imagenet_sd.storage.dataset import Dataset
from imagenet_sd.storage.writer import ROW_GROUP


class GrowingSet:
    """A dataset whose shards may not exist yet; its row groups are known from the plan.

    It looks for a shard every `poll` seconds, and gives up after `patience` seconds.
    """

    def __init__(self, dataset: Dataset, patience: float = 3600.0, poll: float = 1.0):
        self.name, self.dataset, self.patience, self.poll = f"stream:{dataset.folder}", dataset, patience, poll
        self.classes = tuple(dataset.wnids)
        shards = dataset.plan.shards()
        self.groups = [(shard, first) for shard in shards for first in range(0, shard.num_rows, ROW_GROUP)]
        self.group_sizes = [min(ROW_GROUP, shard.num_rows - first) for shard, first in self.groups]

    def read_group(self, group: int) -> list[LabelledImage]:
        """All images of a row group; waits until its shard is finished.

        Raises:
            DatasetError: the shard did not appear in time, or is damaged.
        """
        shard, first = self.groups[group]
        deadline = time.monotonic() + self.patience
        while not self.dataset.manifest_path(shard).exists():
            if time.monotonic() > deadline:
                raise DatasetError(
                    f"{self.dataset.shard_path(shard)} did not appear within {self.patience:g} seconds",
                    "is `imagenet-sd generate` still running? Start it again, then train again",
                )
            time.sleep(self.poll)
        return ParquetSet(self.name, [str(self.dataset.shard_path(shard))]).read_group(first // ROW_GROUP)
