"""The example notebook runs from top to bottom, and what it says of the encoder is better than chance."""

import os
import re
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs" / "example.ipynb"


def texts(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")


@pytest.mark.slow  # its commands are those of the quickstart
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    said = texts(notebook)
    assert "400 images in 4 shards" in said
    match = re.search(r"top-1 on real digits: ([\d.]+)%", said)
    assert match and float(match[1]) > 30  # chance is 10%
    kinds = [kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert kinds.count("image/png") == 2  # the sheet and the bars


def test_the_notebook_as_stored_names_no_folder_of_a_machine():
    stored = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|work|Users)/", stored)
    assert texts(nbformat.read(NOTEBOOK, as_version=4)).strip(), "stored without its outputs"
