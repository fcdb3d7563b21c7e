"""Lin similarity between concepts of a taxonomy, for all pairs of two lists at once.

Knows nothing of images, datasets or levels; a concept is an id with the ids of its parents.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from imagenet_sd.core.errors import ImagenetSDError


class TaxonomyError(ImagenetSDError):
    """A concept or one of its parents is not in the taxonomy; the message names it."""


class Concept(Protocol):
    """What is asked of a taxonomy's record; the synsets of WordNet have it."""

    @property
    def wnid(self) -> str:
        """Id of the concept."""
        ...

    @property
    def hypernyms(self) -> tuple[str, ...]:
        """Ids of its direct parents."""
        ...


def parents_of(synsets: Iterable[Concept]) -> dict[str, tuple[str, ...]]:
    """The taxonomy as a mapping: id of a concept -> ids of its direct parents."""
    return {synset.wnid: synset.hypernyms for synset in synsets}


def subsumers(wnid: str, parents: Mapping[str, Sequence[str]]) -> set[str]:
    """A concept and all its ancestors, over every path to the root.

    Raises:
        TaxonomyError: the concept, or an ancestor, is not in `parents`.
    """
    above, todo = {wnid}, [wnid]
    while todo:
        child = todo.pop()
        if child not in parents:
            raise TaxonomyError(
                f"{child} is not in the taxonomy"
                if child == wnid
                else f"{child}, above {wnid}, is not in the taxonomy",
                "ImageNet's ids are nouns of WordNet 3.0",
            )
        new = set(parents[child]) - above
        above |= new
        todo += new
    return above


class LinSimilarity:
    """Similarity of concepts by what they share (Lin, 1998; eq. 3.1 of the thesis).

        sim(a, b) = 2 IC(lcs(a, b)) / (IC(a) + IC(b)),        IC(c) = -log p(c)

    The corpus of the probabilities is the graph itself: the population with all its ancestors. p(c) is the share of
    the corpus' concepts that lie under c, where c counts as under itself, so that a leaf has 1/N and the root 1. The
    lowest common subsumer of two concepts, which need not be unique in a graph, is the common one of the highest
    information content, as in NLTK; a concept subsumes itself. Two concepts with nothing in common have 0, and the
    root, whose information content is 0, has 1 with itself.

    Args:
        synsets: the taxonomy; it may be larger than the corpus.
        population: the concepts that, with their ancestors, make up the corpus.

    Raises:
        TaxonomyError: the population, or an ancestor of it, is not in the taxonomy.
    """

    def __init__(self, synsets: Iterable[Concept], population: Iterable[str]):
        parents = parents_of(synsets)
        self._subsumers = {wnid: subsumers(wnid, parents) for wnid in population}
        for wnid in set().union(*self._subsumers.values()) - self._subsumers.keys():
            self._subsumers[wnid] = subsumers(wnid, parents)
        self.counts = Counter(above for line in self._subsumers.values() for above in line)
        """How many concepts of the corpus lie under each of them, itself included: the counts behind p(c)."""

    def __len__(self) -> int:
        """Number of concepts in the corpus."""
        return len(self.counts)

    def information_content(self, wnid: str) -> float:
        """IC(c) in nats: 0 for a single root, log N for a leaf.

        Raises:
            TaxonomyError: the concept is not in the corpus.
        """
        self._check([wnid])
        return math.log(len(self) / self.counts[wnid])

    def matrix(self, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
        """Similarity of each concept of `rows` to each of `columns`.

        Walks the common ancestors from the least to the most informative one and writes each one's information
        content over the block of pairs under it: what is written last is that of the lowest common subsumer.

        Args:
            rows: R ids of the corpus.
            columns: C ids of the corpus.

        Returns:
            float64 [R, C], in [0, 1].

        Raises:
            TaxonomyError: a concept is not in the corpus.
        """
        self._check([*rows, *columns])
        row_blocks, column_blocks = self._under(rows), self._under(columns)
        shared = np.zeros((len(rows), len(columns)))
        for wnid in sorted(row_blocks.keys() & column_blocks.keys(), key=lambda wnid: -self.counts[wnid]):
            shared[np.ix_(row_blocks[wnid], column_blocks[wnid])] = self.information_content(wnid)
        own = [np.array([self.information_content(wnid) for wnid in wnids]) for wnids in (rows, columns)]
        total = own[0][:, None] + own[1][None, :]
        return np.divide(2 * shared, total, out=np.ones_like(shared), where=total > 0)

    def _under(self, wnids: Sequence[str]) -> dict[str, list[int]]:
        """Positions in the list that lie under each ancestor."""
        blocks: dict[str, list[int]] = {}
        for position, wnid in enumerate(wnids):
            for above in self._subsumers[wnid]:
                blocks.setdefault(above, []).append(position)
        return blocks

    def _check(self, wnids: Iterable[str]) -> None:
        for wnid in wnids:
            if wnid not in self._subsumers:
                raise TaxonomyError(f"{wnid} is not in the corpus", "the corpus is the population with its ancestors")
