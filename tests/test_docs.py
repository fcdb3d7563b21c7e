"""Every command explains itself and stands in the README; guides for developers name what is in the code."""

import re
from functools import reduce
from importlib import import_module
from pathlib import Path

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


LINKED = re.compile(r"\[`([^`]+)`\]\(([^)#]+)\)")  # [`name`](path)


def attribute(path: Path, name: str) -> object:
    """What a dotted name means in a module of the package; AttributeError where there is no such thing."""
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    return reduce(getattr, name.split("."), module)


def test_every_name_of_the_walkthrough_resolves():
    """A linked name stands in the linked module, and a dotted name hangs on a linked or public one."""
    page = ROOT / "docs" / "walkthrough.md"
    text = page.read_text(encoding="utf-8")
    home: dict[str, Path] = {}
    for name, target in LINKED.findall(text):
        path = (page.parent / target).resolve()
        assert path.exists(), target
        if path.suffix == ".py" and not name.endswith(".py"):
            assert attribute(path, name) is not None, f"{name} in {target}"
            home[name.partition(".")[0]] = path
    assert len(home) > 40
    dotted = set(re.findall(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(\w*\))?`", text))
    for name in dotted:
        head, _, _ = name.partition(".")
        if name.rpartition(".")[2] not in ("json", "yaml", "html", "md"):
            assert attribute(home[head], name) is not None, name


def test_the_walkthrough_has_no_step_back():
    """Whatever a function takes was given by an earlier one, or comes from the user."""
    text = (ROOT / "docs" / "walkthrough.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| [`")]
    given = {"the name of a list", "a folder", "`GenerationConfig`", "`TrainConfig`", "`EvalConfig`"}
    assert len(rows) > 10
    for function, takes, gives in rows:
        assert set(takes.split(", ")) <= given, function
        given |= set(gives.split(", "))
    sections = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    linked = [name for name, _ in LINKED.findall(text.partition(f"## {sections[0]}")[2])]
    order = [linked.index(LINKED.findall(function)[0][0]) for function, _, _ in rows]
    assert order == sorted(order), "the sections follow the table"


def test_files_named_by_the_map_of_contributing_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert len(links) > 10
    for target in links:
        assert (ROOT / target).exists(), target
    for name, target in LINKED.findall(text):
        if target.endswith(".py") and "/" not in name:
            assert attribute(ROOT / target, name) is not None, f"{name} in {target}"
