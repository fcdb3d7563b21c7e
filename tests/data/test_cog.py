import json
import math
import os
import random
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.data.cog import (
    DISCARDED,
    PERSON,
    CogError,
    CogLevels,
    build_levels,
    count_images,
    eligible_concepts,
    read_counts,
    split_files,
)
from imagenet_sd.data.similarity import LinSimilarity, TaxonomyError, subsumers
from imagenet_sd.prompts.classes import load_classes
from imagenet_sd.prompts.wordnet import open_wordnet
from tests.conftest import ROOT

COUNTS = ROOT.parent / "shared" / "data" / "imagenet21k_fall11_image_counts.tsv"


@dataclass(frozen=True)
class Node:
    wnid: str
    hypernyms: tuple[str, ...] = ()


def taxonomy(edges: dict[str, str]) -> list[Node]:
    """A taxonomy from `{concept: "parent parent"}`."""
    return [Node(wnid, tuple(above.split())) for wnid, above in edges.items()]


# Two branches under one root; x and y lie under both. Under e: 8 concepts, under a: 5, under b: 4, under a leaf: 1.
DIAMOND = taxonomy({"e": "", "a": "e", "b": "e", "a1": "a", "a2": "a", "b1": "b", "x": "a b", "y": "b a"})


# --- Lin similarity ---


def test_lin_by_hand():
    lin = LinSimilarity(DIAMOND, ["a1", "a2", "b1", "x", "y"])
    assert len(lin) == 8
    assert [lin.counts[wnid] for wnid in ("e", "a", "b", "x")] == [8, 5, 4, 1]
    assert lin.information_content("e") == 0
    assert lin.information_content("b") == pytest.approx(math.log(2))
    got = lin.matrix(["a1", "x", "b", "e"], ["a1", "a2", "b1", "y", "e"])
    a = math.log(8 / 5) / math.log(8)  # two leaves under a: 2 IC(a) / (2 log 8)
    b = 1 / 3  # two leaves under b: log 2 / log 8
    expected = [
        [1, a, 0, a, 0],
        [a, a, b, b, 0],  # x and y have both a and b above them: b says more, as fewer lie under it
        [0, 0, 1 / 2, 1 / 2, 0],  # b itself is what b and b1 share: 2 log 2 / (log 2 + log 8)
        [0, 0, 0, 0, 1],
    ]
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_the_corpus_is_the_population_with_its_ancestors():
    lin = LinSimilarity([*DIAMOND, Node("a3", ("a",)), Node("c", ("e",))], ["a1", "a2", "b1", "x", "y"])
    assert len(lin) == 8
    with pytest.raises(TaxonomyError, match="a3 is not in the corpus"):
        lin.matrix(["a1"], ["a3"])
    with pytest.raises(TaxonomyError, match="zebra is not in the taxonomy"):
        LinSimilarity(DIAMOND, ["zebra"])
    with pytest.raises(TaxonomyError, match="ghost, above orphan, is not"):
        LinSimilarity([Node("orphan", ("ghost",))], ["orphan"])


def test_concepts_without_a_common_ancestor_share_nothing():
    lin = LinSimilarity(taxonomy({"r": "", "s": "", "r1": "r", "s1": "s"}), ["r1", "s1"])
    np.testing.assert_allclose(lin.matrix(["r1"], ["s1", "r"]), [[0, 2 * math.log(2) / (math.log(2) + math.log(4))]])


