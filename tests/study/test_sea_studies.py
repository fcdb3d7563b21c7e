"""The studies of the SeA paper: the rows and columns of its tables, and both run with small settings."""

import json
from itertools import combinations
from pathlib import Path

from imagenet_sd.study import expand, load_study
from imagenet_sd.study.runner import dry_run_study, run
from tests.conftest import ROOT

COLUMNS = [
    "aircraft",
    "cub",
    "caltech101",
    "cars196",
    "cifar10",
    "cifar100",
    "dtd",
    "flowers",
    "food101",
    "pets",
    "sun397",
]
LETTERS = {
    "timm:resnet50.tv_in1k": "S",
    "timm:resnet50@/data/mocov3_resnet50.pth": "M",
    "timm:resnet50@/data/byol_resnet50.pth": "B",
    "timm:resnet50@/data/coke_resnet50.pth": "C",
}
SMALL = ["evaluate.0.data={faces: 'builtin:faces'}", "evaluate.0.seeds=[0]", "evaluate.0.trials=1",
         "evaluate.0.sea.epochs=2", "evaluate.0.crop_size=32"]  # fmt: skip
S, M = "timm:resnet10t@random", "timm:test_resnet@random"


def path_of(number: int) -> Path:
    return ROOT / "pipelines" / f"sea_table_{number}.yaml"


def test_table_4_has_the_rows_and_columns_of_the_paper():
    cells = [cell.study for cell in expand(load_study(path_of(4)))]
    rows = ["+".join(LETTERS[part] for part in cell.encoder.split("+")) for cell in cells]
    assert rows == ["+".join(chosen) for size in (1, 2, 3, 4) for chosen in combinations("SMBC", size)]
    for cell in cells:
        (section,) = cell.evaluate
        assert list(section.data) == COLUMNS and section.probe == "sea" and section.selection == "auto"
        assert section.sea.etas == (0.0, 0.2, 0.4, 0.8) and len(section.seeds) == 5


def test_table_5_has_the_rows_of_the_paper_and_shares_the_last_with_table_4():
    cells = [cell.study for cell in expand(load_study(path_of(5)))]
    assert [cell.evaluate[0].sea.augmentation for cell in cells] == ["none", "isda", "me_ada", "sea"]
    assert [list(cell.evaluate[0].data) for cell in cells] == [COLUMNS] * 4
    last, *_ = [stage["folder"] for stage in reversed(dry_run_study(load_study(path_of(4)))["stages"])]
    assert last == dry_run_study(load_study(path_of(5)))["stages"][-1]["folder"]


def test_both_run_in_small(tmp_path: Path):
    five = load_study(path_of(5), [*SMALL, f"encoder={S}+{M}"])
    summary = run(five, out=tmp_path, path=str(path_of(5)))
    cells = json.loads(Path(summary["study"]).read_text())["cells"]
    assert [c["factors"]["evaluate.sea.augmentation"] for c in cells] == ["none", "isda", "me_ada", "sea"]
    probes = [json.loads((tmp_path / c["results"][0]).read_text())["results"][0]["probe"] for c in cells]
    assert probes == ["sea-none", "sea-isda", "sea-me_ada", "sea"]
    assert all(c["metrics"]["faces/test"]["top1"] > 0.7 for c in cells)
    four = load_study(path_of(4), [*SMALL, f"grid.0.encoder=['{S}', '{S}+{M}']"])
    again = run(four, out=tmp_path, path=str(path_of(4)))
    assert again["done"] == 2 and Path(again["page"]).is_file()  # one evaluation and the report: S+M was there
