"""WordNet 3.0 nouns: read once through NLTK into a small SQLite extract, then answered from there in milliseconds.

ImageNet's class ids are noun offsets of WordNet 3.0; in any other version they point at other words.
"""

import os
import re
import sqlite3
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagenet_sd.core.errors import WordNetError
from imagenet_sd.core.files import atomic_write, cache_dir, sha256_file

_HINT = (
    "install WordNet 3.0: `python -m nltk.downloader wordnet`, or on Debian/Ubuntu `apt-get install wordnet-base`, "
    "or set IMAGENET_SD_WORDNET to a folder that holds its data.noun"
)
_EXTRACT_VERSION = 4
# The 45 lexicographer files, in their numbering; Debian's package leaves this file out and NLTK insists on it.
_LEXNAMES = """
    adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition
    noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object
    noun.person noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape
    noun.state noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition
    verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession
    verb.social verb.stative verb.weather adj.ppl
"""
_POS_NUMBER = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Synset:
    """A noun synset: its wnid, lemmas, the wnids of its direct hypernyms, and its definition without examples."""

    wnid: str
    lemmas: tuple[str, ...]
    hypernyms: tuple[str, ...]
    definition: str


class WordNet:
    """The noun synsets of WordNet 3.0, read-only.

    Args:
        extract: the SQLite file that `open_wordnet` made.
    """

    def __init__(self, extract: Path):
        self._db = sqlite3.connect(f"file:{extract}?mode=ro&immutable=1", uri=True)

    def get(self, wnids: Iterable[str]) -> dict[str, Synset]:
        """Look up synsets by wnid; an id that is no noun synset is left out of the result."""
        query = "SELECT * FROM synset WHERE wnid = ?"
        rows = (self._db.execute(query, (wnid,)).fetchone() for wnid in wnids)
        return {row[0]: _synset(row) for row in rows if row}

    def __iter__(self) -> Iterator[Synset]:
        """All noun synsets in the order of their ids."""
        return map(_synset, self._db.execute("SELECT * FROM synset ORDER BY wnid"))

    def __len__(self) -> int:
        return self._db.execute("SELECT count(*) FROM synset").fetchone()[0]


def _synset(row: tuple[str, str, str, str]) -> Synset:
    return Synset(wnid=row[0], lemmas=tuple(row[1].split("\n")), hypernyms=tuple(row[2].split()), definition=row[3])


def _candidates() -> Iterator[Path]:
    """Places where WordNet may be: a named folder, NLTK's data folders, Debian's package."""
    if named := os.environ.get("IMAGENET_SD_WORDNET"):
        yield Path(named)
        return
    roots = [Path(p) for p in os.environ.get("NLTK_DATA", "").split(os.pathsep) if p]
    roots += [Path.home() / "nltk_data", Path(sys.prefix) / "nltk_data", Path(sys.prefix) / "share" / "nltk_data"]
    roots += [Path(p) / "nltk_data" for p in ("/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib")]
    for root in roots:
        yield root / "corpora" / "wordnet"
        yield root / "corpora" / "wordnet.zip"
    yield Path("/usr/share/wordnet")


def find_wordnet() -> Path | None:
    """The first WordNet database on this machine (a folder or NLTK's zip), of whatever version; None without one."""
    for place in _candidates():
        if (place / "data.noun").is_file() or (place.suffix == ".zip" and place.is_file()):
            return place
    return None


def wordnet_facts() -> dict[str, Any]:
    """Which WordNet is used, without reading all of it.

    Returns:
        `path` and `version` (None where there is none, or where it does not say), `extract` (whether the cached one was
        built), and `hint`: how to get version 3.0, None where it is there.
    """
    source = find_wordnet()
    if source is None:
        return {"path": None, "version": None, "extract": False, "hint": _HINT}
    version = _stated_version(source)
    hint = None if version == "3.0" else _HINT
    return {"path": str(source), "version": version, "extract": _extract_path(source).is_file(), "hint": hint}


def _stated_version(source: Path) -> str | None:
    """The version that the licence text on top of `data.noun` names."""
    data_noun = (zipfile.Path(source, "wordnet/") if source.suffix == ".zip" else source) / "data.noun"
    with data_noun.open("rb") as file:
        said = re.search(rb"WordNet (\d+\.\d+) Copyright", file.read(4096))
    return said[1].decode() if said else None


