"""Progress where standard error is no terminal: log lines."""

import re

import pytest

from imagenet_sd.core.progress import Progress, duration


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
