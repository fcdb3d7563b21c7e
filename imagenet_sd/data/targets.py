"""Images with continuous targets: a table of files and numbers, and targets that images carry themselves."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from imagenet_sd.core.errors import DatasetError, one_line
from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.data.images import ImageSet, LabelledImage, ListSet

_TEST_SHARE = 0.2


class TargetSet(ListSet):
    """The images of one split of a table, with a row of numbers for each.

    Attributes:
        target_names: columns of the table.
        targets: float64 [N, T].
    """

    def __init__(
        self,
        name: str,
        files: list[str],
        root: Path,
        target_names: Sequence[str],
        targets: np.ndarray,
        note: str = "",
    ):
        super().__init__(name, ("image",), [(file, 0) for file in files], root, note)
        self.target_names, self.targets = tuple(target_names), targets


def read_targets(path: Path, split: Literal["train", "test"], name: str = "") -> TargetSet:
    """Read a table with tabs: a first line of names, `path` first, then one column of numbers per target.

    A column `split` with `train` and `test` is taken as it is; without one, a fifth of the images, by a hash of the
    path, are the test images, and the note of the set says so. Paths are relative to the folder of the table.

    Raises:
        DatasetError: the table is missing or a line does not fit; the message names it.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeError, csv.Error) as error:
        raise DatasetError(
            f"{path} cannot be read: {one_line(error)}", "give a TSV file with the columns path, target..."
        ) from None
    header = lines[0] if lines else []
    names = [column for column in header[1:] if column != "split"]
    if header[:1] != ["path"] or not names or len(set(header)) != len(header):
        raise DatasetError(f"{path}: its first line is no header", "write: path, then the names of targets, with tabs")
    files, rows, num_test = [], [], 0
    for number, line in enumerate(lines[1:], 2):
        values = dict(zip(header, line, strict=False))
        try:
            numbers = [float(values[column]) for column in names]
        except (KeyError, ValueError):
            numbers = [math.nan]
        part = values.get("split", "test" if _is_test(values.get("path", "")) else "train")
        if len(line) != len(header) or not all(map(math.isfinite, numbers)) or part not in ("train", "test"):
            raise DatasetError(
                f"{path}, line {number}: a path and {len(names)} finite numbers are needed", "fix or remove the line"
            )
        num_test += part == "test"
        if part == split:
            files.append(values["path"])
            rows.append(numbers)
    if not files:
        raise DatasetError(f"{path} lists no images of the {split} split", "add lines, or a column split")
    note = f"no column split: {num_test:,} of {len(lines) - 1:,} images held out for the test, by a hash of their paths"
    targets = np.array(rows, np.float64)
    return TargetSet(name or str(path), files, path.parent, names, targets, "" if "split" in header else note)


def _is_test(path: str) -> bool:
    return stable_hash("targets-split", path) % 1000 < 1000 * _TEST_SHARE


class Rotated:
    """The images of a set, each turned by a random angle about its centre, and cut to the disc that no turn leaves.

    The disc, and grey outside of it, is the same for every angle: the corners do not give it away.

    Args:
        images: the set.
    """

    def __init__(self, images: ImageSet):
        self.images, self.name, self.classes = images, f"{images.name} rotated", images.classes
        self.group_sizes = images.group_sizes

    def read_group(self, group: int) -> list[LabelledImage]:
        """See `ImageSet`; images that cannot be read are handed on as they are."""
        return [self._turned(record) for record in self.images.read_group(group)]

    def _turned(self, record: LabelledImage) -> LabelledImage:
        try:
            image = record.decode()
        except OSError:
            return record
        size = min(image.size)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        square = image.crop((left, top, left + size, top + size))
        turned = np.array(square.rotate(math.degrees(angle_of(record.image_id)), Image.Resampling.BICUBIC))
        offsets = np.arange(size) - (size - 1) / 2
        turned[offsets[:, None] ** 2 + offsets**2 > (size / 2 - 1) ** 2] = 128
        return LabelledImage(image_id=record.image_id, label=record.label, data=turned)


def angle_of(image_id: str) -> float:
    """The angle in radians in [0, 2 pi) by which `Rotated` turns an image, counter-clockwise."""
    return 2 * math.pi * (stable_hash("rotation", image_id) % (1 << 32)) / (1 << 32)


def mean_hue(image: Image.Image) -> tuple[float, float]:
    """The mean over pixels of chroma times the direction (cos, sin) of the hue, each in [-1, 1].

    Hue is an angle: a mean of angles would jump at red, and hue without chroma means nothing.
    """
    r, g, b = (np.asarray(image.convert("RGB"), np.float64) / 255).transpose(2, 0, 1)
    high, low = np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)
    chroma = high - low
    safe = np.where(chroma > 0, chroma, 1)
    sixth = np.where(high == r, (g - b) / safe % 6, np.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4))
    angle = sixth * (math.pi / 3)
    return float((chroma * np.cos(angle)).mean()), float((chroma * np.sin(angle)).mean())


def mean_brightness(image: Image.Image) -> float:
    """Mean luma (ITU-R 601) in [0, 1]."""
    return float(np.asarray(image.convert("L"), np.float64).mean() / 255)


OWN_TARGETS = {"hue": ("hue-cos", "hue-sin"), "brightness": ("brightness",), "rotation": ("cos", "sin")}
"""Targets that images carry themselves, and the numbers that each is."""


def own_targets(images: ImageSet, target: str) -> np.ndarray:
    """The numbers of a target of `OWN_TARGETS`, float64 [N, T], for the readable images in their order."""
    rows = []
    for group in range(len(images.group_sizes)):
        for record in images.read_group(group):
            try:
                image = record.decode()
            except OSError:
                continue
            if target == "rotation":
                angle = angle_of(record.image_id)
                rows.append((math.cos(angle), math.sin(angle)))
            else:
                rows.append(mean_hue(image) if target == "hue" else (mean_brightness(image),))
    return np.array(rows, np.float64).reshape(len(rows), len(OWN_TARGETS[target]))
