"""The rules of the house: who may import whom, what stays light, how long a file may be."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "imagenet_sd"
ROOMS = {  # room -> the rooms that it may import, beside `core` and itself
    "core": (),
    "prompts": (),
    "generation": ("prompts", "storage"),
    "storage": ("prompts",),  # the dataset handle computes the prompts of its plan
    "data": ("prompts", "storage"),  # WordNet and the class lists lie in `prompts`
    "training": ("data", "storage"),
    "evaluation": ("data",),
    "report": ("data", "storage"),  # the dataset handle
    "pipeline": ("prompts", "generation", "storage", "data", "training", "evaluation", "report"),
    "study": ("prompts", "generation", "data", "training", "evaluation", "pipeline"),
    "cli": ("prompts", "generation", "training", "evaluation", "pipeline", "study"),
}
LAYOUT = re.compile(r"""train-|\.manifests\b|round-|/\.work\b|["']\.(?:work|export)""")
HEAVY = {"torch", "torchvision", "timm", "diffusers", "transformers", "datasets", "sklearn", "pyarrow", "accelerate",
         "pandas", "pydantic", "matplotlib"}  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Names of the modules that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            if node.module == "imagenet_sd":
                found |= {f"imagenet_sd.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_their_neighbours(path: Path):
    if len(path.relative_to(PACKAGE).parts) == 1:
        return  # the package itself: its public names stand in a stub
    allowed = {"core", room_of(path), *ROOMS[room_of(path)]}
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "imagenet_sd" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] in allowed, f"{path} imports {module}"


def test_rooms_form_no_circle():
    for room, below in ROOMS.items():
        for other in below:
            assert room not in ROOMS[other], f"{room} and {other} import each other"


def test_modules_form_no_circle():
    """Imports inside functions count; those for the type checker alone do not."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    graph = {}
    for name, path in names.items():
        text = re.sub(
            r"^if TYPE_CHECKING:\n(?:(?: {4}.*)?\n)+", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
        used = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names} | {n.module for n in nodes}
        graph[name] = used & names.keys()
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/config.py")), ids=lambda p: p.parent.name)
def test_configs_import_nothing_heavy(path: Path):
    for module in imports(path):
        assert module.split(".")[0] not in HEAVY, f"{path} imports {module}"


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if p.parent == PACKAGE or p.parent.name in ("cli", "pipeline", "study")],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_the_top_imports_nothing_heavy_at_import_time(path: Path):
    for module in imports(path, top_level_only=True):
        assert module.split(".")[0] not in HEAVY


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_names_in_a_dataset_folder_are_spelt_in_one_file(path: Path):
    spelt = LAYOUT.findall(path.read_text(encoding="utf-8"))
    assert bool(spelt) == (path == PACKAGE / "core" / "layout.py"), f"{path} spells {spelt}; use core/layout.py"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import imagenet_sd"],
        ["-m", "imagenet_sd", "--help"],
        ["-m", "imagenet_sd", "prompts", "--classes", "digits-10"],
        ["-m", "imagenet_sd", "generate", "--model", "embedded", "--dry-run"],
        ["-m", "imagenet_sd", "generate", "--prompt", "c_dc", "--scale", "2", "--dry-run"],
    ],
    ids=" ".join,
)
def test_light_commands_leave_torch_alone(arguments: list[str]):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(re.findall(r"\|\s+([\w.]+)$", done.stderr, flags=re.MULTILINE))
    assert "imagenet_sd" in loaded
    assert not {name for name in loaded if name.split(".")[0] in {"torch", "diffusers", "transformers"}}


def test_specs_are_taken_apart_in_one_file():
    """No text begins with the prefix of a spec but in `core/specs.py`; the paper's rows name their encoders."""
    prefix = re.compile(r"(imagefolder|parquet|hf|builtin|torchvision|imagenet|timm):")
    for path in FILES:
        if path.relative_to(PACKAGE).as_posix() not in ("core/specs.py", "report/paper.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                text = node.value if isinstance(node, ast.Constant) else None
                assert not (isinstance(text, str) and prefix.match(text)), f"{path}:{node.lineno}: {text!r}"  # pyright: ignore[reportAttributeAccessIssue]


def test_public_names_resolve():
    import imagenet_sd

    for name in imagenet_sd.__all__:
        assert getattr(imagenet_sd, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = imagenet_sd.no_such_name


def test_the_project_speaks_of_itself_alone():
    """No absolute path of a developer's machine stands in a text file of the project."""
    for path in [*FILES, *ROOT.glob("*.md"), *ROOT.glob("prompts/**/*"), *ROOT.glob("scripts/*")]:
        if path.is_file():
            assert not re.search(r"/home/\w|/Users/\w|/root/", path.read_text(encoding="utf-8")), path


def test_the_training_loop_knows_no_single_objective():
    loop = imports(PACKAGE / "training" / "loop.py")
    assert {name for name in loop if ".objectives" in name} == {"imagenet_sd.training.objectives"}


def test_the_package_needs_no_checkout():
    """Paths beside the code have two homes: data files that ship in the wheel, and the embedded model; and the stub."""
    assert {str(path.relative_to(PACKAGE)) for path in FILES if "__file__" in path.read_text(encoding="utf-8")} == {
        "__init__.py",
        "core/files.py",
        "generation/models.py",
    }