class SlowLin:
    """NLTK's formula, one pair at a time, with nothing of ours: concepts are counted downwards, one node at a time."""

    def __init__(self, parents: dict[str, tuple[str, ...]], population: set[str]):
        self.parents = parents
        corpus, layer = set(population), set(population)
        while layer:
            layer = {above for wnid in layer for above in parents[wnid]} - corpus
            corpus |= layer
        self.size = len(corpus)
        self.known: dict[str, float] = {}
        self.children: dict[str, list[str]] = {wnid: [] for wnid in corpus}
        for wnid in corpus:
            for above in parents[wnid]:
                self.children[above].append(wnid)

    def above(self, wnid: str) -> set[str]:
        return {wnid}.union(*(self.above(parent) for parent in self.parents[wnid]))

    def below(self, wnid: str) -> set[str]:
        return {wnid}.union(*(self.below(child) for child in self.children[wnid]))

    def ic(self, wnid: str) -> float:
        if wnid not in self.known:
            self.known[wnid] = -math.log(len(self.below(wnid)) / self.size)
        return self.known[wnid]

    def __call__(self, a: str, b: str) -> float:
        common = self.above(a) & self.above(b)
        subsumer_ic = max((self.ic(wnid) for wnid in common), default=0)
        return (2.0 * subsumer_ic) / (self.ic(a) + self.ic(b))


def test_lin_equals_a_plain_implementation_on_wordnet():
    synsets = list(open_wordnet())
    rng = random.Random(0)
    seen = [spec.wnid for spec in load_classes("imagenet-1k")]
    others = rng.sample([synset.wnid for synset in synsets], 3000)
    lin = LinSimilarity(synsets, [*seen, *others])
    slow = SlowLin({synset.wnid: synset.hypernyms for synset in synsets}, {*seen, *others})
    assert len(lin) == slow.size
    animals = [[wnid for wnid in wnids if "n00015388" in slow.above(wnid)] for wnids in (others, seen)]
    rows = rng.sample(animals[0], 40) + rng.sample(others, 20)
    columns = rng.sample(animals[1], 40) + rng.sample(seen, 20)
    pairs = [(rng.randrange(60), rng.randrange(60)) for _ in range(200)]
    matrix = lin.matrix(rows, columns)
    got = [matrix[pair] for pair in pairs]
    expected = [slow(rows[row], columns[column]) for row, column in pairs]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
    assert len(np.unique(np.round(got, 9))) > 20  # the pairs are not all strangers to each other


# --- eligible concepts ---


def test_each_filter_takes_out_its_own():
    discarded = min(DISCARDED)
    nodes = taxonomy(
        {
            "e": "",
            "animal": "e",
            "dog": "animal",  # seen
            "puppy": "dog",  # under a seen concept: stays
            "cat": "animal",
            "few": "animal",
            PERSON: "e",
            "clerk": PERSON,
            "clerk-cat": "cat clerk",  # a person too: goes, and leaves its other parent a leaf
            "plant": "e",
            "unlisted": "plant",
            "fern": "unlisted",
            "moss": "plant",
            "sprout": "moss",
            discarded: "e",
        }
    )
    counts = dict.fromkeys((node.wnid for node in nodes if node.wnid != "unlisted"), 782) | {"few": 781, "sprout": 781}
    # "plant" goes: "fern" is below it, though what lies between has no images; so does "moss": "sprout" has too few
    # images itself, but is below it all the same.
    assert eligible_concepts(nodes, counts, ["dog"]) == ["cat", "fern", "puppy"]
    assert eligible_concepts(nodes, counts, ["dog"], min_images=781) == ["cat", "fern", "few", "puppy", "sprout"]


def test_a_discarded_concept_still_keeps_its_parent_from_being_a_leaf():
    discarded = min(DISCARDED)
    nodes = taxonomy({"e": "", "seen": "e", "group": "e", discarded: "group", "lone": "e"})
    assert eligible_concepts(nodes, dict.fromkeys(["group", discarded, "lone"], 1000), ["seen"]) == ["lone"]


def test_table_3_1_has_70_concepts_that_wordnet_knows():
    assert len(DISCARDED) == 70
    assert len(open_wordnet().get(DISCARDED)) == 70


# --- levels ---

