"""The test sets that share ImageNet's classes: val, the three of ImageNet-v2, Sketch, R and A.

Each is opened as it is distributed, as folders of images, and always comes out keyed by wnid: labels are indices
into the wnids that the set holds, never positions in a folder listing. Knows nothing of encoders or metrics.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.images import FolderSet, ListSet
from imagenet_sd.prompts.classes import load_classes


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyMember:
    """One test set of the ImageNet family.

    Attributes:
        name: the name that `open_imagenet` takes.
        folder: the folder that its archive unpacks to; it may also be given as the root itself.
        folders_are: what the class folders are called: a "wnid", or an "index" into the 1000 wnids in sorted order.
        num_classes: classes that it covers. Where these are fewer than 1000, the logits are to be masked to them.
        num_images: images of the whole published set.
        homepage: where to get it.
    """

    name: str
    folder: str
    folders_are: Literal["wnid", "index"]
    num_classes: int
    num_images: int
    homepage: str


_V2, _HENDRYCKS = "https://github.com/modestyachts/ImageNetV2", "https://github.com/hendrycks"
_MEMBERS = tuple(
    FamilyMember(
        name=name,
        folder=folder,
        folders_are="index" if name.startswith("v2-") else "wnid",
        num_classes=classes,
        num_images=images,
        homepage=homepage,
    )
    for name, folder, classes, images, homepage in (
        ("val", "val", 1000, 50_000, "https://image-net.org (ILSVRC-2012)"),
        ("v2-matched-frequency", "imagenetv2-matched-frequency-format-val", 1000, 10_000, _V2),
        ("v2-threshold-0.7", "imagenetv2-threshold0.7-format-val", 1000, 10_000, _V2),
        ("v2-top-images", "imagenetv2-top-images-format-val", 1000, 10_000, _V2),
        ("sketch", "sketch", 1000, 50_889, "https://github.com/HaohanWang/ImageNet-Sketch"),
        ("r", "imagenet-r", 200, 30_000, f"{_HENDRYCKS}/imagenet-r"),
        ("a", "imagenet-a", 200, 7_500, f"{_HENDRYCKS}/natural-adv-examples"),
    )
)


def family_members() -> tuple[FamilyMember, ...]:
    """The seven test sets, in the order of the papers' tables; the three of v2 are reported as their mean."""
    return _MEMBERS


def open_imagenet(name: str, root: Path) -> ListSet:
    """Open a test set of the ImageNet family.

    Args:
        name: val, v2-matched-frequency, v2-threshold-0.7, v2-top-images, sketch, r or a; `NAME/LIST`, such as
            val/imagenet-100, keeps the classes of a class list only, so that logits of all others are masked.
        root: the folder that holds the unpacked archive, or the unpacked folder itself.

    Returns:
        A set whose `classes` are the wnids that it holds, sorted, whatever the folders are called.

    Raises:
        DatasetError: there is no such set, it is not there, or a folder is not one of the 1000 classes.
        ClassListError: there is no such list.
    """
    base, _, subset = name.partition("/")
    member = next((member for member in _MEMBERS if member.name == base), None)
    if member is None:
        known = ", ".join(member.name for member in _MEMBERS)
        raise DatasetError(f"no ImageNet test set {name!r}", f"use one of {known}")
    folder = _locate(member, root)
    standard_order = tuple(spec.wnid for spec in load_classes("imagenet-1k"))  # v2 numbers its folders by it
    images = FolderSet(folder)
    wnids = [_wnid(folder / entry, member, standard_order) for entry in images.classes]
    kept = {spec.wnid for spec in load_classes(subset)} if subset else set(wnids)
    classes = sorted(kept & set(wnids))
    if not classes:
        raise DatasetError(f"{folder} holds no class of {subset}", "give another class list")
    rank = {wnid: label for label, wnid in enumerate(classes)}
    files = [
        (file.relative_to(folder).as_posix(), rank[wnids[label]])
        for file, label in images.files
        if wnids[label] in kept
    ]
    files.sort(key=lambda item: (item[1], item[0]))
    return ListSet(str(DataSpec(kind="imagenet", name=name, root=str(root))), classes, files, folder)


def _locate(member: FamilyMember, root: Path) -> Path:
    """The folder of class folders: `root/<folder>`, or `root` itself when it holds class folders."""
    if (root / member.folder).is_dir():
        return root / member.folder
    pattern = r"n\d{8}" if member.folders_are == "wnid" else r"\d{1,3}"
    if root.is_dir() and any(path.is_dir() and re.fullmatch(pattern, path.name) for path in root.iterdir()):
        return root
    raise DatasetError(
        f"ImageNet test set {member.name} is not in {root}: no folder {member.folder}",
        f"get it from {member.homepage} and unpack it to {root / member.folder}, one folder per class "
        f"({'wnids' if member.folders_are == 'wnid' else 'numbered 0 to 999'})",
    )


def _wnid(folder: Path, member: FamilyMember, order: tuple[str, ...]) -> str:
    """The wnid of a class folder; a number is a position in `order`, read as a number and not as text."""
    if member.folders_are == "index":
        if re.fullmatch(r"0|[1-9]\d{0,2}", folder.name, re.ASCII):
            return order[int(folder.name)]
    elif folder.name in order:
        return folder.name
    expected = "a wnid of ImageNet-1k" if member.folders_are == "wnid" else "a class number from 0 to 999"
    raise DatasetError(f"{folder} is not named after {expected}", f"unpack the set again from {member.homepage}")
