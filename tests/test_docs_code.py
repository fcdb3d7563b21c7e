"""The code of the documentation runs: shell lines and Python blocks of a page, in order, in an empty folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = ["quickstart", "systems", "files", "determinism", "extend"]


PREAMBLE = """
import sys
from imagenet_sd.cli import main

def imagenet_sd_command(*arguments):
    sys.argv = ["imagenet-sd", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
"""


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of every fenced block that is code to run."""
    return re.findall(r"^```(sh|python)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path):
    """Python blocks of a page share their names and their process; shell lines run in it, where they stand."""
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    folder = tmp_path / "work"
    folder.mkdir()
    code_blocks = blocks((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    assert any(language == "python" for language, _ in code_blocks)
    lines = [PREAMBLE]
    for language, code in code_blocks:
        if language == "python":
            lines.append(code)
            continue
        for line in code.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "imagenet-sd", line
            lines.append(f"imagenet_sd_command(*{arguments!r})")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.stem)
def test_links_of_a_page_exist(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_page_is_linked_from_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in [*PAGES, "cluster", "walkthrough"]:
        assert f"(docs/{page}.md)" in readme
