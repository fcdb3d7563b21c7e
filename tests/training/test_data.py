"""The order of images: complete, seeded, the same for any number of processes and workers, exact on resume."""

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.data.images import LabelledImage
from imagenet_sd.data.open import open_images
from imagenet_sd.data.parquet import ParquetSet
from imagenet_sd.storage.schema import Row, to_table
from imagenet_sd.training.config import RECIPES, TrainConfig, TrainingError
from imagenet_sd.training.data import EpochOrder, TrainStream, usable_virtual_workers


def small(batch: int = 16, **settings) -> TrainConfig:
    base = RECIPES["small"]
    return replace(base, optimizer=replace(base.optimizer, batch_size=batch), **settings)


class CountingSet:
    """Groups of several sizes that remember who read them."""

    name, classes = "counting", ("a", "b")

    def __init__(self, sizes: list[int]):
        self.group_sizes = sizes
        self.reads: Counter[int] = Counter()

    def read_group(self, group: int) -> list[LabelledImage]:
        self.reads[group] += 1
        picture = np.full((32, 32, 3), group, np.uint8)
        return [
            LabelledImage(image_id=f"{group}/{i}", label=i % 2, data=picture) for i in range(self.group_sizes[group])
        ]


def test_an_epoch_shows_every_row_once_in_a_seeded_order():
    sizes = [7, 3, 9, 4, 5, 6, 8, 2]
    orders = []
    for key in ((0, 0), (0, 1), (1, 0)):
        order = EpochOrder(sizes, 2, 2, *key)
        rows = []
        for worker in range(2):
            count = sum(sizes[g] for g in order.groups[worker])
            taken: list[tuple[int, int]] = []
            for window in order.windows(worker, 0):
                taken += window
                if len(taken) >= count:
                    break
            rows += taken
        assert sorted(rows) == [(g, r) for g, size in enumerate(sizes) for r in range(size)]
        orders.append(rows)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_starting_in_the_middle_is_exact_and_reads_no_more_than_it_must():
    order = EpochOrder([5] * 12, 1, 3, 0, 0)
    whole: list[tuple[int, int]] = []
    for window in order.windows(0, 0):
        whole += window
        if len(whole) >= 150:  # into the third pass
            break
    for start in (0, 1, 14, 15, 37, 59, 60, 100):
        rest: list[tuple[int, int]] = []
        for window in order.windows(0, start):
            rest += window
            if len(rest) >= 20:
                break
        assert rest[:20] == whole[start : start + 20]
    assert len(next(order.windows(0, 16))) == 14  # the first window is skipped whole


def ids(stream: TrainStream, epoch: int = 0, first: int = 0, workers: int = 0) -> list[list[str]]:
    return [batch.image_ids for batch in stream.batches(epoch, first, workers)]


def test_batches_do_not_depend_on_processes_or_workers():
    images = open_images("builtin:faces", "train")
    one = ids(TrainStream(images, small(), 0, 1))
    two = [ids(TrainStream(images, small(), rank, 2)) for rank in range(2)]
    assert [a + b for a, b in zip(*two, strict=True)] == one
    assert ids(TrainStream(images, small(), 0, 1), workers=2) == one
    assert ids(TrainStream(images, small(), 0, 1), first=4) == one[4:]
    assert ids(TrainStream(images, small(), 0, 1), epoch=1) != one
    assert len(one) == 6 and all(len(batch) == 16 for batch in one)
    assert len({x for batch in one for x in batch}) >= 92  # virtual workers with fewer rows may repeat a few


def test_no_group_is_read_twice_in_an_epoch():
    config = small(batch=8, virtual_workers=4, shuffle_window=2)
    for world in (1, 2, 4):
        reads: Counter[int] = Counter()
        for rank in range(world):
            images = CountingSet([10] * 16)
            ids(TrainStream(images, config, rank, world))
            reads += images.reads
        assert sorted(reads) == list(range(16)) and set(reads.values()) == {1}


def test_the_same_pixels_whatever_the_number_of_processes():
    images = open_images("builtin:faces", "train")
    whole = next(TrainStream(images, small(), 0, 1).batches(0, 0, 0))
    parts = [next(TrainStream(images, small(), rank, 2).batches(0, 0, 0)) for rank in range(2)]
    assert np.array_equal(np.concatenate([p.global_crops for p in parts]), whole.global_crops)
    assert np.array_equal(np.concatenate([p.parameters for p in parts]), whole.parameters)


