"""The layout of a dataset folder: every path and name in it, spelt in this file only.

```
FOLDER/
  dataset.json                                 the settings, the fingerprint, the classes; written first
  README.md                                    the dataset card
  gallery.html, gallery.png                    written by `imagenet-sd preview`
  data/round-000/train-00017-of-00127.parquet  one shard of round 0
  data/round-000/.manifests/train-00017.json   its manifest, written after it
  .work/leases/000-00017.lease                 held by the worker that generates the shard
  .work/events/WORKER.jsonl                    what a worker did
  .work/failed/000-00017.json                  the last error of a shard that failed each attempt
```

An export (`storage/export.py`) is a folder of its own:

```
TARGET/
  .export.json                                 which dataset this is an export of
  .export-r000-00017.jsonl                     marker of an exported shard
  train-r000-00017.tar                         WebDataset: one tar for each shard
  metadata.jsonl                               ImageFolder: the columns of all images
```
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imagenet_sd.core.types import Shard

DESCRIPTION, CARD, GALLERY, DATA = "dataset.json", "README.md", "gallery.html", "data"
LEASES, EVENTS, FAILURES = ".work/leases", ".work/events", ".work/failed"
SPLIT = "train"
"""The split that the data files form for `load_dataset`: the first part of their names."""
DATA_FILES = f"data/round-*/{SPLIT}-*.parquet"
"""Glob of all shards, relative to the dataset folder."""
EXPORT_DESCRIPTION, EXPORT_METADATA = ".export.json", "metadata.jsonl"

_SHARD = re.compile(rf"data/round-(\d+)/{SPLIT}-(\d+)-of-(\d+)\.parquet", re.ASCII)


def holds_dataset(folder: Path) -> bool:
    """Whether a folder holds a dataset of ours, finished or not."""
    return (folder / DESCRIPTION).is_file()


def round_name(round_: int) -> str:
    """Name of the folder of a round, e.g. `round-000`."""
    return f"round-{round_:03d}"


def parse_round_name(name: str) -> int | None:
    """Number of the round whose folder has this name; None for any other name."""
    digits = name.removeprefix("round-")
    return int(digits) if digits.isdecimal() and name == round_name(int(digits)) else None


def shard_name(index: int, num_shards: int) -> str:
    """File name of shard `index` of the `num_shards` of a round, e.g. `train-00017-of-00127.parquet`."""
    return f"{SPLIT}-{index:05d}-of-{num_shards:05d}.parquet"


def shard_path(folder: Path, shard: "Shard") -> Path:
    """Path of a shard's Parquet file."""
    return folder / f"data/{round_name(shard.round)}/{shard.filename}"


def parse_shard_path(path: str) -> tuple[int, int, int] | None:
    """(round, index, num_shards) of a shard's path, relative to the folder, with slashes; None for any other path."""
    if not (match := _SHARD.fullmatch(path)):
        return None
    round_, index, num_shards = map(int, match.groups())
    same = path == f"data/{round_name(round_)}/{shard_name(index, num_shards)}"
    return (round_, index, num_shards) if same else None


def manifest_folder(folder: Path, round_: int) -> Path:
    """Folder of the manifests of a round."""
    return folder / f"data/{round_name(round_)}/.manifests"


def manifest_path(folder: Path, shard: "Shard") -> Path:
    """Path of a shard's manifest."""
    return folder / f"data/{round_name(shard.round)}/.manifests/{SPLIT}-{shard.index:05d}.json"


def parse_manifest_name(name: str) -> int | None:
    """Index of the shard whose manifest has this file name; None for any other name."""
    digits = name.removeprefix(f"{SPLIT}-").removesuffix(".json")
    return int(digits) if len(digits) + len(SPLIT) + 6 == len(name) and digits.isdecimal() else None


def shard_id(shard: "Shard") -> str:
    """What a shard is called in leases, events and failures, e.g. `000-00017`."""
    return f"{shard.round:03d}-{shard.index:05d}"


def parse_shard_id(text: str) -> tuple[int, int]:
    """(round, index) of a shard id.

    Raises:
        ValueError: it is none.
    """
    round_, index = text.split("-")
    return int(round_), int(index)


def failure_path(folder: Path, shard: "Shard") -> Path:
    """Where the last error of a failed shard is written."""
    return folder / FAILURES / f"{shard_id(shard)}.json"


def export_tar(target: Path, shard: "Shard") -> Path:
    """The tar of a shard in a WebDataset export."""
    return target / f"{SPLIT}-{_export_id(shard)}.tar"


def export_marker(target: Path, shard: "Shard") -> Path:
    """The file that says that a shard is exported. A file, since ImageFolder takes any folder for a class."""
    return target / f".export-{_export_id(shard)}.jsonl"


def _export_id(shard: "Shard") -> str:
    """Wide enough for names to sort in the order of the plan."""
    return f"r{shard.round:03d}-{shard.index:0{max(5, len(str(shard.num_shards - 1)))}d}"
