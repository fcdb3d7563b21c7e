"""Names of shards and manifests, there and back."""

from pathlib import Path

import pytest

from imagenet_sd.core import layout
from imagenet_sd.core.types import Shard

FOLDER = Path("ds")


@pytest.mark.parametrize("numbers", [(0, 0, 1), (7, 17, 127), (1234, 123456, 1234567)])
def test_names_lead_back_to_their_shard(numbers: tuple[int, int, int]):
    round_, index, num_shards = numbers
    shard = Shard(round=round_, index=index, num_shards=num_shards, start=0, stop=1)
    path = layout.shard_path(FOLDER, shard).relative_to(FOLDER).as_posix()
    assert layout.parse_shard_path(path) == numbers
    assert layout.parse_round_name(path.split("/")[1]) == round_
    assert layout.parse_manifest_name(layout.manifest_path(FOLDER, shard).name) == index
    assert layout.manifest_path(FOLDER, shard).parent == layout.manifest_folder(FOLDER, round_)
    assert layout.parse_shard_id(layout.shard_id(shard)) == (round_, index)
    assert layout.failure_path(FOLDER, shard).stem == layout.shard_id(shard)


def test_the_names_of_the_documentation():
    shard = Shard(round=0, index=17, num_shards=127, start=0, stop=1)
    assert layout.shard_path(FOLDER, shard) == Path("ds/data/round-000/train-00017-of-00127.parquet")
    assert layout.manifest_path(FOLDER, shard) == Path("ds/data/round-000/.manifests/train-00017.json")
    assert layout.export_tar(FOLDER, shard) == Path("ds/train-r000-00017.tar")
    assert Path("data/round-000/train-00017-of-00127.parquet").match(layout.DATA_FILES)


@pytest.mark.parametrize(
    "name",
    [".train-00001.json.0f.tmp", "train-00001.json.tmp", "train-.json", "train-x.json", "00001.json", "train-00001",
     "train-train-00001.json", "train-00001.json.json"],
)  # fmt: skip
def test_other_names_are_no_manifests(name: str):
    assert layout.parse_manifest_name(name) is None


@pytest.mark.parametrize("name", ["round-0", "round-0000", "round-", "round-x", "000", ".round-000", "round-000.tmp"])
def test_other_names_are_no_rounds(name: str):
    assert layout.parse_round_name(name) is None


@pytest.mark.parametrize(
    "path",
    ["data/round-000/train-00000-of-00001.parquet.tmp", "data/round-000/x/train-00000-of-00001.parquet",
     "round-000/train-00000-of-00001.parquet", "data/round-000/train-0-of-1.parquet", "data/x.parquet",
     "data/round-0000/train-00000-of-00001.parquet",
     "data/round-000/train-\u0660\u0660\u0660\u0660\u0660-of-00001.parquet"],
)  # fmt: skip
def test_other_paths_are_no_shards(path: str):
    assert layout.parse_shard_path(path) is None
