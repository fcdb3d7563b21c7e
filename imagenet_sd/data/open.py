"""The one door to labelled images: training, evaluation and galleries open any data spec here."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.layout import holds_dataset
from imagenet_sd.core.specs import DATA_SPECS, DataSpec
from imagenet_sd.data.builtin import builtin_images
from imagenet_sd.data.cog_lists import open_level
from imagenet_sd.data.imagenet_family import open_imagenet
from imagenet_sd.data.images import FirstOfEach, FolderSet, ImageSet
from imagenet_sd.data.parquet import hub_parquet, parquet_folder
from imagenet_sd.data.targets import read_targets
from imagenet_sd.data.transfer import open_transfer


def open_images(spec: str | DataSpec, split: str = "train") -> ImageSet:
    """Open a set of labelled images.

    Args:
        spec: what to open, see `DataSpec.parse`. For `imagefolder` and `parquet`, a subfolder named after the split is
            used when there is one; a dataset made by `generate` is the same for both splits.
        split: "train" or "test" ("val" counts as "test").

    Raises:
        DatasetError: there is no such set, or no such split of it.
    """
    if isinstance(spec, str):
        spec = DataSpec.parse(spec)
    if split not in ("train", "test", "val"):
        raise DatasetError(f"no split {split!r}", "use train or test")
    part = "train" if split == "train" else "test"
    if spec.limit == "per_class":
        return FirstOfEach(open_images(replace(spec, limit="", number=0), part), spec.number)
    match spec.kind:
        case "builtin":
            return builtin_images(spec.name, part)
        case "hf":
            return hub_parquet(spec.name, part)
        case "torchvision":
            return open_transfer(spec.name, spec.paths[0], part)
        case "imagenet" if part == "test":
            return open_imagenet(spec.name, spec.paths[0])
        case "imagenet":
            raise DatasetError(f"{spec} is a test set", "give the training images as imagefolder:DIR")
        case "cog":
            return _level(spec, part)
        case "targets":
            return read_targets(spec.paths[0], part, str(spec))
        case "imagefolder":
            return FolderSet(_split_folder(spec.paths[0], part))
        case "parquet":
            return parquet_folder(_split_folder(spec.paths[0], part), spec.number)
        case "dataset":
            return _dataset(spec)


def _dataset(spec: DataSpec) -> ImageSet:
    (folder,) = spec.paths
    if not holds_dataset(folder):
        raise DatasetError(f"no data {str(spec)!r}", f"give {DATA_SPECS}")
    return parquet_folder(folder, spec.number)


def _level(spec: DataSpec, split: Literal["train", "test"]) -> ImageSet:
    levels, root = spec.paths
    if not (levels / "levels.json").is_file():
        raise DatasetError(f"no data {str(spec)!r}: {levels} holds no levels of ImageNet-CoG", f"give {DATA_SPECS}")
    if not spec.level:
        raise DatasetError(f"{spec} is five sets of images", "add a level, @L1 to @L5, or use --suite cog")
    return open_level(levels, spec.level, root, split)


def _split_folder(folder: Path, split: Literal["train", "test"]) -> Path:
    names = ("train",) if split == "train" else ("val", "test", "validation")
    return next((folder / name for name in names if (folder / name).is_dir()), folder)