# Ever further from the seen s: d4 beside it, d3 one branch further out, ... and the twins share a place.
CHAIN = taxonomy(
    {"e": "", "p1": "e", "p2": "p1", "p3": "p2", "p4": "p3", "s": "p4"}
    | {"d4": "p4", "twin-b": "p3", "twin-a": "p3", "d2": "p2", "d1-b": "p1", "d1-a": "p1", "d0-a": "e", "d0-b": "e"}
)
CHAIN_COUNTS: dict[str, int] = dict.fromkeys(("d1-b", "d0-b", "twin-b", "d4", "d2", "twin-a", "d0-a", "d1-a"), 800)


def test_levels_span_the_ranking_with_gaps_and_ties_go_by_wnid():
    levels = build_levels(CHAIN, CHAIN_COUNTS, ["s"], num_levels=3, level_size=2)
    assert levels.num_eligible == 8
    # the ranking: d4, twin-a, (twin-b), d2, d1-a, (d1-b), d0-a, d0-b
    assert levels.levels == (("d4", "twin-a"), ("d2", "d1-a"), ("d0-a", "d0-b"))
    # 14 concepts in all, 3 of them under p4 and 6 under p3
    log14 = math.log(14)
    assert levels.similarity[0] == pytest.approx([math.log(14 / 3) / log14, math.log(14 / 6) / log14])
    assert levels.similarity[2] == (0, 0)
    assert build_levels(CHAIN, CHAIN_COUNTS, ["s"], num_levels=1, level_size=3).levels == (("d4", "twin-a", "twin-b"),)


def test_the_nearest_seen_concept_counts():
    near = build_levels(CHAIN, CHAIN_COUNTS, ["s", "d0-b"], num_levels=1, level_size=7)
    alone = build_levels(CHAIN, CHAIN_COUNTS, ["s"], num_levels=1, level_size=7)
    assert near.num_eligible == 7
    assert near.similarity[0][:6] == alone.similarity[0][:6]  # a far seen concept takes nothing away


def test_the_order_of_the_input_does_not_matter():
    expected = build_levels(CHAIN, CHAIN_COUNTS, ["s"], num_levels=3, level_size=2)
    rng = random.Random(1)
    for _ in range(5):
        nodes, counts = list(CHAIN), list(CHAIN_COUNTS.items())
        rng.shuffle(nodes)
        rng.shuffle(counts)
        assert build_levels(iter(nodes), dict(counts), {"s"}, num_levels=3, level_size=2) == expected


def test_levels_as_json_keep_every_digit():
    levels = CogLevels(num_eligible=3, levels=(("n2",), ("n1",)), similarity=((2 / 3,), (0.1 + 0.2,)))
    value = levels.to_json()
    assert value == {"num_eligible": 3, "L1": ["n2"], "L2": ["n1"], "similarity": {"L1": [2 / 3], "L2": [0.1 + 0.2]}}
    assert json.loads(json.dumps(value)) == value


def test_levels_that_cannot_be_built_are_errors():
    with pytest.raises(CogError, match="8 concepts are eligible, too few for 5 levels of 1000"):
        build_levels(CHAIN, CHAIN_COUNTS, ["s"])
    with pytest.raises(CogError, match="no seen concepts"):
        build_levels(CHAIN, CHAIN_COUNTS, [])
    with pytest.raises(CogError, match="0 levels"):
        build_levels(CHAIN, CHAIN_COUNTS, ["s"], num_levels=0)
    with pytest.raises(TaxonomyError, match="n99999999 is not in the taxonomy"):
        build_levels(CHAIN, CHAIN_COUNTS | {"n99999999": 900}, ["s"])


