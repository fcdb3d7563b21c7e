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


def test_a_name_stands_for_content_that_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file has all its content on the disk before its name shows it; its name is on the disk when it is published."""
    path = tmp_path / "x.json"
    synced: dict[int, bytes | None] = {}  # inode -> the content of x.json, or None without one, when it was synced last
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        real_fsync(fd)
        synced[os.fstat(fd).st_ino] = path.read_bytes() if path.exists() else None

    def replace(source: Path, target: Path) -> None:
        assert os.stat(source).st_ino in synced, "renamed before its content was on the disk"
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    assert synced[os.stat(tmp_path).st_ino] == path.read_bytes(), "the folder was not synced after the rename"


def test_unreadable_json_is_one_line(tmp_path: Path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DatasetError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b", "x" * 101, "a\n"])
def test_names_that_leave_their_folder_are_refused(name: str):
    with pytest.raises(ImagenetSDError):
        check_safe_name(name, "class id")
