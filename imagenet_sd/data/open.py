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
from imagenet_sd.data.parquet import TEST_NAMES, has_test_files, hub_files, hub_parquet, parquet_files, parquet_folder
from imagenet_sd.data.targets import read_targets
from imagenet_sd.data.transfer import open_transfer


def open_images(spec: str | DataSpec, split: str = "train") -> ImageSet:
    """Open a set of labelled images.

    Args:
        spec: what to open, see `DataSpec.parse`. For `imagefolder` and `parquet`, a subfolder named after the split is
            used when there is one (of test images the first of `TEST_NAMES`). Where `has_test_images` says no, both
            splits are the same images.
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
            return parquet_folder(_split_folder(spec.paths[0], part), spec.number, part)
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


def has_test_images(spec: DataSpec) -> bool:
    """Whether the test images of a set are others than its training images.

    It is the case for sets with official splits, and for folders and repositories with files or folders that are called
    after them; not for a dataset made by `generate`, nor for a folder of class folders.

    Raises:
        DatasetError: a Hub repository cannot be listed.
    """
    match spec.kind:
        case "dataset":
            return False
        case "imagefolder":
            return "test" in _split_folders(spec.paths[0])
        case "parquet":
            (folder,) = spec.paths
            splits = _split_folders(folder)
            return "test" in splits if splits else not holds_dataset(folder) and has_test_files(parquet_files(folder))
        case "hf":
            return has_test_files(hub_files(spec.name))
    return True


def _split_folder(folder: Path, split: Literal["train", "test"]) -> Path:
    splits = _split_folders(folder)
    if "train" not in splits and "test" in splits and split == "train":
        raise DatasetError(
            f"{folder} has test images only, in {splits['test'].name}", "name that folder itself, or add a folder train"
        )
    return splits.get(split) or splits.get("train") or folder


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders of the splits by "train" and "test"; a folder of images is no split, but a class of that name."""
    names = {"train": ("train",), "test": TEST_NAMES}
    found = {split: next((folder / name for name in names[split] if _is_split(folder / name)), None) for split in names}
    return {split: path for split, path in found.items() if path}


def _is_split(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_dir() or path.suffix == ".parquet" for path in folder.iterdir())