@pytest.mark.skipif(not COUNTS.is_file(), reason="the image counts of ImageNet-21K are not here")
def test_the_thesis_numbers():
    counts = read_counts(COUNTS)
    seen = [spec.wnid for spec in load_classes("imagenet-1k")]
    synsets = list(open_wordnet())
    started = time.process_time()
    levels = build_levels(synsets, counts, seen)
    assert time.process_time() - started < 15
    assert len(counts) == 21841
    assert set(seen) - set(counts) == {"n04399382"}
    assert levels.num_eligible == 5146  # Sec. 3.3.2
    assert [len(level) for level in levels.levels] == [1000] * 5
    chosen = [wnid for level in levels.levels for wnid in level]
    assert len(set(chosen)) == 5000
    assert not set(chosen) & ({*seen} | DISCARDED)
    assert min(counts[wnid] for wnid in chosen) >= 782
    ranking = [value for values in levels.similarity for value in values]
    assert ranking == sorted(ranking, reverse=True)
    means = [np.mean(values) for values in levels.similarity]
    assert all(nearer > further + 0.05 for nearer, further in pairwise(means))
    # the full span: nothing eligible is nearer than the first or further than the last
    eligible = eligible_concepts(synsets, counts, seen)
    lin = LinSimilarity(synsets, {*counts, *seen})
    assert len(lin) == 23547
    nearest = lin.matrix(eligible, seen).max(axis=1)
    assert (nearest.max(), nearest.min()) == (ranking[0], ranking[-1])
    parents = {synset.wnid: synset.hypernyms for synset in synsets}
    above = set().union(*(subsumers(wnid, parents) - {wnid} for wnid in eligible))
    assert not above & set(eligible)


@pytest.mark.skipif(not COUNTS.is_file(), reason="the image counts of ImageNet-21K are not here")
def test_another_release_changes_17_concepts_and_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Without the sub-tree of person, which the Winter 2021 release filters, L3 has 17 other concepts."""
    from imagenet_sd.pipeline import cog

    counts = read_counts(COUNTS)
    parents = {synset.wnid: synset.hypernyms for synset in open_wordnet()}
    kept = {wnid: count for wnid, count in counts.items() if PERSON not in subsumers(wnid, parents)}
    for name, numbers in (("fall", counts), ("winter", kept)):
        lines = ["wnid\tnum_images", *(f"{wnid}\t{count}" for wnid, count in numbers.items())]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    fall = cog(tmp_path / "fall", counts=str(tmp_path / "fall.tsv"))
    assert capsys.readouterr().err == ""
    winter = cog(tmp_path / "winter", counts=str(tmp_path / "winter.tsv"))
    assert [len(set(fall[level]) - set(winter[level])) for level in ("L1", "L2", "L3", "L4", "L5")] == [0, 3, 17, 4, 3]
    warning = capsys.readouterr().err
    assert warning.startswith("warning: the counts cover 19,005 concepts") and "17 concepts of a level" in warning
    assert warning.count("\n") == 1


# --- counts ---


def test_read_counts(tmp_path: Path):
    path = tmp_path / "counts.tsv"
    path.write_text("\ufeffwnid\tnum_images\r\nn00004475\t8\r\n\r\nn00005787\t1264\r\n", encoding="utf-8")
    assert read_counts(path) == {"n00004475": 8, "n00005787": 1264}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: the header is \[\]"),
        ("n00004475\t8\n", "line 1: the header is"),
        ("wnid\tnum_images\n", "line 2: there are no concepts"),
        ("wnid\tnum_images\nn00004475\t8\nn0000578\t3\n", "line 3: 'n0000578' is not a wnid"),
        ("wnid\tnum_images\nn00004475 8\n", "line 2: 'n00004475 8' is not a wnid"),
        ("wnid\tnum_images\nn00004475\n", "line 2: '' is no number"),
        ("wnid\tnum_images\nn00004475\t-8\n", "line 2: '-8' is no number"),
        ("wnid\tnum_images\nn00004475\t8.5\n", "line 2: '8.5' is no number"),
        ("wnid\tnum_images\nn00004475\t8\t9\n", r"line 2: '8\\t9' is no number"),
        ("wnid\tnum_images\nn00004475\t8\n\nn00004475\t9\n", "line 4: n00004475 stands in the file twice"),
    ],
)
def test_read_counts_names_the_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "counts.tsv"
    path.write_text(text)
    with pytest.raises(CogError, match=message) as caught:
        read_counts(path)
    assert str(path) in str(caught.value) and caught.value.hint
    assert isinstance(caught.value, ImagenetSDError)


def test_read_counts_of_no_text(tmp_path: Path):
    with pytest.raises(CogError, match="cannot be read"):
        read_counts(tmp_path / "missing.tsv")
    (tmp_path / "bytes.tsv").write_bytes(b"wnid\tnum_images\n\xff\xfe")
    with pytest.raises(CogError, match="UTF-8"):
        read_counts(tmp_path / "bytes.tsv")


# --- folders ---


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two concepts of 12 and 7 images, and what else lies about in such a folder."""
    for wnid, number in (("n00000002", 12), ("n00000001", 7)):
        (tmp_path / wnid).mkdir()
        for index in range(number):
            (tmp_path / wnid / f"{wnid}_{index}.JPEG").touch()
    (tmp_path / "n00000001" / "README.txt").touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "n00000003").touch()
    return tmp_path


