from pathlib import Path

import pytest

from imagenet_sd.core.errors import ClassListError
from imagenet_sd.data.builtin import DIGIT_WNIDS
from imagenet_sd.prompts.classes import load_classes
from tests.conftest import ROOT


def test_imagenet_1k_has_the_standard_order():
    import timm.data

    path = Path(timm.data.__file__).parent / "_info" / "imagenet_synsets.txt"
    specs = load_classes("imagenet-1k")
    assert [spec.wnid for spec in specs] == path.read_text().split()
    assert [spec.class_index for spec in specs] == list(range(1000))


def test_imagenet_100_is_a_subset_of_1k():
    specs = load_classes("imagenet-100")
    assert len(specs) == 100
    assert {spec.wnid for spec in specs} < {spec.wnid for spec in load_classes("imagenet-1k")}
    assert "n02086910" in {spec.wnid for spec in specs}


def test_digits_are_in_the_order_of_their_values():
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert [spec.lemmas[0] for spec in load_classes("digits-10")] == names
    assert tuple(spec.wnid for spec in load_classes("digits-10")) == DIGIT_WNIDS


def test_a_file_of_wnids_in_any_order(tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_text("# my dogs\nn02086910  # papillon\n\nn01558993\n")
    specs = load_classes(str(path))
    assert [(spec.wnid, spec.class_index) for spec in specs] == [("n01558993", 0), ("n02086910", 1)]
    assert specs[1].hypernyms == ("toy spaniel",)
    assert load_classes(str(path), hypernym_lemmas="all")[1].hypernyms == ("toy spaniel",)


def test_all_lemmas_of_each_hypernym(tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_text("n01558993\n")
    assert load_classes(str(path))[0].hypernyms == ("thrush",)
    assert load_classes(str(path), hypernym_lemmas="all")[0].hypernyms == ("thrush",)
    path.write_text("n13742358\n")
    assert load_classes(str(path))[0].hypernyms == ("digit",)
    assert load_classes(str(path), hypernym_lemmas="all")[0].hypernyms == ("digit", "figure")


def test_all_lemmas_change_the_hypernyms_of_465_classes():
    """The number that docs/systems.md names."""
    first, every = (load_classes("imagenet-1k", hypernym_lemmas=choice) for choice in ("first", "all"))
    assert sum(a.hypernyms != b.hypernyms for a, b in zip(first, every, strict=True)) == 465
    assert "465 of the 1,000" in (ROOT / "docs" / "systems.md").read_text()


def test_several_hypernyms_keep_wordnets_order():
    """NLTK keeps pointers in a set; the database has an order. Checked by hand in data.noun."""
    specs = {spec.wnid: spec for spec in load_classes("imagenet-1k")}
    assert len([spec for spec in specs.values() if len(spec.hypernyms) > 1]) > 20
    assert specs["n02672831"].hypernyms == ("free-reed instrument", "keyboard instrument")  # accordion
    assert specs["n02823428"].hypernyms == ("bottle",)  # beer bottle


def test_hypernyms_are_the_same_set_as_nltks():
    """Both readers over all synsets of the digits, and NLTK's own answer."""
    from nltk.corpus.reader import WordNetCorpusReader
    from nltk.data import path as nltk_path

    from imagenet_sd.prompts.wordnet import find_wordnet, open_wordnet, stage_wordnet

    source = find_wordnet()
    assert source is not None
    with stage_wordnet(source) as folder:
        nltk_path.append(str(folder.parent.parent))
        with pytest.warns(UserWarning, match="multilingual"):
            reader = WordNetCorpusReader(str(folder), None)
        specs = load_classes("imagenet-100")
        ours = open_wordnet().get([spec.wnid for spec in specs])
        for wnid, synset in ours.items():
            parents = reader.synset_from_pos_and_offset("n", int(wnid[1:])).hypernyms()
            assert set(synset.hypernyms) == {f"n{parent.offset():08d}" for parent in parents}
        nltk_path.pop()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n02086910\nrobin\n", r"line 2: 'robin' is not a wnid"),
        ("n02086910\n\nn02086910\n", r"line 3: n02086910 stands in line 1 already"),
        ("n02086910\nn00000001\n", r"line 2: n00000001 is no noun of WordNet 3\.0"),
        ("# nothing\n\n", r"line 1: the list is empty"),
    ],
)
def test_bad_lists_name_the_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(ClassListError, match=message):
        load_classes(str(path))


def test_own_classes_from_tsv(own_classes: Path):
    first, second = load_classes(str(own_classes))
    assert (first.wnid, first.class_index, first.lemmas, first.hypernyms) == ("a1", 0, ("red widget",), ("widget",))
    assert second.lemmas == ("<script>alert(1)</script>",)
    assert second.definition == 'a "quoted" & dangerous name'
    assert second.hypernyms == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id\tname\nx\ty\n", r"line 1: the header"),
        ("id\tname\tdefinition\thypernym\nx\n", r"line 2: needs an id and a name"),
        ("id\tname\tdefinition\thypernym\nok\tname\n../x\tname\n", r"line 3: class id '\.\./x'"),
        ("id\tname\tdefinition\thypernym\na\tname\na\tname\n", r"line 3: a stands in line 2 already"),
        ("id\tname\tdefinition\thypernym\ncon\tname\n", r"line 2: 'con' is the name of a device on Windows"),
        ("id\tname\tdefinition\thypernym\nLPT1.x\tname\n", r"line 2: 'LPT1.x' is the name of a device"),
        ("id\tname\tdefinition\thypernym\nAbc\tx\nabC\ty\n", r"line 3: 'abC' differs from 'Abc' in capitals only"),
        ("id\tname\tdefinition\thypernym\na\ttwo\u2028lines\n", r"line 2: holds the control character U\+2028"),
        ("id\tname\tdefinition\thypernym\na\tname\nb\tx\0y\n", r"line 3: holds the control character U\+0000"),
        ("id\tname\tdefinition\thypernym\na\tx\t\x1b]0;title\x07\n", r"line 2: holds the control character U\+001B"),
        ("id\tname\tdefinition\thypernym\na\tabc\u202edcba\n", r"line 2: holds the control character U\+202E"),
        ("id\tname\tdefinition\thypernym\n", r"the list is empty"),
    ],
)
def test_bad_tsv_names_the_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "mine.tsv"
    path.write_text(text)
    with pytest.raises(ClassListError, match=message):
        load_classes(str(path))


def test_an_unknown_list_names_the_known_ones():
    with pytest.raises(ClassListError, match="no class list 'imagenet-7'") as caught:
        load_classes("imagenet-7")
    assert "imagenet-100" in caught.value.hint


def test_lines_end_at_line_feeds_alone_and_fields_may_be_long(tmp_path: Path):
    """NEL, form feed and the like would end a line for `str.splitlines`; they are refused, spaces are not."""
    path, long = tmp_path / "mine.tsv", "x" * 200_000  # Python's csv module refuses fields above 131,072 characters
    path.write_text(f"id\tname\tdefinition\thypernym\r\na\tb\u00a0c \u3042\u200d\t{long}\t\r\n", newline="")
    (spec,) = load_classes(str(path))
    assert (spec.lemmas, spec.definition) == (("b\u00a0c \u3042\u200d",), long)
    for char in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029":
        path.write_text(f"id\tname\tdefinition\thypernym\na\tb{char}c\t\t\n")
        with pytest.raises(ClassListError, match=rf"line 2: holds the control character U\+{ord(char):04X}"):
            load_classes(str(path))
