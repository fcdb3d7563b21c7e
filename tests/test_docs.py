"""Every command explains itself and stands in the README."""

import re

import pytest

from imagenet_sd.cli import app
from tests.conftest import ROOT

COMMANDS = app.commands
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_help_and_stands_in_the_readme(name: str):
    command = COMMANDS[name]
    assert len(command.help or "") > 20
    assert f"imagenet-sd {name}" in README
    for parameter in command.params:
        assert parameter.name == "help" or parameter.help, f"{name}: {parameter.name} has no help"


def test_readme_has_the_two_commands_and_the_gpu_command():
    for command in ("make demo", "make test", "imagenet-sd generate --prompt c_dc --scale 2"):
        assert command in README


def test_readme_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
