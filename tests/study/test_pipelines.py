"""The shipped studies: each reads, plans without torch, and some of them run with small settings put in."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from imagenet_sd.generation.models import ModelIdentity
from imagenet_sd.study import Study, expand, load_study
from imagenet_sd.study.document import _factors
from imagenet_sd.study.planner import Planner, unique_stages
from imagenet_sd.study.runner import dry_run_study, run
from imagenet_sd.training.self_supervised import METHODS
from tests.conftest import ROOT, CliRun

FILES = sorted((ROOT / "pipelines").glob("*.yaml"))
TINY = [
    "generate.model=embedded", "generate.classes=digits-10", "generate.match=", "generate.images_per_class=2",
    "generate.num_inference_steps=2", "generate.shard_size=10", "generate.batch_size=10", "train.steps=2",
    "train.optimizer.batch_size=10", "train.model.backbone=resnet10t", "train.crops.global_crop_size=32",
    "train.crops.local_crops_number=0", "train.val_crop_size=32", "train.validation=",
]  # fmt: skip


def pipeline(name: str) -> Study:
    return load_study(ROOT / "pipelines" / f"{name}.yaml")


def as_options(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def test_the_studies_are_there():
    assert {path.stem for path in FILES} >= {
        "mini", "mini_digits", "mini_findings", "photo_findings", "imagenet100", "imagenet100_table_5_1",
        "imagenet100_table_5_2", "imagenet1k_c_dc", "transfer_table_5_3", "cog_table_5_4",
        "imagenet1k_table_5_2", "imagenet100_figure_5_4", "imagenet100_figure_5_5", "imagenet100_figure_5_6",
        "trex_table_4_1", "trex_table_d_1",
        "self_supervised", "stablerep",
    }  # fmt: skip


def test_all_plan_without_torch_and_without_writing(tmp_path: Path):
    code = (
        "import sys, json\nfrom pathlib import Path\nfrom imagenet_sd.study.runner import dry_run_study\n"
        "from imagenet_sd.study import load_study\n"
        "for p in sys.argv[1:]:\n"
        "    plan = dry_run_study(load_study(Path(p)), path=p)\n"
        "    assert plan['cells'] and len(plan['stages']) >= plan['cells']\n"
        "    assert not any(stage['done'] for stage in plan['stages'])\n"
        "    print(json.dumps([plan['name'], plan['cells']]))\n"
        "assert not {'torch', 'diffusers', 'transformers', 'sklearn', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, FILES)], capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cells = dict(map(json.loads, done.stdout.splitlines()))
    assert cells["mini"] == 1 and cells["imagenet100_table_5_2"] == 12
    assert cells["mini_findings"] == 51 and cells["photo_findings"] == 63
    assert (cells["self_supervised"], cells["stablerep"]) == (30, 6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["self_supervised", "stablerep"])
def test_the_method_tells_cells_apart(name: str, monkeypatch: pytest.MonkeyPatch):
    """It is a factor in `study.json` and in the name of the run's folder; three seeds share all other factors."""
    identity = ModelIdentity(model_id="embedded", weights_sha256="0" * 64)
    monkeypatch.setattr("imagenet_sd.study.planner.offline_identity", lambda config: identity)
    planned = Planner(expand(pipeline(name)), Path("out"), f"{name}.yaml").plan()
    seeds: dict[str, list[int]] = {}
    for cell in planned:
        factors = _factors(cell, None)
        assert factors["method"] == cell.cell.study.train.recipe and factors["method"].split("-")[0] in METHODS
        assert factors["method"].split("+")[0] in cell.folder("train").name
        seeds.setdefault(json.dumps({k: v for k, v in factors.items() if "seed" not in k}), []).append(factors["seed"])
    assert all(sorted(group) == [0, 1, 2] for group in seeds.values()) and len(seeds) == len(planned) / 3


