"""ImageNet-CoG: five levels of unseen concepts, each further from ImageNet-1K than the one before (thesis, ch. 3).

Built from WordNet's nouns and the number of images per concept; knows nothing of encoders or of how levels are probed.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.files import is_image
from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.data.similarity import Concept, LinSimilarity, parents_of, subsumers

PERSON = "n00007846"
# Tab. 3.1: what the authors took out by hand, as offensive or too ambiguous.
DISCARDED = frozenset(
    """
    n00005787 n00288384 n00466377 n00466524 n00466630 n00474568 n00475014 n00475273 n00475403 n00483313 n00483409
    n00483508 n00483848 n01314388 n01314663 n01314781 n01317294 n01317813 n01317916 n01318381 n01318894 n01321770
    n01322221 n01323355 n01323493 n01323599 n01324431 n01324610 n01515303 n01517966 n01526521 n01862399 n01887474
    n01888181 n02075612 n02152881 n02153109 n02156871 n02157206 n02236355 n02377063 n02377291 n02472987 n02475078
    n02475669 n02759257 n02767665 n02771004 n03198500 n03300216 n03349771 n03393017 n03443005 n03680512 n04164406
    n04193377 n04224543 n04425804 n04516354 n04979002 n06255081 n06272612 n06274760 n07942152 n08182379 n08242223
    n08578517 n09828216 n10300303 n13918274
    """.split()
)
FALL_2011 = 21_841
"""Concepts of the Fall 2011 release of ImageNet-21K, on which the thesis builds the levels."""
_WNID = re.compile(r"n\d{8}")
_HEADER = ["wnid", "num_images"]


class CogError(ImagenetSDError):
    """Counts, image folders or concepts do not make up the levels; the message names file and line, or concept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CogLevels:
    """The levels, from the nearest to the seen concepts (L1) to the furthest.

    Attributes:
        num_eligible: number of concepts that passed the filters and were ranked.
        levels: wnids of each level in the order of rank.
        similarity: similarity to the seen concepts (eq. 3.2), in [0, 1], in the same order.
    """

    num_eligible: int
    levels: tuple[tuple[str, ...], ...]
    similarity: tuple[tuple[float, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """The levels as plain values: `num_eligible`, a list of wnids for each of `L1`, `L2` ..., and `similarity`."""
        names = [f"L{number}" for number in range(1, len(self.levels) + 1)]
        levels = {name: list(level) for name, level in zip(names, self.levels, strict=True)}
        similarity = {name: list(values) for name, values in zip(names, self.similarity, strict=True)}
        return {"num_eligible": self.num_eligible, **levels, "similarity": similarity}


def build_levels(
    synsets: Iterable[Concept],
    counts: Mapping[str, int],
    seen: Collection[str],
    *,
    min_images: int = 782,
    num_levels: int = 5,
    level_size: int = 1000,
) -> CogLevels:
    """Choose the unseen concepts, rank them by their similarity to the seen ones, and cut the ranking into levels.

    A concept's similarity is its highest Lin similarity to any seen concept (eq. 3.1 and 3.2), with the information
    content taken over all concepts of `counts`, the seen ones and their ancestors (23,547 nodes for ImageNet-21K: the
    Fall 2011 list leaves out one class of ImageNet-1K, n04399382). Ties are ranked by rising wnid.

    Args:
        synsets: the nouns of WordNet 3.0.
        counts: number of images of each ImageNet-21K concept.
        seen: the 1000 concepts of ImageNet-1K.
        min_images: fewest images of an eligible concept.
        num_levels: number of levels, at least 1.
        level_size: number of concepts in a level, at least 1.

    Raises:
        CogError: there are too few eligible concepts, or no seen ones.
        TaxonomyError: a concept is no noun of WordNet 3.0.
    """
    if num_levels < 1 or level_size < 1:
        raise CogError(f"{num_levels} levels of {level_size} concepts are none", "both numbers must be at least 1")
    if not seen:
        raise CogError("there are no seen concepts to compare with", "pass the wnids of ImageNet-1K")
    synsets = list(synsets)
    eligible = eligible_concepts(synsets, counts, seen, min_images=min_images)
    if len(eligible) < num_levels * level_size:
        raise CogError(
            f"{len(eligible)} concepts are eligible, too few for {num_levels} levels of {level_size}",
            "the counts must cover all of ImageNet-21K (Fall 2011: 21,841 concepts)",
        )
    lin = LinSimilarity(synsets, {*counts, *seen})
    nearest = lin.matrix(eligible, sorted(seen)).max(axis=1)
    order = np.argsort(-nearest, kind="stable")  # `eligible` is sorted, so equal similarities stay in order of wnid
    chosen = [order[start : start + level_size] for start in _starts(len(eligible), num_levels, level_size)]
    return CogLevels(
        num_eligible=len(eligible),
        levels=tuple(tuple(eligible[rank] for rank in level) for level in chosen),
        similarity=tuple(tuple(nearest[level].tolist()) for level in chosen),
    )


def _starts(eligible: int, num_levels: int, level_size: int) -> list[int]:
    """The first rank of every level: the levels span the whole ranking (Sec. 3.3.3), the rest lies in gaps between.

    The thesis gives no widths of the gaps; here they are as even as whole numbers allow (for 5,146: 36, 37, 36 and 37).
    """
    return [number * (eligible - level_size) // max(1, num_levels - 1) for number in range(num_levels)]


def eligible_concepts(
    synsets: Iterable[Concept], counts: Mapping[str, int], seen: Collection[str], *, min_images: int = 782
) -> list[str]:
    """The unseen concepts that may enter a level (Sec. 3.3.2).

    In this order: drop the seen concepts (the Fall 2011 counts leave 20,842), the ancestors of seen ones (20,081), the
    sub-tree of "person" (17,254), whatever has a descendant among those left, concepts with too few images (5,216),
    and the 70 of Tab. 3.1 (5,146, the number that the thesis states).

    The order and the word "leaf" decide the number. The text calls a concept no leaf when it is the parent of another
    one, but 5,146 comes out only when descendants of any depth count, also through concepts that fell out before; with
    direct children alone it is 5,151. Asking for enough images before asking for leaves gives 5,684, as a concept then
    becomes a leaf when its descendants have few images; taking the 70 out before asking for leaves gives 5,149.

    Args:
        synsets: the nouns of WordNet 3.0.
        counts: number of images of each ImageNet-21K concept.
        seen: the concepts of ImageNet-1K.
        min_images: fewest images of an eligible concept.

    Returns:
        wnids in rising order.

    Raises:
        TaxonomyError: a concept is no noun of WordNet 3.0.
    """
    parents = parents_of(synsets)
    above = {wnid: subsumers(wnid, parents) for wnid in {*counts, *seen}}
    excluded = set().union(*(above[wnid] for wnid in seen))
    unseen = {wnid for wnid in counts if wnid not in excluded and PERSON not in above[wnid]}
    with_descendants = set().union(*(above[wnid] - {wnid} for wnid in unseen))
    leaves = unseen - with_descendants
    return sorted(wnid for wnid in leaves - DISCARDED if counts[wnid] >= min_images)


def release_warning(counts: Collection[str]) -> str:
    """A line for the user where the concepts are not those of the Fall 2011 release; "" where they are.

    The Winter 2021 release lacks most concepts below "person". None of them enters a level, but the information content
    of eq. 3.1 counts them: without all 2,836 of them the levels differ from the thesis's in 0, 3, 17, 4 and 3 concepts.
    """
    if len(counts) == FALL_2011:
        return ""
    return (
        f"the counts cover {len(counts):,} concepts; the thesis builds its levels on the {FALL_2011:,} of "
        "ImageNet-21K's Fall 2011 release. The Winter 2021 release (19,167, without most of the sub-tree of person) "
        "changes up to 17 concepts of a level, so results are not comparable; take the Fall 2011 release or its counts"
    )


def read_counts(path: Path) -> dict[str, int]:
    """Read the number of images per concept from a TSV with the header `wnid, num_images`.

    Returns:
        wnid -> number of images, in the order of the file.

    Raises:
        CogError: the file cannot be read, or a line is wrong (the message names it).
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CogError(f"{path} cannot be read as UTF-8 text: {error}", "save it as plain UTF-8") from None
    header = lines[0].split("\t") if lines else []
    if header != _HEADER:
        raise CogError(f"{path}, line 1: the header is {header}, not {_HEADER}", "separate the two columns by a tab")
    counts: dict[str, int] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        wnid, _, count = line.partition("\t")
        if not _WNID.fullmatch(wnid):
            raise CogError(
                f"{path}, line {number}: {wnid!r} is not a wnid", "a wnid is 'n' and eight digits, such as n02086910"
            )
        if not re.fullmatch(r"[0-9]{1,12}", count):
            raise CogError(
                f"{path}, line {number}: {count!r} is no number of images", "write digits alone after the tab"
            )
        if wnid in counts:
            raise CogError(f"{path}, line {number}: {wnid} stands in the file twice", "keep one of the two lines")
        counts[wnid] = int(count)
    if not counts:
        raise CogError(f"{path}, line 2: there are no concepts", "write one concept a line")
    return counts


def count_images(folder: Path) -> dict[str, int]:
    """Count the images of an ImageNet-21K folder that holds one folder per concept, named by its wnid.

    Other folders are passed over; so are files that are no images.

    Returns:
        wnid -> number of images, in rising order of wnid.

    Raises:
        CogError: the folder cannot be read, or has no such folders.
    """
    wnids = sorted(name for name in _names(folder) if _WNID.fullmatch(name) and (folder / name).is_dir())
    if not wnids:
        raise CogError(f"{folder} holds no folder named by a wnid", "one folder of images per concept: n00004475/, ...")
    return {wnid: len(_images(folder / wnid)) for wnid in wnids}


def split_files(
    folder: Path, wnids: Sequence[str], seed: int = 0, test_images: int = 50, *, train_images: int = 1300
) -> tuple[list[str], list[str]]:
    """Split the images of a level's concepts into a training and a test set (Sec. 3.3.3 and 3.3.4.3).

    From each concept `test_images` are chosen for testing and the rest is for training, `train_images` at most. Which
    images are chosen depends on the seed and the file names alone: not on the order of the files, nor on the other
    concepts. The choice is not the authors' own, whose list of files is published with their code.

    Args:
        folder: ImageNet-21K, one folder per concept.
        wnids: the concepts of the level.
        seed: another seed, another choice.
        test_images: images for testing per concept, at least 1.
        train_images: most images for training per concept, at least 1.

    Returns:
        The training and the test files: paths relative to `folder` with forward slashes, by concept in the order
        of `wnids`, then by name.

    Raises:
        CogError: a number is below 1, a concept stands twice, its folder cannot be read, or it has no image left for
            training.
    """
    if test_images < 1 or train_images < 1:
        raise CogError("a split needs at least one image in each part", "raise test_images or train_images")
    if len(set(wnids)) < len(wnids):
        raise CogError("a concept stands twice in the level", "give each concept once")
    train: list[str] = []
    test: list[str] = []
    for wnid in wnids:
        names = _images(folder / wnid)
        if len(names) <= test_images:
            raise CogError(
                f"{folder / wnid} holds {len(names)} images; with {test_images} for testing none is left for training",
                "complete the folder, or lower test_images",
            )
        shuffled = sorted(names, key=lambda name: (stable_hash("cog", seed, wnid, name), name))
        test += [f"{wnid}/{name}" for name in sorted(shuffled[:test_images])]
        train += [f"{wnid}/{name}" for name in sorted(shuffled[test_images : test_images + train_images])]
    return train, test


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise CogError(f"{folder} cannot be read: {error.strerror}", "name the folder of ImageNet-21K") from None


def _images(folder: Path) -> list[str]:
    """Names of the image files in a folder, in no particular order."""
    return [name for name in _names(folder) if is_image(name)]