def open_wordnet() -> WordNet:
    """Open WordNet 3.0, building the cached extract on first use (about 15 seconds, then milliseconds).

    Raises:
        WordNetError: there is none, it is damaged, or it is not version 3.0.
    """
    source = find_wordnet()
    if source is None:
        raise WordNetError("WordNet 3.0 was not found on this machine", _HINT)
    extract = _extract_path(source)
    for attempt in range(2):
        if not extract.is_file():
            print("reading WordNet once (about 15 seconds) ...", file=sys.stderr)
            extract.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(extract, lambda path: _build_extract(source, path))
        try:
            wordnet = WordNet(extract)
            wordnet.get(["n00001740"])
            return wordnet
        except sqlite3.DatabaseError:
            if attempt:
                raise WordNetError(f"{extract} cannot be read", "delete the file; it will be built again") from None
            extract.unlink()
    raise AssertionError


def _extract_path(source: Path) -> Path:
    file = source if source.suffix == ".zip" else source / "data.noun"
    return cache_dir() / f"wordnet-{_EXTRACT_VERSION}-{sha256_file(file)[:16]}.sqlite"


def _build_extract(source: Path, out: Path) -> None:
    from nltk.corpus.reader import WordNetCorpusReader
    from nltk.data import path as nltk_path

    with stage_wordnet(source) as folder:
        root = str(folder.parent.parent)
        nltk_path.append(root)  # NLTK refuses to read outside of its search path
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # NLTK regrets that there is no multilingual data
                reader = WordNetCorpusReader(str(folder), None)
            version = reader.get_version()
            if version != "3.0":
                raise WordNetError(f"{source} is WordNet {version}; class ids need version 3.0", _HINT)
            raw = _raw_nouns(folder / "data.noun")
            rows = [_row(synset, raw) for synset in reader.all_synsets("n")]
        except (OSError, LookupError, ValueError, AssertionError) as error:
            if isinstance(error, WordNetError):
                raise
            raise WordNetError(f"{source} cannot be read as WordNet: {error}", _HINT) from None
        finally:
            nltk_path.remove(root)
    db = sqlite3.connect(out)
    db.execute(
        "CREATE TABLE synset (wnid TEXT PRIMARY KEY, lemmas TEXT, hypernyms TEXT, definition TEXT) WITHOUT ROWID"
    )
    db.executemany("INSERT INTO synset VALUES (?, ?, ?, ?)", rows)
    db.commit()
    db.close()


def _row(synset, raw: dict[int, tuple[list[int], str]]) -> tuple[str, str, str, str]:
    parents, gloss = raw[synset.offset()]
    # NLTK cuts the quoted examples out and leaves what stood between them (8 of ImageNet-21k's glosses, "; :")
    definition = min(synset.definition(), gloss.split('; "')[0], key=len).rstrip(" ;:,")
    return (
        f"n{synset.offset():08d}",
        "\n".join(name.replace("_", " ") for name in synset.lemma_names()),
        " ".join(f"n{offset:08d}" for offset in parents),
        definition,
    )


def _raw_nouns(data_noun: Path) -> dict[int, tuple[list[int], str]]:
    """Offsets of the direct (and instance) hypernyms in the database's order, which NLTK forgets; and the gloss."""
    nouns = {}
    for line in data_noun.read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):  # the licence text
            data, _, gloss = line.partition(" | ")
            words = data.split()
            pointers = words[5 + 2 * int(words[3], 16) :]  # wndb(5WN): symbol, offset, part of speech, source/target
            parents = [int(pointers[i + 1]) for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")]
            nouns[int(words[0])] = (parents, gloss.strip())
    return nouns


@contextmanager
def stage_wordnet(source: Path) -> Iterator[Path]:
    """A temporary copy of a WordNet database laid out as NLTK wants it: `corpora/wordnet`, with `lexnames`.

    Args:
        source: a folder with `data.noun`, or NLTK's zip.

    Yields:
        The folder of the copy.
    """
    with tempfile.TemporaryDirectory(prefix="imagenet-sd-wordnet-") as temporary:
        folder = Path(temporary) / "corpora" / "wordnet"
        _copy_database(source, folder)
        yield folder


def _copy_database(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    names = [f"{kind}.{pos}" for kind in ("data", "index") for pos in _POS_NUMBER]
    names += [f"{pos}.exc" for pos in _POS_NUMBER]
    database = zipfile.Path(source, "wordnet/") if source.suffix == ".zip" else source
    for name in [*names, "lexnames"]:
        if (database / name).is_file():
            (folder / name).write_bytes((database / name).read_bytes())
    if not (folder / "lexnames").exists():
        lines = (f"{i:02d}\t{name}\t{_POS_NUMBER[name.split('.')[0]]}\n" for i, name in enumerate(_LEXNAMES.split()))
        (folder / "lexnames").write_text("".join(lines))
    (folder / "index.sense").touch()  # NLTK opens it, and needs its content only for sense keys
