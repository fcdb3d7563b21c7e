"""MATLAB files: what scipy reads of them, and that a damaged one cannot take the program with it."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from imagenet_sd.data.matfile import parse_output, read_mat


@pytest.mark.parametrize("compressed", [False, True])
def test_variables_are_those_that_were_written(compressed: bool, tmp_path: Path):
    rows = np.array([(3, "00001.jpg"), (1, "00002.jpg")], dtype=[("class", object), ("fname", object)])[None]
    one = np.array([(7, "x.jpg")], dtype=[("class", object), ("fname", object)])[None]
    names = np.array(["AM General", "Acura RL"], dtype=object)[None]
    values = {"labels": np.array([[2, 1, 2]], np.uint8), "annotations": rows, "class_names": names, "one": one, "n": 5}
    savemat(tmp_path / "x.mat", values, do_compression=compressed)
    assert read_mat(tmp_path / "x.mat") == {
        "labels": [2, 1, 2],
        "annotations": {"class": [3, 1], "fname": ["00001.jpg", "00002.jpg"]},
        "class_names": ["AM General", "Acura RL"],
        "one": {"class": [7], "fname": ["x.jpg"]},
        "n": [5],
    }


def test_damaged_files_and_crashes_of_the_reader_are_errors(tmp_path: Path):
    (tmp_path / "x.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        read_mat(tmp_path / "x.mat")
    with pytest.raises(FileNotFoundError):
        read_mat(tmp_path / "y.mat")
    with pytest.raises(ValueError, match="the reader crashed"):
        parse_output(-11, b"")
    with pytest.raises(ValueError, match=r"^damaged$"):
        parse_output(1, b"damaged\nmore")


def test_a_file_that_crashes_scipy_is_refused(tmp_path: Path):
    """Found by fuzzing: with zeros inside of its structure scipy 1.18 ends the process with a segmentation fault."""
    from imagenet_sd.core.errors import DatasetError
    from imagenet_sd.data.transfer import open_transfer
    from tests.data.test_transfer import BUILDERS

    BUILDERS["cars196"](tmp_path)
    path = tmp_path / "stanford_cars/cars_test_annos_withlabels.mat"
    data = path.read_bytes()
    path.write_bytes(data[:425] + bytes(98) + data[425:])
    with pytest.raises(DatasetError, match=r"cars_test_annos_withlabels\.mat: "):
        open_transfer("cars196", tmp_path, "test")
