"""The container files: a linter's word on the Dockerfile, and what both say checked against the project."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import validate

from imagenet_sd.cli import app
from tests.conftest import ROOT

DOCKERFILE = ROOT / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
WORDS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
DEVICE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["capabilities"],
    "properties": {"driver": {"type": "string"}, "count": {"enum": ["all"]}, "capabilities": WORDS},
}


def nested(*names: str, leaf: dict) -> dict:
    """An object schema that holds exactly these keys, one inside the other."""
    for name in reversed(names):
        leaf = {"type": "object", "additionalProperties": False, "required": [name], "properties": {name: leaf}}
    return leaf


# The part of the Compose Specification that is used here; another key is a typing error, which `up` would ignore.
SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["image", "build", "entrypoint"],
    "properties": {
        "image": {"type": "string"},
        "build": {
            "type": "object",
            "additionalProperties": False,
            "required": ["context", "dockerfile"],
            "properties": {"context": {"type": "string"}, "dockerfile": {"type": "string"}},
        },
        "entrypoint": WORDS,
        "volumes": WORDS,
        "environment": {"type": "object", "additionalProperties": {"type": "string"}},
        "init": {"type": "boolean"},
        "stop_grace_period": {"type": "string", "pattern": r"^(\d+[hms])+$"},
        "shm_size": {"type": "string", "pattern": "^[0-9]+(b|kb|mb|gb)$"},
        "deploy": nested("resources", "reservations", "devices", leaf={"type": "array", "items": DEVICE}),
    },
}


def hadolint(path: Path) -> subprocess.CompletedProcess:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint has no package for this platform")
    return subprocess.run([program, str(path)], capture_output=True, text=True, check=False)


def test_hadolint_has_nothing_to_say(tmp_path: Path):
    done = hadolint(DOCKERFILE)
    assert done.returncode == 0, done.stdout
    worse = tmp_path / "Dockerfile"
    worse.write_text(re.sub(r"^FROM .*$", "FROM nvidia/cuda:latest", TEXT, flags=re.MULTILINE))
    assert "DL3007" in hadolint(worse).stdout


def test_image_is_pinned_and_runs_without_privileges():
    (base,) = re.findall(r"^FROM (\S+)$", TEXT, flags=re.MULTILINE)
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu\d\d\.04", base)
    (user,) = re.findall(r"^USER (\d+)$", TEXT, flags=re.MULTILINE)
    assert int(user) >= 1000 and f"--uid {user}" in TEXT
    assert "pip install --constraint constraints.txt" in TEXT
    major = re.search(r"^torch==\d", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    cuda = re.search(r"^cuda-toolkit==(\d+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert major and cuda and base.startswith(f"nvidia/cuda:{cuda[1]}.")


def test_everything_that_is_copied_exists_and_is_let_through():
    let_through = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in re.findall(r"^COPY (.+) \S+$", TEXT, flags=re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists() and f"!{source}" in let_through


def test_compose_file_follows_the_specification_and_names_commands():
    assert set(COMPOSE) == {"name", "x-tool", "services", "volumes"}
    commands = app.commands
    for service in COMPOSE["services"].values():
        validate(service, SERVICE)
        context = (ROOT / "docker" / service["build"]["context"]).resolve()
        assert context / service["build"]["dockerfile"] == DOCKERFILE
        assert service["entrypoint"][0] == "imagenet-sd" and service["entrypoint"][1] in commands
        for volume in service["volumes"]:
            source, target = volume.split(":")
            assert target in TEXT and (source.startswith("./") or source in COMPOSE["volumes"])
