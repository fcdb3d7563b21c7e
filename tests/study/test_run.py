"""`imagenet-sd run`: each stage once, nothing twice, on from where it was stopped, and an honest study.json."""

import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.results import EvaluationResults, ProbeResult
from imagenet_sd.core.typed import SettingsError
from imagenet_sd.data.open import open_images
from imagenet_sd.study import load_study
from imagenet_sd.study.document import _metrics
from imagenet_sd.study.runner import dry_run_study, run
from imagenet_sd.study.stages import nearest_epochs
from tests.conftest import CliRun

STUDY = """
name: tiny
generate: {model: embedded, prompt: c_dc, guidance_scale: 2, num_inference_steps: 2, images_per_class: 2,
           shard_size: 20, batch_size: 10}
train: {recipe: small, steps: 4, model: {small_images: false}, optimizer: {batch_size: 10}}
evaluate: {suite: imagenet, data: {mnist: "builtin:mnist"}}
grid:
  - generate.multiple: [1, 2]
  - train.data: builtin:mnist@per_class=3
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, cli: CliRun) -> tuple[Path, Path, str]:
    """A finished study: file, folder, standard error of the run."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.yaml").write_text(STUDY)
    done = cli("run", folder / "tiny.yaml", "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "8 stages done, 8 of them in this run",
        f"report: {folder / 'out' / 'report.html'}",
    ]
    return folder / "tiny.yaml", folder / "out", done.stderr


def test_study_json_holds_the_cells_and_their_numbers(study: tuple[Path, Path, str]):
    path, out, _ = study
    document = json.loads((out / "study.json").read_text())
    assert document["name"] == "tiny" and document["commands"] == [f"imagenet-sd run {path} --out {out}"]
    assert {"imagenet-sd", "torch", "diffusers"} <= set(document["versions"]) and document["machine"]
    small, large, real = document["cells"]
    common = {"augmentation": "strong", "seed": 0}
    synthetic = {"data": "synthetic", "prompt": "c_dc", "guidance_scale": 2.0, "num_inference_steps": 2}
    assert small["factors"] == {**common, **synthetic, "multiple": 1.0}
    assert large["factors"] == {**common, **synthetic, "multiple": 2.0}
    assert real["factors"] == {**common, "data": "real", "source": "builtin:mnist@per_class=3", "multiple": 1.5}
    assert [(c["images"], c["epochs"]) for c in document["cells"]] == [(20, 2), (40, 1), (30, 1)]
    assert small["dataset"] == large["dataset"] and "dataset" not in real
    for cell in document["cells"]:
        (results,) = (json.loads((out / name).read_text())["results"] for name in cell["results"])
        assert cell["metrics"]["mnist/test"]["top1"] == results[0]["top1"] and results[0]["num_test"] == 1000
        assert (out / cell["run"] / "encoder.safetensors").is_file()
    assert (out / "report.html").is_file()


def test_the_number_of_the_probe_gradient_is_its_own(tmp_path: Path):
    """Not that of the logistic regression that it starts from, which comes first in its file."""
    accuracies = {"gradient-start": 0.1, "gradient": 0.2, "gradient-fine-tuned": 0.3}
    for name, probes in (("a", accuracies), ("b", {"lbfgs": 0.4})):
        rows = tuple(ProbeResult(dataset="d", split="test", probe=k, top1=v) for k, v in probes.items())
        document = EvaluationResults(encoder="e", suite="transfer", results=rows)
        (tmp_path / f"{name}.json").write_text(json.dumps(document.to_json()))
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    assert _metrics(files)["d/test"].top1 == 0.2 and _metrics(files[::-1])["d/test"].top1 == 0.4


def test_progress_is_one_line_per_stage(study: tuple[Path, Path, str]):
    lines = [line for line in study[2].splitlines() if line.startswith("[")]
    kinds = [found.groups() for line in lines if (found := re.match(r"\[(\d)/8\] (\w+) ", line))]
    order = ["generate", "train", "evaluate", "train", "evaluate", "train", "evaluate", "report"]
    assert kinds == [(str(i), kind) for i, kind in enumerate(order, 1)]
    assert " left" in lines[-2], "the last stages know how long stages of their kind took"


def test_a_second_run_does_nothing_and_says_so(study: tuple[Path, Path, str]):
    path, out, _ = study
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file() and file.name != ".lock"}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "imagenet_sd", "run", path, "--out", out],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[0] == "nothing to do: 8 stages are up to date", done.stderr
    assert spent.ru_utime - used.ru_utime < 5
    loaded = set(re.findall(r"\|\s+([\w.]+)$", done.stderr, flags=re.MULTILINE))
    assert not {name for name in loaded if name.split(".")[0] in {"torch", "diffusers", "pyarrow", "sklearn"}}
    after = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file() and file.name != ".lock"}
    assert after == before


