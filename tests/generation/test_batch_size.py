"""`--batch-size auto`: found once, recorded, the same for all who join."""

import json
import threading
from pathlib import Path

import pytest
import torch

from imagenet_sd.core.errors import GenerationMemoryError, PlanError
from imagenet_sd.generation import batch_size
from imagenet_sd.generation.batch_size import largest_size
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import ModelIdentity
from imagenet_sd.generation.plan import make_plan
from imagenet_sd.pipeline import dry_run, generate
from imagenet_sd.storage.dataset import Dataset
from tests.conftest import SMALL, CliRun

SIZES = (1, 2, 4, 8, 16, 32, 64)


@pytest.mark.parametrize(("memory", "found"), [(11, 1), (13, 1), (17, 1), (26, 2), (29, 4), (60, 8), (10_000, 64)])
def test_the_largest_size_leaves_a_margin(memory: int, found: int):
    """`memory` bytes may be used, and 3 more before the device fails; the model takes 8 and each image 5."""

    def peak(size: int) -> int:
        if 8 + 5 * size > memory + 3:
            raise GenerationMemoryError("too little")
        return 8 + 5 * size

    assert largest_size(SIZES, peak, memory) == found


def test_a_device_too_small_for_one_image_is_an_error():
    def peak(size: int) -> int:
        raise GenerationMemoryError("too little memory for a batch of 1")

    with pytest.raises(GenerationMemoryError, match="batch of 1"):
        largest_size(SIZES, peak, 100)


def without_batch_size() -> list[object]:
    at = SMALL.index("--batch-size")
    return [*SMALL[:at], *SMALL[at + 2 :], "--batch-size", "auto", "--images-per-class", 1]


def test_the_first_start_records_what_it_finds_and_later_ones_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: CliRun
):
    out = tmp_path / "out"
    monkeypatch.setattr(batch_size, "find_batch_size", lambda dataset, offload: (3, "a GPU"))
    done = cli(*without_batch_size(), "--out", out)
    assert done.returncode == 0, done.stderr
    assert "note: batches of 3 images, found on a GPU and recorded in the plan" in done.stderr
    assert "A GPU with less memory that joins later stops with an error and gives its shard back" in done.stderr
    assert Dataset.open(out).plan.batch_size == 3
    first = next(out.glob("data/*/.manifests/*.json"))
    assert json.loads(first.read_text())["generator"]["batch_size"] == 3
    monkeypatch.setattr(batch_size, "find_batch_size", lambda dataset, offload: (64, "a larger GPU"))
    for given in ("auto", "3"):
        done = cli(*without_batch_size(), "--batch-size", given, "--out", out)
        assert done.returncode == 0 and "0 shards generated" in done.stdout, done.stderr
    done = cli(*without_batch_size(), "--batch-size", "64", "--out", out)
    assert done.returncode == 1 and "batch_size: 3 there, 64 asked for" in done.stderr


def test_two_that_start_at_the_same_time_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each finds another size, and both are ready to write before either has."""
    from imagenet_sd.pipeline import dataset as pipeline

    meet, sizes, written = threading.Barrier(2, timeout=30), iter((2, 5)), []
    config = GenerationConfig(model="embedded", images_per_class=1, batch_size=0)
    real = Dataset.begin

    def together(self: Dataset) -> bool:
        meet.wait()
        written.append((self.plan.batch_size, first := real(self)))
        return first

    monkeypatch.setattr(Dataset, "begin", together)
    monkeypatch.setattr(batch_size, "find_batch_size", lambda dataset, offload: (next(sizes), "a GPU"))
    plans: list[int] = []
    work = [
        threading.Thread(
            target=lambda: plans.append(pipeline._plan_dataset(tmp_path / "out", config)[0].plan.batch_size)
        )
        for _ in range(2)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    (winner,) = [size for size, first in written if first]
    assert sorted(size for size, _ in written) == [2, 5] and plans == [winner, winner]
    assert Dataset.open(tmp_path / "out").plan.batch_size == winner
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset.json"]


def test_a_cpu_takes_the_default_and_a_dry_run_says_auto(tmp_path: Path, cli: CliRun):
    config = GenerationConfig(model="embedded", num_inference_steps=2, images_per_class=1, batch_size=0)
    assert dry_run(config, tmp_path / "x")["settings"]["batch_size"] == "auto"
    assert "batch_size           auto" in cli(*without_batch_size(), "--dry-run").stdout
    with pytest.raises(PlanError, match="batch_size is auto"):
        make_plan(config, ModelIdentity(model_id="x"))  # as a study would
    assert cli("generate", "--model", "embedded", "--batch-size", "many", "--dry-run").returncode == 2
    assert cli("generate", "--model", "embedded", "--batch-size", "0", "--dry-run").returncode == 2
    generate(config, tmp_path / "out", workers=1)
    assert Dataset.open(tmp_path / "out").plan.batch_size == 16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_filled_but_not_to_the_brim(tmp_path: Path):
    """The embedded model is small: the largest size fits; and a size that is found is one that works."""
    config = GenerationConfig(model="embedded", num_inference_steps=5, images_per_class=7, batch_size=0)
    assert generate(config, tmp_path / "out", workers=1)["shards_generated"] == 1
    assert Dataset.open(tmp_path / "out").plan.batch_size == 64
