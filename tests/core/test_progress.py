"""Progress where standard error is no terminal: log lines."""

import re
import time

import pytest

from imagenet_sd.core.progress import Progress, counted, duration, note, size


def test_log_lines_count_and_tell_a_rate_once_there_is_one(capsys: pytest.CaptureFixture):
    with Progress("images", 1000, done=400, interval=0) as progress:
        progress.update(400)
        progress.advance(100)
        progress.update(1000)
    first, second, last = capsys.readouterr().err.splitlines()
    assert first == "images 400/1000"
    assert re.fullmatch(r"images 500/1000, [\d.]+ images/s, \d+ s left", second)
    assert re.fullmatch(r"images 1000/1000, [\d.]+ images/s, 0 s left", last)


def test_cached_units_do_not_count_for_the_rate(capsys: pytest.CaptureFixture):
    with Progress("images", 1000, interval=0) as progress:
        progress.advance(900, cached=True)
        assert progress.rate() == 0
        progress.advance(100)
        assert 0 < progress.rate() <= 100 / 1e-9 and progress.done == 1000
    assert capsys.readouterr().err.splitlines()[0] == "images 900/1000"


def test_slow_units_have_a_rate_above_zero(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Progress("trials", 3) as progress:
        now = 132.0
        progress.advance(1)
    assert capsys.readouterr().err == "trials 1/3, 0.031 trials/s, 64 s left\n"


def test_log_lines_are_few(capsys: pytest.CaptureFixture):
    with Progress("images", 10) as progress:
        for _ in range(10):
            progress.advance(1)
        progress.update(10)
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5400, "1.5 h"), (129600, "1.5 d")]
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1200, "1.2 kB"), (38_000, "38 kB"), (4.2e6, "4.2 MB"), (11.59e9, "12 GB"),
     (5.649e12, "5.6 TB"), (3e15, "3,000.0 TB")],
)  # fmt: skip
def test_sizes_are_never_zero_for_something(num_bytes: float, text: str):
    assert size(num_bytes) == text


def test_counts_have_their_plural():
    assert [counted(n, "shard") for n in (0, 1, 2, 2000)] == ["0 shards", "1 shard", "2 shards", "2,000 shards"]


def test_brief_work_is_silent_unless_it_takes_long(capsys: pytest.CaptureFixture):
    for interval in (60, 0):
        with Progress("trials", 3, interval=interval, brief=True) as progress:
            for _ in range(3):
                progress.advance(1)
        lines = capsys.readouterr().err.splitlines()
        assert [line.partition(",")[0] for line in lines] == ([] if interval else [f"trials {n}/3" for n in (1, 2, 3)])


def test_notes_are_safe_on_a_terminal(capsys: pytest.CaptureFixture):
    note("a\x1b[31mb\u2028c")
    with Progress("images", 1) as progress:
        progress.say("\x07d")
    assert capsys.readouterr().err == "a\\u001b[31mb\\u2028c\n\\u0007d\n"