def test_a_smaller_multiple_is_the_first_rounds_of_the_dataset(study: tuple[Path, Path, str]):
    _, out, _ = study
    (dataset,) = (out / "datasets").iterdir()
    numbers = {}
    for rounds in (1, 2):
        images = open_images(f"{dataset}@rounds={rounds}")
        ids = [r.image_id for g in range(len(images.group_sizes)) for r in images.read_group(g)]
        assert len(ids) == len(set(ids)) == 20 * rounds
        numbers[rounds] = {int(name.split("_")[1]) for name in ids}
    assert numbers == {1: {0, 1}, 2: {0, 1, 2, 3}}
    with pytest.raises(DatasetError, match="holds 2 rounds, fewer than 3"):
        open_images(f"{dataset}@rounds=3")


def states(path: Path, out: Path, *settings: str) -> list[tuple[str, bool]]:
    return [(s["stage"], s["done"]) for s in dry_run_study(load_study(path, settings), out=out)["stages"]]


@pytest.mark.parametrize(
    ("setting", "stale"),
    [
        ("evaluate.crop_size=40", {"evaluate"}),
        ("evaluate.side=40", {"evaluate"}),
        ("evaluate.data.again=builtin:mnist", {"evaluate"}),
        ("train.optimizer.base_lr=0.1", {"train", "evaluate"}),
        ("train.steps=5", {"train", "evaluate"}),
        ("report.page=other.html", set()),
        ("name=other", set()),
    ],
)
def test_a_change_makes_stale_what_depends_on_it(study: tuple[Path, Path, str], setting: str, stale: set[str]):
    path, out, _ = study
    found = states(path, out, setting)
    assert len(found) == 7 and all(done == (kind not in stale) for kind, done in found)


def test_loras_make_datasets_of_their_own(tmp_path: Path):
    lora, path = tmp_path / "a.safetensors", tmp_path / "loras.yaml"
    lora.write_bytes(b"any weights")
    path.write_text(
        "generate: {model: embedded, images_per_class: 2}\ntrain: {recipe: small}\n"
        f"grid: [{{generate.lora: ['', '{lora}', '{lora}:0.5']}}]\n"
    )
    stages = dry_run_study(load_study(path))["stages"]
    assert len({stage["folder"] for stage in stages if stage["stage"] == "generate"}) == 3


def test_another_dataset_goes_to_another_folder_and_real_runs_stay(study: tuple[Path, Path, str]):
    path, out, _ = study
    found = states(path, out, "generate.guidance_scale=3")
    assert [done for _, done in found] == [False] * 5 + [True] * 2  # the real baseline generates nothing
    assert states(path, out, "grid=[]") == [("generate", False), ("train", True), ("evaluate", True)]


def test_what_is_lost_is_made_again(study: tuple[Path, Path, str], tmp_path: Path):
    import shutil

    path, out, _ = study
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    (victim,) = (copy / "runs").glob("real*/evaluate-*")
    was = json.loads((victim / "results.json").read_text())
    (victim / "results.json").unlink()
    (victim / "stage.json").write_text("{ torn")
    summary = run(load_study(path), out=copy)
    assert summary["done"] == 1 and summary["stages"] == 8, "the same numbers, so the report stands"
    again = json.loads((victim / "results.json").read_text())
    assert [r["top1"] for r in again["results"]] == [r["top1"] for r in was["results"]]
    next(copy.glob("datasets/*/data/round-001/*.parquet")).unlink()
    assert states(path, copy)[0] == ("generate", False)


TRAIN_ONLY = """
train: {recipe: small, data: builtin:mnist@per_class=10, model: {small_images: false},
        optimizer: {batch_size: 10, epochs: 12, warmup_epochs: 0}}
evaluate: {suite: imagenet, data: {mnist: "builtin:mnist@per_class=5"}}
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_stopped_in_training_it_goes_on(tmp_path: Path, cli: CliRun, number: signal.Signals):
    (tmp_path / "r.yaml").write_text(TRAIN_ONLY)
    command = [sys.executable, "-m", "imagenet_sd", "run", tmp_path / "r.yaml", "--out", tmp_path / "out"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 200
    while not list(tmp_path.glob("out/runs/*/checkpoint.safetensors")) and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == (143 if number is signal.SIGTERM else -9)
    assert not list(tmp_path.glob("out/runs/*/stage.json"))
    done = cli("run", tmp_path / "r.yaml", "--out", tmp_path / "out")
    assert done.returncode == 0 and "3 stages done, 3 of them in this run" in done.stdout, done.stderr
    epochs = [int(n) for n in re.findall(r"^epoch (\d+):", done.stderr, flags=re.MULTILINE)]
    assert epochs[0] > 1 and epochs == list(range(epochs[0], 13)), "the epochs that were done are not done again"


def killed_when(command: list, there: Callable[[], list]) -> None:
    """Start a command, and kill it as soon as these files are there."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 200
    while not there() and time.monotonic() < limit:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    assert process.wait(60) == -9


