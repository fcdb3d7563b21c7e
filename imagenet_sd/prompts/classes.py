"""Class lists: a built-in name, a text file of wnids, or a TSV for classes that WordNet does not have."""

import re
from pathlib import Path
from typing import Literal

from imagenet_sd.core.errors import ClassListError
from imagenet_sd.core.files import check_safe_name, data_path
from imagenet_sd.core.types import ClassSpec
from imagenet_sd.prompts.wordnet import WordNet, open_wordnet

BUILTIN_LISTS = ("imagenet-1k", "imagenet-100", "photos-10", "digits-10")
_TSV_COLUMNS = ("id", "name", "definition", "hypernym")
_WNID = re.compile(r"n\d{8}")


def load_classes(name: str = "imagenet-100", *, hypernym_lemmas: Literal["first", "all"] = "first") -> list[ClassSpec]:
    """Load a class list, sorted by class id, so that `class_index` equals the position in the list.

    Args:
        name: "imagenet-1k", "imagenet-100", "photos-10", "digits-10", the path of a text file with one wnid a line
            (text after `#` is a comment), or the path of a `.tsv` with the header `id, name, definition, hypernym`.
        hypernym_lemmas: take the first lemma of each direct hypernym (the default), or all of them.

    Returns:
        At least one class; ids are unique.

    Raises:
        ClassListError: no such list, or a line is wrong (the message names file and line).
        WordNetError: WordNet 3.0 is missing or of another version.
    """
    if name in BUILTIN_LISTS:
        path = data_path("prompts", "classes", f"{name}.txt")
    else:
        path = Path(name)
        if not path.is_file():
            raise ClassListError(
                f"no class list {name!r}", f"use one of {', '.join(BUILTIN_LISTS)}, or the path of a .txt or .tsv file"
            )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ClassListError(f"{path} cannot be read as UTF-8 text: {error}", "save it as plain UTF-8") from None
    if path.suffix.lower() == ".tsv":
        return _from_tsv(path, text)
    return _from_wnids(path, text, open_wordnet(), hypernym_lemmas)


def class_list_name(name: str) -> str:
    """A short name of the list for folder names: the built-in name, or the file's stem."""
    return name if name in BUILTIN_LISTS else re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(name).stem).strip("-.") or "classes"


def _from_wnids(path: Path, text: str, wordnet: WordNet, hypernym_lemmas: str) -> list[ClassSpec]:
    line_of: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        wnid = line.split("#")[0].strip()
        if not wnid:
            continue
        if not _WNID.fullmatch(wnid):
            raise ClassListError(
                f"{path}, line {number}: {wnid!r} is not a wnid", "a wnid is 'n' and eight digits, such as n02086910"
            )
        _check_new(path, number, wnid, line_of)
    _check_some(path, line_of)
    synsets = wordnet.get(line_of)
    for wnid, number in line_of.items():
        if wnid not in synsets:
            raise ClassListError(
                f"{path}, line {number}: {wnid} is no noun of WordNet 3.0",
                "ids of other WordNet versions do not work; for classes outside WordNet use a .tsv list",
            )
    parents = wordnet.get({parent for synset in synsets.values() for parent in synset.hypernyms})
    specs = []
    for index, wnid in enumerate(sorted(line_of)):
        synset = synsets[wnid]
        names = [parents[parent].lemmas for parent in synset.hypernyms]
        hypernyms = [lemma for lemmas in names for lemma in (lemmas if hypernym_lemmas == "all" else lemmas[:1])]
        specs.append(
            ClassSpec(
                wnid=wnid,
                class_index=index,
                lemmas=synset.lemmas,
                hypernyms=tuple(hypernyms),
                definition=synset.definition,
            )
        )
    return specs


def _from_tsv(path: Path, text: str) -> list[ClassSpec]:
    lines = text.split("\n")  # not `splitlines`, which also splits at U+2028 and other characters inside of a name
    header = [column.strip().lower() for column in lines[0].split("\t")]
    if header != list(_TSV_COLUMNS):
        raise ClassListError(
            f"{path}, line 1: the header is {header}, not {list(_TSV_COLUMNS)}",
            "the first line must be the four column names, separated by tabs",
        )
    line_of: dict[str, int] = {}
    fields: dict[str, list[str]] = {}
    for number, line in enumerate(lines[1:], 2):
        cells = [cell.strip() for cell in line.split("\t")]
        if not any(cells):
            continue
        if len(cells) > 4 or len(cells) < 2 or not cells[1]:
            raise ClassListError(
                f"{path}, line {number}: needs an id and a name, and at most four columns", "separate columns by tabs"
            )
        try:
            check_safe_name(cells[0], "class id")
        except ValueError as error:
            raise ClassListError(f"{path}, line {number}: {error}", getattr(error, "hint", "")) from None
        _check_new(path, number, cells[0], line_of)
        fields[cells[0]] = cells + [""] * (4 - len(cells))
    _check_some(path, line_of)
    return [
        ClassSpec(
            wnid=id_,
            class_index=index,
            lemmas=(fields[id_][1],),
            hypernyms=(fields[id_][3],) if fields[id_][3] else (),
            definition=fields[id_][2],
        )
        for index, id_ in enumerate(sorted(fields))
    ]


def _check_new(path: Path, number: int, id_: str, line_of: dict[str, int]) -> None:
    if id_ in line_of:
        raise ClassListError(
            f"{path}, line {number}: {id_} stands in line {line_of[id_]} already", "keep one of the two lines"
        )
    line_of[id_] = number


def _check_some(path: Path, line_of: dict[str, int]) -> None:
    if not line_of:
        raise ClassListError(f"{path}, line 1: the list is empty", "write one class id a line")
