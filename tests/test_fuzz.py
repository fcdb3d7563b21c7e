"""Every reader on mutated files: a result or one line, in seconds, in bounded memory. `tests/fuzz` has the long run."""

from pathlib import Path

import pytest
import torch

from tests.fuzz.formats import FORMATS
from tests.fuzz.run import Format, Outcome, _read, fuzz

SLOW_TO_READ = {"transfer, cars196": 20, "transfer, flowers": 20, "run folder": 50, "class list": 50}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_mutated_files_are_read_or_refused_in_one_line(name: str, tmp_path: Path):
    torch.set_num_threads(1)
    outcome = fuzz(name, FORMATS[name], tmp_path / "f", range(SLOW_TO_READ.get(name, 150)))
    assert not outcome.findings, outcome.line()


def test_the_fuzzer_finds_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A reader with a crash, one that hangs, one whose error has two lines; and the same inputs each time."""

    def crash(folder: Path) -> None:
        if (folder / "x").read_bytes() != b"sound":
            raise KeyError("x")

    def hang(folder: Path) -> None:
        while (folder / "x").read_bytes() != b"sound":
            pass

    def two_lines(folder: Path) -> None:
        if (folder / "x").read_bytes() != b"sound":
            raise OSError("a\nb")

    monkeypatch.setattr("tests.fuzz.run.SECONDS", 0.02)
    for number, (read, kind) in enumerate([(crash, "KeyError at ?"), (hang, "hang"), (two_lines, "2 lines")]):
        seen: list[bytes] = []

        def mutate(data: bytes, rng, seen: list[bytes] = seen) -> bytes:
            seen.append(rng.randbytes(4))
            return seen[-1]

        what = Format(make=lambda f: (f / "x").write_bytes(b"sound"), files={"x": mutate}, read=read)
        outcomes = [fuzz("x", what, tmp_path / f"{number}{again}", range(5)) for again in "ab"]
        assert all(outcome.findings == {kind: [0, 1, 2, 3, 4]} for outcome in outcomes), outcomes
        assert seen[:5] == seen[5:] and len(set(seen)) == 5
    fine = Format(make=lambda f: None, files={}, read=lambda f: None)
    assert _read(fine, tmp_path, Outcome(name="x")) == ""
