"""The guide to clusters: its tables follow from the assumptions they name, and its facts are those of the code."""

import heapq
import math
import re
from contextlib import suppress
from pathlib import Path

import pytest

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.types import GenerationPlan
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import offline_identity
from imagenet_sd.generation.plan import estimate_bytes, make_plan
from imagenet_sd.storage.dataset import Dataset, fingerprint
from imagenet_sd.storage.upload import check_limits
from tests.conftest import ROOT

GUIDE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
TFLOP = 51 * 1.160 + 1.879 + 0.013  # per image: UNet calls of PNDM at 50 steps, with guidance; VAE; text encoder
SECONDS = {"A100": 0.8, "H100": TFLOP / (0.40 * 790)}  # the two that the other tables use
DATASETS = {"ImageNet-1K-SD": (1000, 1_281_167, 1), "ImageNet-100-SD 50x": (100, 126_689, 50)}


def table(header: str) -> list[list[str]]:
    """Rows of the Markdown table whose header line starts like this."""
    lines = GUIDE.splitlines()
    (first,) = [k for k, line in enumerate(lines) if line.startswith(f"| {header} |")]
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def dataset_of(classes: int, images: int, rounds: int, shard_size: int = 1000, folder: Path = Path()) -> Dataset:
    """The dataset that the command of the guide makes, with so many images in a round, spread over the classes."""
    config = GenerationConfig(classes=f"imagenet-{'1k' if classes == 1000 else classes}", shard_size=shard_size)
    _, document = make_plan(config, offline_identity(config))
    for k, entry in enumerate(document["classes"]):
        entry["count"] = images // classes + (k < images % classes)
    document["rounds"] = rounds
    document["fingerprint"] = fingerprint(document)
    return Dataset.from_document(folder, document)


def plan_of(*counts: int, **options: int) -> GenerationPlan:
    return dataset_of(*counts, **options).plan


def makespan(num_shards: int, gpus: int, shard_seconds: float) -> tuple[int, float]:
    """(most shards of one GPU, seconds) when equal GPUs take shards from one queue."""
    free = [(0.0, 0)] * gpus
    for _ in range(num_shards):
        heapq.heapreplace(free, (free[0][0] + shard_seconds, free[0][1] + 1))  # the GPU that is free first
    return max(shards for _, shards in free), max(seconds for seconds, _ in free)


def test_arithmetic_of_one_image():
    assert f"{TFLOP:.1f} TFLOP" in GUIDE
    one = estimate_bytes(plan_of(1000, 1_281_167, 1), 512, 384) / 1_281_167
    assert one == pytest.approx(0.45 * 512 * 384 + 700, abs=1) and f"{one:,.0f} bytes" in GUIDE
    assert f"{16 * SECONDS['A100']:.0f} seconds" in GUIDE  # one batch on an A100


def test_table_of_gpus():
    rates = {
        "A100, published": TFLOP / 0.8,
        "A100, compiled": 120,
        "H100, assumed": 0.40 * 790,
        "H100, floor": 790,
    }
    expected = [[n, f"{r:.0f}", f"{TFLOP / r:.3f}", f"{r / TFLOP:.2f}"] for n, r in rates.items()]
    assert [row[:4] for row in table("GPU")] == expected
    assert "**assumption**" in table("GPU")[2][4]


def test_table_of_datasets():
    expected = []
    for name, (classes, images, rounds) in DATASETS.items():
        plan = plan_of(classes, images, rounds)
        shards = math.ceil(images / 1000) * rounds
        assert plan.num_shards == shards and plan.num_images == images * rounds
        hours = [f"{images * rounds * SECONDS[gpu] / 3600:,.0f}" for gpu in ("A100", "H100")]
        disk = estimate_bytes(plan, 512, 384) / 1e9
        row = [name, images * rounds, shards, 2 * shards, shards // rounds]
        expected.append([f"{v:,}" if isinstance(v, int) else v for v in row] + [f"{disk:.1f}", *hours])
    assert table("dataset | images") == expected
    assert all(f"{images:,} images" in GUIDE for _, images, _ in DATASETS.values())


def test_table_of_wall_times():
    expected = []
    for name, (classes, images, rounds) in DATASETS.items():
        plan = plan_of(classes, images, rounds)
        for gpus in (8, 64, 512):
            spans = {gpu: makespan(plan.num_shards, gpus, 1000 * SECONDS[gpu]) for gpu in SECONDS}
            written = gpus / SECONDS["H100"] * estimate_bytes(plan, 512, 384) / plan.num_images / 1e6
            hours = [f"{seconds / 3600:.1f}" for _, seconds in spans.values()]
            expected.append([name, str(gpus), f"{spans['A100'][0]}", *hours, f"{written:.0f}"])
    assert table("dataset | GPUs") == expected


def test_table_of_shard_sizes():
    expected = []
    for size in (1000, 500, 250, 130):
        plan = plan_of(*DATASETS["ImageNet-1K-SD"], shard_size=size)
        seconds = size * SECONDS["A100"]
        most, whole = makespan(plan.num_shards, 512, seconds)
        megabytes = estimate_bytes(plan, 512, 384) / plan.num_images * size / 1e6
        files = [f"{size}", f"{plan.num_shards:,}", f"{2 * plan.num_shards:,}", f"{megabytes:.1f}"]
        times = [f"{seconds / 60:.1f}", f"{seconds / 120:.1f}", f"{seconds / 2 / 3600:.1%}"]
        expected.append([*files, *times, str(most), f"{whole / 60:.1f}"])
    assert table("`--shard-size`") == expected


def fits(plan: GenerationPlan) -> bool:
    """Whether the Hub takes the dataset."""
    with suppress(DatasetError):
        check_limits(plan)
        return True
    return False


def test_smallest_shard_that_the_hub_takes():
    (least,) = map(int, re.findall(r"(\d+)\s+images per shard", GUIDE))
    large = DATASETS["ImageNet-1K-SD"]
    assert fits(plan_of(*large, shard_size=least)) and not fits(plan_of(*large, shard_size=least - 1))


def test_guide_agrees_with_the_code():
    from imagenet_sd.generation.workers import leases, loop

    assert f"{leases.TTL:g} seconds" in GUIDE and f"{leases.TTL / 4:g} seconds" in GUIDE
    assert ("once", "twice", "three times")[loop.ATTEMPTS - 1] in GUIDE
    assert [row[0] for row in table("exit code")] == ["0", "1", "2", "130", "143"]


def test_metrics_named_in_the_guide_are_those_written(tmp_path: Path):
    from imagenet_sd.generation.workers.metrics import write_metrics
    from imagenet_sd.generation.workers.status import status

    write_metrics(status(dataset_of(100, 1000, 1, folder=tmp_path)), tmp_path / "metrics.prom")
    written = set(re.findall(r"^(imagenet_sd_\w+)\{dataset=", (tmp_path / "metrics.prom").read_text(), re.M))
    assert set(re.findall(r"`(imagenet_sd_\w+)", GUIDE)) == written


def test_links_of_the_guide_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", GUIDE):
        assert (ROOT / "docs" / target).is_file(), target
    anchors = {re.sub(r"[^a-z -]", "", line.lower()).strip().replace(" ", "-") for line in GUIDE.splitlines()}
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= anchors