def test_count_images(images: Path):
    (images / "n00000009").mkdir()
    assert list(count_images(images).items()) == [("n00000001", 7), ("n00000002", 12), ("n00000009", 0)]
    with pytest.raises(CogError, match="no folder named by a wnid"):
        count_images(images / "notes")
    with pytest.raises(CogError, match="cannot be read"):
        count_images(images / "missing")


def test_split_files_holds_out_and_caps(images: Path):
    wnids = ["n00000002", "n00000001"]
    train, test = split_files(images, wnids, test_images=3, train_images=5)
    assert [name.split("/")[0] for name in test] == ["n00000002"] * 3 + ["n00000001"] * 3
    assert [name.split("/")[0] for name in train] == ["n00000002"] * 5 + ["n00000001"] * 4
    assert len({*train, *test}) == 15
    assert all((images / name).is_file() and name.endswith(".JPEG") for name in [*train, *test])
    assert test[:3] == sorted(test[:3])


def test_split_files_depends_on_the_seed_and_the_names_alone(images: Path, monkeypatch: pytest.MonkeyPatch):
    wnids = ["n00000001", "n00000002"]
    first = split_files(images, wnids, test_images=3)
    assert first[1] == [
        *split_files(images, wnids[:1], test_images=3)[1],
        *split_files(images, wnids[1:], test_images=3)[1],
    ]
    listdir = os.listdir
    monkeypatch.setattr("os.listdir", lambda folder: sorted(listdir(folder), reverse=True))
    assert split_files(images, wnids, test_images=3) == first
    assert len({tuple(split_files(images, wnids, seed=seed, test_images=3)[1]) for seed in range(5)}) == 5


def test_split_files_is_the_same_in_every_release(images: Path):
    _, test = split_files(images, ["n00000001"], test_images=3)
    assert test == [f"n00000001/n00000001_{index}.JPEG" for index in (0, 2, 3)]


def test_split_files_of_the_thesis(tmp_path: Path):
    (tmp_path / "n00000001").mkdir()
    for index in range(1400):
        (tmp_path / "n00000001" / f"{index}.jpg").touch()
    train, test = split_files(tmp_path, ["n00000001"])
    assert (len(train), len(test)) == (1300, 50)
    assert not set(train) & set(test)


def test_split_files_never_leaves_an_empty_side(images: Path):
    with pytest.raises(CogError, match="n00000001 holds 7 images; with 7 for testing none is left"):
        split_files(images, ["n00000001"], test_images=7)
    with pytest.raises(CogError, match="at least one image"):
        split_files(images, ["n00000001"], test_images=0)
    with pytest.raises(CogError, match="stands twice"):
        split_files(images, ["n00000001", "n00000001"], test_images=3)
    with pytest.raises(CogError, match="n00000004 cannot be read"):
        split_files(images, ["n00000004"])