def test_virtual_workers_fit_the_batch_and_the_data():
    assert usable_virtual_workers(16, 1000, 256) == 16
    assert usable_virtual_workers(16, 1000, 60) == 15
    assert usable_virtual_workers(16, 3, 64) == 2
    with pytest.raises(TrainingError, match="fewer than a batch"):
        TrainStream(CountingSet([5]), small(), 0, 1)
    with pytest.raises(TrainingError, match="cannot be shared by 3"):
        TrainStream(open_images("builtin:faces"), small(), 0, 3)


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (value, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(path: Path, files: list[bytes]) -> Path:
    row = {"label": 0, "wnid": "n1", "prompt": "", "template": "", "background": "", "seed": 0}
    row |= {"guidance_scale": 1.0, "num_inference_steps": 1, "model_id": "m"}
    rows = [Row(jpeg=file, image_id=f"{path.stem}_{i}", **row) for i, file in enumerate(files)]
    pq.write_table(to_table(rows, ["n1", "n2"]), path, row_group_size=10, write_page_checksum=True)
    return path


def test_unreadable_images_are_named_and_replaced(tmp_path: Path):
    files = [jpeg(i) for i in range(64)]
    files[5], files[40] = b"not an image", files[40][:200]
    images = ParquetSet("x", [str(write(tmp_path / "a.parquet", files))])
    batches = list(TrainStream(images, small(batch=16, virtual_workers=1), 0, 1).batches(0, 0, 0))
    assert {x for b in batches for x in b.bad} >= {"a_5"}
    assert all(len(b) == 16 for b in batches)
    assert "a_5" not in {x for b in batches for x in b.image_ids}


class DamagedSet(CountingSet):
    """Images of a group each, some of which cannot be decoded."""

    bad = ("3/0", "17/0", "18/0", "40/0")

    def read_group(self, group: int) -> list[LabelledImage]:
        return [replace(x, data=b"no image") if x.image_id in self.bad else x for x in super().read_group(group)]


@pytest.mark.parametrize("virtual_workers", [1, 4, 16])  # 16: a part is a single image
def test_unreadable_images_move_no_other_image(virtual_workers: int):
    config = small(batch=16, virtual_workers=virtual_workers)
    clean = ids(TrainStream(CountingSet([1] * 64), config, 0, 1))
    damaged = TrainStream(DamagedSet([1] * 64), config, 0, 1)
    found = ids(damaged)
    assert all(len(batch) == 16 and not set(batch) & set(DamagedSet.bad) for batch in found)
    assert {x for b in damaged.batches(0, 0, 0) for x in b.bad} == set(DamagedSet.bad)
    for before, after in zip(clean, found, strict=True):
        assert set(before) - set(DamagedSet.bad) <= set(after)
    for first in range(1, 4):
        assert ids(damaged, first=first) == found[first:]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_flipped_bit_in_a_shard_stops_training_with_the_files_name(tmp_path: Path, workers: int):
    path = write(tmp_path / "a.parquet", [jpeg(i) for i in range(64)])
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.parquet") as caught:
        list(TrainStream(ParquetSet("x", [str(path)]), small(), 0, 1).batches(0, 0, workers))
    assert caught.value.hint and "\n" not in str(caught.value)


def test_shards_behind_a_remote_file_system_read_in_the_same_order(small_dataset: Path):
    """Any fsspec file system will do (the Hub's is one); the set also travels to worker processes."""
    import pickle
    from functools import partial

    import fsspec

    memory = fsspec.filesystem("memory")
    files = sorted(small_dataset.glob("data/*/*.parquet"))
    for path in files:
        memory.pipe(f"/hub/{path.name}", path.read_bytes())
    remote = ParquetSet("remote", [f"/hub/{path.name}" for path in files], partial(memory.open, mode="rb"))
    local = open_images(str(small_dataset))
    config = small(batch=10)
    assert ids(TrainStream(remote, config, 0, 1)) == ids(TrainStream(local, config, 0, 1))
    assert pickle.loads(pickle.dumps(remote)).classes == local.classes
