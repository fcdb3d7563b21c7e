"""The training stream: which image comes when, and reading it with many workers without reading anything twice.

An epoch permutes the groups (row groups of shards, or single files) and deals them to a fixed number of virtual
workers; each shuffles the rows of a window of its groups. A batch takes the same number of rows from every virtual
worker. Processes and data workers divide the virtual workers among them, so which images make up batch b does not
depend on how many there are, each row group is read by one data worker only, and a run resumes at any batch by
arithmetic.
"""

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.data.images import ImageSet, LabelledImage
from imagenet_sd.training.config import TrainConfig, TrainingError
from imagenet_sd.training.crops import Crops, MultiCrop

Arrange = Callable[[list[tuple[int, int]]], list[tuple[int, int]]]


@dataclass(slots=True)
class Batch:
    """A batch, or a part of one.

    Attributes:
        global_crops: uint8 [B, M_g, 3, S_g, S_g].
        local_crops: uint8 [B, M_l, 3, S_l, S_l].
        parameters: float32 [B, M_g + M_l, P].
        geometry: float32 [B, M_g + M_l, 6].
        labels: int64 [B].
        positives: int64 [B]; see `Views`.
        image_ids: B names.
        bad: ids of images that could not be read and were replaced by others; an id may stand in several parts.
    """

    global_crops: torch.Tensor
    local_crops: torch.Tensor
    parameters: torch.Tensor
    geometry: torch.Tensor
    labels: torch.Tensor
    positives: torch.Tensor
    image_ids: list[str]
    bad: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All tensors, in the order of the fields."""
        return self.global_crops, self.local_crops, self.parameters, self.geometry, self.labels, self.positives

    @staticmethod
    def join(parts: list["Batch"]) -> "Batch":
        """Put parts together in their order."""
        tensors = map(torch.cat, zip(*(p.tensors for p in parts), strict=True))
        return Batch(*tensors, image_ids=[x for p in parts for x in p.image_ids], bad=[x for p in parts for x in p.bad])

    def chunks(self, count: int) -> list["Batch"]:
        """Split into `count` parts of nearly equal size, for gradient accumulation."""
        edges = np.linspace(0, len(self), count + 1).astype(int).tolist()
        slices = [slice(start, stop) for start, stop in pairwise(edges) if stop > start]
        return [Batch(*(x[part] for x in self.tensors), image_ids=self.image_ids[part], bad=[]) for part in slices]


class EpochOrder:
    """Where every row of an epoch stands.

    Args:
        group_sizes: rows of each group.
        virtual_workers: number of virtual workers.
        shuffle_window: groups that are shuffled together.
        key: seeds the order, e.g. (seed, epoch).
        sequential: keep the groups in their order (for a dataset that is still growing) instead of permuting them.
    """

    def __init__(
        self, group_sizes: list[int], virtual_workers: int, shuffle_window: int, *key: int, sequential: bool = False
    ):
        self.sizes, self.shuffle_window, self.key = group_sizes, shuffle_window, key
        count = len(group_sizes)
        rng = np.random.default_rng(stable_hash("epoch-order", *key))
        order = range(count) if sequential else rng.permutation(count).tolist()
        self.groups: list[list[int]] = [[] for _ in range(virtual_workers)]  # of each virtual worker
        fill = [(0, worker) for worker in range(virtual_workers)]
        for group in order:  # the virtual worker with the fewest rows takes the next group
            rows, worker = heapq.heappop(fill)
            self.groups[worker].append(group)
            heapq.heappush(fill, (rows + group_sizes[group], worker))

    def windows(self, worker: int, start: int, arrange: Arrange | None = None) -> Iterator[list[tuple[int, int]]]:
        """Windows of a virtual worker from its row `start` on, without end: after its last row comes another pass.

        Args:
            worker: the virtual worker.
            start: the row.
            arrange: puts the shuffled rows of a whole window in another order.

        Yields:
            (group, row within the group) pairs in the order of use, a list per window.
        """
        groups = self.groups[worker]
        total = sum(self.sizes[g] for g in groups)
        if not total:
            raise TrainingError(f"virtual worker {worker} has no data", "set virtual_workers=1 for very small data")
        pass_index, skip = divmod(start, total)
        while True:
            for w in range(0, len(groups), self.shuffle_window):
                members = groups[w : w + self.shuffle_window]
                rows = [(g, r) for g in members for r in range(self.sizes[g])]
                if skip >= len(rows):
                    skip -= len(rows)
                    continue
                rng = np.random.default_rng(stable_hash("window", *self.key, worker, pass_index, w))
                shuffled = [rows[i] for i in rng.permutation(len(rows))]
                yield (arrange(shuffled) if arrange else shuffled)[skip:]
                skip = 0
            pass_index += 1


def usable_virtual_workers(wanted: int, groups: int, batch_size: int) -> int:
    """The largest number, at most `wanted`, that divides the batch and leaves no virtual worker without a group."""
    return next(n for n in range(min(wanted, groups, batch_size), 0, -1) if batch_size % n == 0)


def in_pairs(rows: list[tuple[int, int]], keys: Sequence[Hashable]) -> list[tuple[int, int]]:
    """The rows with those of equal keys side by side, two by two; those without a partner come last."""
    pairs: list[tuple[tuple[int, int], tuple[int, int]]] = []
    waiting: dict[Hashable, tuple[int, int]] = {}
    for row, key in zip(rows, keys, strict=True):
        if key in waiting:
            pairs.append((waiting.pop(key), row))
        else:
            waiting[key] = row
    return [row for pair in pairs for row in pair] + list(waiting.values())


class TrainStream(IterableDataset):
    """Parts of batches for one process; a data worker serves its share of the process's virtual workers.

    Args:
        images: the data.
        config: the training recipe.
        rank: number of this process.
        world_size: number of processes; divides the number of virtual workers.
        sequential: see `EpochOrder`.

    Raises:
        TrainingError: the data is smaller than a batch, the processes do not divide the virtual workers, or
            `objective.positives` is `prompt` and the data names none.
    """

    def __init__(self, images: ImageSet, config: TrainConfig, rank: int, world_size: int, sequential: bool = False):
        self.images, self.config, self.sequential = images, config, sequential
        batch = config.optimizer.batch_size
        self.num_images = sum(images.group_sizes)
        self.virtual_workers = usable_virtual_workers(config.virtual_workers, len(images.group_sizes), batch)
        if self.virtual_workers % world_size:
            raise TrainingError(
                f"{self.virtual_workers} virtual workers cannot be shared by {world_size} processes",
                f"add --set virtual_workers=N, a multiple of {world_size} that divides the batch size {batch}",
            )
        per_process = self.virtual_workers // world_size
        self.own = list(range(rank * per_process, (rank + 1) * per_process))  # virtual workers of this process
        self.rows_each = batch // self.virtual_workers
        self.steps_per_epoch = self.num_images // batch
        if not self.steps_per_epoch:
            smaller = 1 << (max(1, self.num_images).bit_length() - 1)
            raise TrainingError(
                f"{images.name} has {self.num_images} images, fewer than a batch of {batch}",
                f"add --set optimizer.batch_size={smaller}",
            )
        if config.objective.positives == "prompt" and not sequential:  # what still grows has prompts
            for group in {0, len(images.group_sizes) - 1}:  # of joined sets, one group of each
                self._positive(images.read_group(group)[0])
        self.crop = MultiCrop(config.crops, config.photometric if config.augmentation == "dino" else None, config.seed)
        self.epoch, self.first_step, self.epochs = 0, 0, 1

    def __iter__(self) -> Iterator[Batch | ImagenetSDError]:
        """Parts of batches; a known error comes last, as a value: raised in a data worker, it would lose its hint."""
        try:
            yield from self._all_parts()
        except ImagenetSDError as error:
            yield error

    def _all_parts(self) -> Iterator[Batch]:
        info = get_worker_info()
        own = self.own[info.id :: info.num_workers] if info else self.own
        sizes, window = list(self.images.group_sizes), self.config.shuffle_window
        for epoch in range(self.epoch, self.epoch + self.epochs):
            key = (self.config.seed, epoch)
            order = EpochOrder(sizes, self.virtual_workers, window, *key, sequential=self.sequential)
            first = self.first_step if epoch == self.epoch else 0
            readers = [self._parts(self._read(order, worker, first * self.rows_each), epoch) for worker in own]
            for _ in range(first, self.steps_per_epoch):
                for reader in readers:
                    yield next(reader)

    def _read(self, order: EpochOrder, worker: int, start: int) -> Iterator[LabelledImage]:
        held: dict[int, list[LabelledImage]] = {}

        def paired(rows: list[tuple[int, int]]) -> list[tuple[int, int]]:
            held.update({group: self.images.read_group(group) for group in {group for group, _ in rows}})
            return in_pairs(rows, [self._positive(held[group][row]) for group, row in rows])

        for window in order.windows(worker, start, None if self.config.objective.positives == "image" else paired):
            for group, row in window:
                if group not in held:
                    held[group] = self.images.read_group(group)
                yield held[group][row]
            held.clear()

    def _positive(self, record: LabelledImage) -> int:
        """Equal for the images that belong together, see `objective.positives`."""
        kind = self.config.objective.positives
        if kind == "class":
            return record.label
        if kind == "prompt" and not record.prompt:
            raise TrainingError(
                f"{self.images.name} names no prompts", "train on a dataset made by `generate`, or --positives class"
            )
        return stable_hash("positives", record.prompt if kind == "prompt" else record.image_id)

    def _parts(self, records: Iterator[LabelledImage], epoch: int) -> Iterator[Batch]:
        """The parts of a virtual worker, without end: part b starts at row b * `rows_each`, whatever could be read.

        The readable images after a part fill the places of its unreadable ones, and come again where they stand.
        """
        ahead: deque[LabelledImage] = deque()  # rows from the start of the part on
        while True:
            yield self._part(records, ahead, epoch)
            for _ in range(self.rows_each):
                ahead.popleft()

    def _part(self, records: Iterator[LabelledImage], ahead: deque[LabelledImage], epoch: int) -> Batch:
        """The first `rows_each` readable images of `ahead`, which grows by what has to be read for that."""
        crops: list[Crops] = []
        labels, positives, ids, bad = [], [], [], []
        row = 0
        while len(crops) < self.rows_each:
            if row == len(ahead):
                ahead.append(next(records))
            record, row = ahead[row], row + 1
            try:
                crops.append(self.crop(record.decode(), epoch, record.image_id))
            except OSError:
                bad.append(record.image_id)
                if len(bad) > 10 * self.rows_each:
                    raise TrainingError(
                        f"{self.images.name}: {len(bad)} images in a row cannot be read, the first is {bad[0]}",
                        "check the data",
                    ) from None
                continue
            labels.append(record.label)
            positives.append(self._positive(record))
            ids.append(record.image_id)
        arrays = zip(*((c.global_crops, c.local_crops, c.parameters, c.geometry) for c in crops), strict=True)
        tensors = [*(torch.from_numpy(np.stack(array)) for array in arrays)]
        tensors += [torch.tensor(labels), torch.tensor(positives)]
        return Batch(*tensors, image_ids=ids, bad=bad)

    def batches(self, epoch: int, first_step: int, workers: int, epochs: int = 1) -> Iterator[Batch]:
        """This process's part of every batch of `epochs` epochs, from batch `first_step` of `epoch` on.

        The data workers live as long as the iterator: for small data their start would take longer than an epoch.

        Raises:
            ImagenetSDError: the data is damaged, or a shard of a growing dataset did not appear.
        """
        self.epoch, self.first_step, self.epochs = epoch, first_step, epochs
        workers = max((n for n in range(1, workers + 1) if len(self.own) % n == 0), default=0) if workers else 0
        loader = DataLoader(
            self,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=2 * len(self.own) // workers if workers else None,
            multiprocessing_context="spawn" if workers else None,
        )
        parts = iter(loader)
        for _ in range(first_step, epochs * self.steps_per_epoch):
            yield Batch.join([_raised(next(parts)) for _ in self.own])


def _raised(part: Batch | ImagenetSDError) -> Batch:
    if isinstance(part, ImagenetSDError):
        raise part
    return part