def test_killed_while_it_generates_evaluates_and_reports_it_goes_on(tmp_path: Path, cli: CliRun):
    out = tmp_path / "out"
    text = STUDY.split("grid:")[0].replace("images_per_class: 2", "images_per_class: 12")
    (tmp_path / "r.yaml").write_text(text)
    command = [sys.executable, "-m", "imagenet_sd", "run", tmp_path / "r.yaml", "--out", out]
    killed_when(command, lambda: list(out.glob("datasets/*/data/*/.manifests/*.json")))
    first = {path: path.stat().st_mtime_ns for path in out.glob("datasets/*/data/*/*.parquet")}
    assert len(first) < 6 and not list(out.glob("datasets/*/stage.json"))
    killed_when(command, lambda: list(out.glob("runs/*/stage.json")))  # training is done
    assert not list(out.glob("runs/*/evaluate-*/stage.json"))
    assert first.items() <= {path: path.stat().st_mtime_ns for path in out.glob("datasets/*/data/*/*.parquet")}.items()
    weights = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/encoder.safetensors")}
    killed_when(command, lambda: list(out.glob("runs/*/evaluate-*/stage.json")))  # the report is next
    assert not (out / "report.html").exists()
    done = cli("run", tmp_path / "r.yaml", "--out", out)
    assert done.returncode == 0 and "4 stages done, 1 of them in this run" in done.stdout, done.stdout + done.stderr
    assert weights == {path: path.stat().st_mtime_ns for path in out.glob("runs/*/encoder.safetensors")} != {}


def test_two_processes_share_the_stages_of_a_study(tmp_path: Path):
    study = "\n".join(line for line in STUDY.splitlines() if not line.startswith("  - generate"))
    (tmp_path / "r.yaml").write_text(study + "\n  - train.data: builtin:mnist@per_class=4\n")
    command = [sys.executable, "-m", "imagenet_sd", "run", tmp_path / "r.yaml", "--out", tmp_path / "out"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    taken = [re.findall(r"^\[\d/5\] (?:train|evaluate) (\S+?),?(?: |$)", errors, re.MULTILINE) for _, errors in printed]
    assert len(taken[0]) + len(taken[1]) == len({*taken[0], *taken[1]}) == 4, printed
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.data=imagefolder:/no/such", "train.data: there is no /no/such"),
        ("train.validation=imagefolder:/no/such", "train.validation: there is no /no/such"),
        ("evaluate.data.mnist=imagenet:val@/no/such", "evaluate[0].data.mnist: there is no /no/such"),
        ("encoder=timm:resnet50@/no/such.pth", "encoder: there is no /no/such.pth"),
        ("generate.templates=/no/such", ""),
    ],
)
def test_a_missing_file_is_an_error_before_any_work(tmp_path: Path, setting: str, message: str):
    (tmp_path / "r.yaml").write_text(TRAIN_ONLY)
    if not message:  # only a study that generates needs templates
        setting, message = "train.data=", f"generate.templates: there is no {tmp_path / 'gone'}"
        (tmp_path / "r.yaml").write_text(f"{TRAIN_ONLY}generate: {{model: embedded, templates: {tmp_path}/gone}}\n")
    with pytest.raises(SettingsError) as error:
        run(load_study(tmp_path / "r.yaml", [setting]), out=tmp_path / "out", path="r.yaml")
    assert str(error.value).startswith(f"r.yaml: {message}") and not (tmp_path / "out").exists()


def test_the_command_line_names_the_key(tmp_path: Path, cli: CliRun):
    (tmp_path / "x.yaml").write_text("generate:\n  guidance_scal: 2\n")
    done = cli("run", tmp_path / "x.yaml")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].endswith(
        "x.yaml: generate.guidance_scal is no known key; did you mean guidance_scale?"
    )
    assert cli("run", tmp_path / "none.yaml").stderr.startswith(f"error: no file {tmp_path / 'none.yaml'}")


def test_steps_become_the_nearest_epochs():
    for steps in (1, 7, 160, 1000):
        for images in (9, 100, 400, 4000):
            per_epoch = max(1, images // 50)
            best = min(range(1, steps + 2), key=lambda n: (abs(n * per_epoch - steps), -n))
            chosen = nearest_epochs(steps, images, 50)
            assert abs(chosen * per_epoch - steps) == abs(best * per_epoch - steps)


@pytest.mark.slow
def test_training_in_two_processes(tmp_path: Path, cli: CliRun):
    (tmp_path / "r.yaml").write_text(TRAIN_ONLY)
    settings = ("train.processes=2", "train.optimizer.epochs=1", "train.optimizer.batch_size=8")
    options = [part for setting in settings for part in ("--set", setting)]
    done = cli("run", tmp_path / "r.yaml", "--out", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    (run_folder,) = (tmp_path / "out" / "runs").iterdir()
    assert json.loads((run_folder / "environment.json").read_text())["processes"] == 2