def test_stages_keep_the_folders_and_inputs_of_version_0_1_0(monkeypatch: pytest.MonkeyPatch):
    """What a study made then is up to date now: hashes cover the values of settings under their first names."""
    run_folder = "runs/c_dc_scale2_steps20_x1_strong_seed0-0f8b4463"
    weights = "1c2e7698340ac76360923f681be8586ee4dc620aec79b946a76bcc7ca90b52a0"  # of the embedded model at that time
    embedded = ModelIdentity(model_id="embedded", weights_sha256=weights)
    monkeypatch.setattr("imagenet_sd.study.planner.offline_identity", lambda config: embedded)
    planner = Planner(expand(pipeline("mini_digits")), Path("out"), "mini_digits.yaml")
    assert {stage.folder.as_posix(): stage.inputs for stage in unique_stages(planner.plan())} == {
        "out/datasets/digits-10-sd_c_dc_scale2_steps20_seed0-b5c58161": "864d635859177c93",
        f"out/{run_folder}": "0f8b4463fd5d2da4",
        f"out/{run_folder}/evaluate-imagenet-59d576ea": "59d576eaa6251fc9",
        f"out/{run_folder}/evaluate-transfer-c4e8bf90": "c4e8bf90e2157a79",
        f"out/{run_folder}/evaluate-analysis-242a93b6": "242a93b6c067e22b",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_data_name_is_known(path: Path):
    from imagenet_sd.core.specs import DataSpec
    from imagenet_sd.data.imagenet_family import family_members
    from imagenet_sd.data.transfer import TRANSFER_SETS

    known = {"torchvision": set(TRANSFER_SETS), "imagenet": {member.name for member in family_members()}}
    study = load_study(path)
    assert study.evaluate and all(section.data for section in study.evaluate)
    for section in study.evaluate:
        for name, spec in section.data.items():
            parsed = DataSpec.parse(spec)
            if parsed.kind in known:
                assert parsed.name in known[parsed.kind], spec
                assert parsed.name == name, f"{path.name}: {name} is {spec}"


def test_table_5_2_has_the_rows_of_the_thesis():
    cells = [cell.study for cell in expand(pipeline("imagenet100_table_5_2"))]
    rows = [
        (c.generate.guidance_scale, c.generate.prompt, c.generate.multiple) for c in cells if not c.train.data
    ]  # Tab. 5.2, rows 2 to 12
    prompts = ("c", "c_hc", "c_dc", "c_hc_b")
    assert rows == [
        *((7.5, prompt, 1.0) for prompt in prompts),
        *((2.0, prompt, 1.0) for prompt in prompts),
        *((2.0, "c_dc", multiple) for multiple in (10.0, 20.0, 50.0)),
    ]
    assert sum(bool(c.train.data) for c in cells) == 1
    plan = dry_run_study(pipeline("imagenet100_table_5_2"))
    datasets = [stage for stage in plan["stages"] if stage["stage"] == "generate"]
    assert len(datasets) == 8 and plan["images"] == 100 * 1300 * (7 + 50)  # 1x, 10x, 20x are rounds of the 50x
    for study in cells:
        config = study.train.config()
        assert (config.model.backbone, config.optimizer.epochs, config.optimizer.batch_size) == ("resnet50", 100, 256)
        assert study.generate.num_inference_steps == 50 and study.generate.model == "CompVis/stable-diffusion-v1-4"


def test_tables_that_share_a_folder_share_their_runs():
    def runs(name: str) -> set[str]:
        return {s["folder"] for s in dry_run_study(pipeline(name))["stages"] if s["stage"] == "train"}

    assert pipeline("imagenet100_table_5_1").out == pipeline("imagenet100_table_5_2").out == pipeline("imagenet100").out
    assert runs("imagenet100") < runs("imagenet100_table_5_2")
    assert len(runs("imagenet100_table_5_1") & runs("imagenet100_table_5_2")) == 2  # c at 7.5, and real, with DINO's
    assert runs("cog_table_5_4") < runs("imagenet1k_c_dc") < runs("imagenet1k_table_5_2") < runs("transfer_table_5_3")
    assert runs("imagenet100_figure_5_6") < runs("imagenet100_table_5_2")
    assert len(runs("trex_table_4_1") & runs("trex_table_d_1")) == 2  # t-ReX_1 with d_h = 2048 and 4096


def test_the_findings_vary_one_factor_at_a_time_and_train_equally_long():
    from imagenet_sd.study.stages import nearest_epochs

    study = pipeline("mini_findings")
    cells = [cell.study for cell in expand(study)]
    base = {"prompt": "c_dc", "guidance_scale": 2.0, "num_inference_steps": 25, "multiple": 1.0}
    seen: Counter[str] = Counter()
    for cell in cells:
        if cell.train.data:
            seen[f"real {cell.train.data} {cell.train.config().augmentation}"] += 1
            continue
        different = [key for key, value in base.items() if getattr(cell.generate, key) != value]
        different += ["augmentation"] * (cell.train.config().augmentation != "dino")
        assert len(different) <= 1 and cell.generate.seed == cell.train.config().seed
        seen[different[0] if different else "base"] += 1
    assert {key: seen[key] // 3 for key in ("base", *base, "augmentation")} == {
        "base": 1, "prompt": 2, "guidance_scale": 3, "num_inference_steps": 3, "multiple": 3, "augmentation": 1,
    }  # fmt: skip
    assert sum(count for key, count in seen.items() if key.startswith("real")) == 12 and len(cells) == 51
    batch = study.train.config().optimizer.batch_size
    sizes = [round(10 * study.generate.images_per_class * multiple) for multiple in (0.25, 1, 2, 4)] + [4000]
    assert {nearest_epochs(study.train.steps, size, batch) * (size // batch) for size in sizes} == {study.train.steps}


def test_the_photo_findings_vary_one_factor_at_a_time_and_train_equally_long():
    from imagenet_sd.study.stages import nearest_epochs

    cells = [cell.study for cell in expand(pipeline("photo_findings"))]
    base = {"prompt": "c", "guidance_scale": 2.0, "num_inference_steps": 10, "multiple": 1.0}
    seen: Counter[str] = Counter()
    steps = set()
    for cell in cells:
        plain = cell.train.config().augmentation != "dino"
        different = [key for key, value in base.items() if getattr(cell.generate, key) != value]
        different += ["augmentation"] * plain + ["also"] * bool(cell.train.also)
        size = 5000 if cell.train.data else round(5000 * cell.generate.multiple) + 5000 * bool(cell.train.also)
        steps.add(nearest_epochs(cell.train.steps, size, 128) * (size // 128))
        seen[" ".join([*different, *(["real"] * bool(cell.train.data))]) or "base"] += 1
    assert {key: count // 3 for key, count in seen.items()} == {
        "base": 1, "prompt": 4, "guidance_scale": 5, "num_inference_steps": 3, "multiple": 3, "augmentation": 1,
        "also": 1, "guidance_scale augmentation": 1, "real": 1, "augmentation real": 1,
    }  # fmt: skip
    assert steps == {621, 624}  # a quarter of the base has 9 batches an epoch


def test_mini_runs(tmp_path: Path, cli: CliRun):
    small = ["generate.images_per_class=2", "generate.num_inference_steps=2", "generate.shard_size=20", "train.steps=2",
             "train.optimizer.batch_size=10", "train.validation=", "evaluate.trials=1", "evaluate.seeds=[0]",
             "evaluate.1.data={faces: 'builtin:faces'}"]  # fmt: skip
    done = cli("run", ROOT / "pipelines" / "mini_digits.yaml", "--out", tmp_path / "mini", *as_options(small))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path / 'mini' / 'report.html'}"
    (cell,) = json.loads((tmp_path / "mini" / "study.json").read_text())["cells"]
    assert set(cell["metrics"]) == {"mnist/test", "faces/test"} and cell["images"] == 20
    assert "mnist" in (tmp_path / "mini" / "report.html").read_text()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real digits as folders of images, and CoG levels over them."""
    from imagenet_sd.data.open import open_images

    base = tmp_path_factory.mktemp("places")
    images = open_images("builtin:mnist@per_class=5", "test")
    files: dict[str, list[str]] = {}
    for group in range(len(images.group_sizes)):
        (record,) = images.read_group(group)
        wnid = images.classes[record.label]
        (base / "real" / wnid).mkdir(parents=True, exist_ok=True)
        record.decode().save(base / "real" / wnid / f"{group}.png")
        files.setdefault(wnid, []).append(f"{wnid}/{group}.png")
    (base / "levels").mkdir()
    (base / "levels" / "levels.json").write_text("{}")
    for k in range(1, 6):
        members = [files[wnid] for wnid in sorted(files)[2 * k - 2 : 2 * k]]
        for split, part in (("train", slice(0, 4)), ("test", slice(4, 5))):
            lines = [file for member in members for file in member[part]]
            (base / "levels" / f"L{k}-{split}.txt").write_text("\n".join(lines) + "\n")
    return {name: base / name for name in ("real", "levels")}


VAL = "evaluate.data={val: 'imagefolder:REAL'}"
FACES = ["evaluate.0.data={faces: 'builtin:faces'}", "evaluate.0.seeds=[0]", "evaluate.0.trials=1"]
RUNS = {
    "imagenet100_table_5_2": (
        [VAL, "paths.imagenet100=REAL", "grid.1.generate.guidance_scale=[2]", "grid.1.generate.prompt=[c_dc]",
         "grid.2.generate.multiple=[2]"], 3, {"val/test"},
    ),
    "cog_table_5_4": (
        [*FACES, "evaluate.1.seeds=[0]", "evaluate.1.trials=1", "paths.levels=LEVELS", "paths.imagenet21k=REAL",
         "grid.0.encoder=['timm:resnet10t@random']"], 2, {"faces/test", *(f"cog-L{k}/test" for k in range(1, 6))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)  # all studies run so in test_shrunk.py, which is slow
def test_the_studies_of_the_tables_run_in_small(name: str, places: dict[str, Path], tmp_path: Path):
    settings, cells, measured = RUNS[name]
    filled = [s.replace("REAL", str(places["real"])).replace("LEVELS", str(places["levels"])) for s in settings]
    path = ROOT / "pipelines" / f"{name}.yaml"
    small = [*TINY, "generate.shard_size=20", *filled]
    summary = run(load_study(path, small), out=tmp_path, path=str(path))
    study = json.loads(Path(summary["study"]).read_text())
    assert len(study["cells"]) == cells
    for cell in study["cells"]:
        assert set(cell["metrics"]) == measured
        assert all(0 <= metrics["top1"] <= 1 for metrics in cell["metrics"].values())
    assert Path(summary["page"]).is_file()


def test_table_5_1_runs_from_the_command_line(places: dict[str, Path], tmp_path: Path, cli: CliRun):
    settings = [*TINY, f"paths.imagenet100={places['real']}", f"evaluate.data.val=imagefolder:{places['real']}"]
    study = ROOT / "pipelines" / "imagenet100_table_5_1.yaml"
    done = cli("run", study, "--out", tmp_path / "out", *as_options(settings))
    assert done.returncode == 0, done.stderr
    study = json.loads((tmp_path / "out" / "table_5_1.json").read_text())
    found = [(c["factors"]["data"], c["factors"]["augmentation"], c["images"]) for c in study["cells"]]
    assert found == [
        ("synthetic", "plain", 20),
        ("synthetic", "strong", 20),
        ("real", "plain", 50),
        ("real", "strong", 50),
    ]
    assert [c["factors"]["multiple"] for c in study["cells"]] == [1.0, 1.0, 2.5, 2.5]  # of the synthetic base count
    assert all(c["metrics"]["val/test"]["num_test"] == 50 for c in study["cells"])
    assert (tmp_path / "out" / "table_5_1.html").is_file()
