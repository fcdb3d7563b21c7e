import os
from pathlib import Path

import pytest

from imagenet_sd.core.errors import DatasetError, ImagenetSDError
from imagenet_sd.core.files import atomic_write, check_safe_name, read_json, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")

    def half(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        atomic_write(path, half)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_new_content_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), real_fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), real_replace(a, b)))
    write_json(tmp_path / "x.json", {"a": 1})
    assert calls == ["fsync", "replace", "fsync"]
    assert read_json(tmp_path / "x.json") == {"a": 1}


def test_unreadable_json_is_one_line(tmp_path: Path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DatasetError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b", "x" * 101, "a\n"])
def test_names_that_leave_their_folder_are_refused(name: str):
    with pytest.raises(ImagenetSDError):
        check_safe_name(name, "class id")
