"""The five CoG levels on disk: wnid lists, `levels.json`, and the image lists that their probes read."""

import re
from pathlib import Path

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.files import atomic_write, write_json
from imagenet_sd.data.cog import CogLevels, split_files
from imagenet_sd.data.images import ListSet


def write_levels(levels: CogLevels, out: Path, images: Path | None = None) -> None:
    """Write `levels.json`, `L1.txt` ... `L5.txt` (wnid, tab, similarity) and, with `images`, `L1-train.txt` and so on.

    Args:
        levels: the levels.
        out: folder to write to.
        images: ImageNet-21k folder whose files are split; None for none.
    """
    out.mkdir(parents=True, exist_ok=True)
    for number, (wnids, similarity) in enumerate(zip(levels.levels, levels.similarity, strict=True), 1):
        lines = [f"{wnid}\t{value!r}" for wnid, value in zip(wnids, similarity, strict=True)]
        _write(out / f"L{number}.txt", lines)
        if images is not None:
            for split, files in zip(("train", "test"), split_files(images, wnids), strict=True):
                _write(out / f"L{number}-{split}.txt", files)
    write_json(out / "levels.json", levels.to_json())


def _write(path: Path, lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def open_level(folder: Path, level: str, root: Path, split: str) -> ListSet:
    """The images of one level.

    Args:
        folder: what `write_levels` wrote, with image lists.
        level: "L1" ... "L5".
        root: ImageNet-21k folder.
        split: "train" or "test".

    Raises:
        DatasetError: there is no such list, or a line of it is no path below a wnid folder.
    """
    path = folder / f"{level}-{split}.txt"
    try:
        files = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is no UTF-8 text: {error}", "build the levels again") from None
    except OSError:
        raise DatasetError(f"there is no {path}", "build the levels with `imagenet-sd cog --images DIR`") from None
    for number, file in enumerate(files, 1):
        if not re.fullmatch(r"n\d{8}/[^/\\]+", file):
            raise DatasetError(f"{path}, line {number}: {file!r} is no image of a concept", "build the levels again")
    classes = sorted({file.split("/")[0] for file in files})
    index = {wnid: i for i, wnid in enumerate(classes)}
    return ListSet(f"cog:{level}", classes, [(file, index[file.split("/")[0]]) for file in files], root)
