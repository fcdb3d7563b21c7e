"""The typed results: files of the first version are read and repeated, damaged ones are named with the place."""

import json
from pathlib import Path

import jsonschema
import pytest
from jsonschema import ValidationError

from imagenet_sd import pipeline
from imagenet_sd.core.results import EvaluationResults, ResultsError, StudyResults, read_document
from tests.conftest import ROOT

OLD = Path(__file__).parent / "results_78c9a3a"
OLD_FILES = [
    (EvaluationResults, OLD / "results_imagenet.json"),
    (EvaluationResults, OLD / "results_transfer.json"),
    (StudyResults, ROOT / "docs" / "findings" / "digits.json"),
]


@pytest.mark.parametrize(("kind", "path"), OLD_FILES, ids=lambda value: getattr(value, "stem", None))
def test_an_old_file_keeps_its_keys_and_numbers(kind: type[EvaluationResults] | type[StudyResults], path: Path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert read_document(kind, path).to_json() == content
    jsonschema.validate(content, kind.model_json_schema())


def test_old_results_are_shown(tmp_path: Path):
    pipeline.report(sorted(OLD.glob("*.json")), tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text()
    assert ">13.40<" in html and ">98.50<" in html and "<b>98.5<" in html


def test_the_schema_refuses_what_the_reader_refuses(tmp_path: Path):
    content = json.loads((OLD / "results_imagenet.json").read_text())
    changes = [("top1", 1.5), ("top1", "high"), ("top1_interval", [0.1]), ("num_test", 0), ("per_class", {"n1": 2})]
    for key, value in changes:
        broken = {**content, "results": [{**content["results"][0], key: value}]}
        path = tmp_path / "r.json"
        path.write_text(json.dumps(broken))
        with pytest.raises(ValidationError):
            jsonschema.validate(broken, EvaluationResults.model_json_schema())
        with pytest.raises(ResultsError, match=rf"^{path}: results\[0\]\.{key}"):
            read_document(EvaluationResults, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factors": {"guidance_scale": "two"}}, r"cells\[0\]\.factors guidance_scale is not a number"),
        ({"factors": {"num_inference_steps": 0}}, r"cells\[0\]\.factors num_inference_steps is not a number from 1"),
        ({"factors": {"prompt": 3}}, r"cells\[0\]\.factors prompt is not a text"),
        ({"factors": {"multiple": 10**400}}, r"cells\[0\]\.factors multiple is not a number"),
        ({"metrics": {"mnist": {"top1": 0.5}}}, r"cells\[0\]\.metrics\.mnist"),
        ({"metrics": {"mnist/test": {"top1": 2}}}, r"cells\[0\]\.metrics\.mnist/test\.top1 is 2"),
        ({"images": 10**400}, r"cells\[0\]\.images is 1000"),
        ({"id": None}, r"cells\[0\]\.id is None"),
        ({"run": "../x"}, r"cells\[0\]\.run '\.\./x' is outside the folder of the file"),
    ],
)
def test_a_bad_study_is_named_with_its_fault(tmp_path: Path, change: dict, message: str):
    path = tmp_path / "study.json"
    path.write_text(json.dumps({"name": "s", "cells": [{"id": "x", "factors": {}, **change}]}))
    with pytest.raises(ResultsError, match=message) as caught:
        read_document(StudyResults, path)
    assert "\n" not in str(caught.value) and caught.value.hint


def test_a_cell_that_is_there_twice_and_text_that_is_no_name(tmp_path: Path):
    path = tmp_path / "study.json"
    path.write_text(json.dumps({"name": "s", "cells": [{"id": "x", "factors": {}}] * 2}))
    with pytest.raises(ResultsError, match="one cell is there twice"):
        read_document(StudyResults, path)
    factors = {"a\u202eb": "x\u0007y", "list": [1], "empty": "", "none": None, "flag": True}
    path.write_text(json.dumps({"name": "s\n" * 3, "cells": [{"id": "x" * 1000, "factors": factors}]}))
    study = read_document(StudyResults, path)
    assert study.name == "s s s" and len(study.cells[0].id) == 400
    assert study.cells[0].factors == {"a\ufffdb": "x\ufffdy", "flag": "True"}
