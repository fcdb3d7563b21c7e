"""Probes on sets that do not fit: read from a file in windows, without a copy, with the same numbers as in memory."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from imagenet_sd.data.builtin import mnist_digits
from imagenet_sd.data.open import open_images
from imagenet_sd.evaluation import features as F
from imagenet_sd.evaluation.config import EvalConfig
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.probes import logreg, memory, rows
from imagenet_sd.evaluation.probes.logreg import LogisticProblem
from imagenet_sd.evaluation.probes.rows import FeatureRows
from imagenet_sd.evaluation.probes.sea import SeaConfig, train_sea
from imagenet_sd.evaluation.probes.simple import SgdConfig, knn_scores, linear_scores, train_sgd
from tests.conftest import ROOT

CPU = torch.device("cpu")


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """3,001 rows of 12 features as a read-only file, and labels that follow from them."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3001, 12)).astype(np.float32), rng.normal(size=(12, 5))
    return F.write_rows(tmp_path / "x.npy", np.array_split(x, 4), x.shape), (x @ w).argmax(1)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is large; windows are of 512 rows, blocks of 8."""
    monkeypatch.setattr(rows, "LARGE", 0)
    monkeypatch.setattr(rows, "WINDOW", 0)
    monkeypatch.setattr(rows, "CHUNK", 100)
    monkeypatch.setattr(rows, "BLOCK", 8)
    monkeypatch.setattr(FeatureRows, "window", lambda self, size: 512)


@pytest.mark.parametrize("subset", [False, True])
def test_a_pass_in_windows_sees_every_row_once_and_repeats(mapped, small_windows, subset: bool):
    x, _ = mapped
    chosen = np.flatnonzero(np.arange(3001) % 3) if subset else None
    part = np.array(x) if chosen is None else np.array(x[chosen])
    expected = part / np.linalg.norm(part, axis=1, keepdims=True)
    here = FeatureRows(x, chosen, CPU)
    batches = list(here.batches(64, torch.Generator().manual_seed(3)))
    seen = torch.cat([positions for _, positions in batches]).numpy()
    assert sorted(seen) == list(range(len(part))) and len(batches) == here.steps(64)
    for batch, positions in batches:
        assert batch.dtype == torch.float32 and np.allclose(batch, expected[positions], atol=1e-6)
    assert np.corrcoef(seen, np.arange(len(seen)))[0, 1] < 0.2  # shuffled, not only within windows
    again = [positions for _, positions in here.batches(64, torch.Generator().manual_seed(3))]
    assert all(torch.equal(a, b) for a, (_, b) in zip(again, batches, strict=True))
    assert np.allclose(torch.cat(list(here.chunks())), expected, atol=1e-6)
    assert np.allclose(here.select(np.array([5, 70]))[np.array([1])], expected[[70]], atol=1e-6)


def test_where_the_features_are_changes_no_number(mapped, small_windows, monkeypatch: pytest.MonkeyPatch):
    x, y = mapped
    train = np.arange(0, 3001, 2)
    config = SgdConfig(learning_rate=3.0, weight_decay=1e-6, epochs=3, batch_size=64)

    def results() -> list[np.ndarray]:
        linear = train_sgd(FeatureRows(x, device=CPU).select(train), y[train], 5, config)
        scores = linear_scores(linear.weight.detach(), linear.bias.detach(), x)
        sea = SeaConfig(epochs=2, batch_size=64, eta=0.2)
        return [
            scores,
            train_sea(FeatureRows(x, train, CPU), y[train], 5, sea).numpy(),
            knn_scores(x[:900], y, x[900:1000], 5, k=7, device=CPU),
        ]

    streamed = results()
    monkeypatch.setattr(rows, "fits", lambda num_bytes, device: True)
    for a, b in zip(streamed, results(), strict=True):
        assert np.array_equal(a, b)
    assert (streamed[0].argmax(1) == y)[1::2].mean() > 0.85


def test_streamed_sgd_finds_what_sgd_in_memory_finds(mapped, small_windows, monkeypatch: pytest.MonkeyPatch):
    x, y = mapped
    config = SgdConfig(learning_rate=10.0, weight_decay=0.0, epochs=20, batch_size=64)
    streamed = train_sgd(FeatureRows(x, device=CPU), y, 5, config)
    monkeypatch.setattr(rows, "LARGE", 1 << 30)
    whole = train_sgd(FeatureRows(np.array(x), device=CPU), y, 5, config)
    one, other = (linear_scores(m.weight.detach(), m.bias.detach(), x) for m in (streamed, whole))
    assert (one.argmax(1) == other.argmax(1)).mean() > 0.98


def test_lbfgs_in_chunks_of_rows_and_groups_of_values(monkeypatch: pytest.MonkeyPatch):
    images, y = mnist_digits("train")
    chosen = np.random.default_rng(0).permutation(4000)[:500]
    x, y = images[chosen].reshape(500, -1, 4).mean(2) / 255, y[chosen]
    cs, part = [1e-3, 0.1, 10.0], np.arange(0, 500, 2)
    whole = LogisticProblem(x[part], y[part], 10).solve(cs)
    monkeypatch.setattr(logreg, "_ROWS", 70)
    monkeypatch.setattr(logreg, "LOGITS", 8 * 3 * 10 * 37)
    monkeypatch.setattr(logreg, "STATE", 8 * logreg.COPIES * 197 * 10 * 2)  # two values at a time
    chunked = LogisticProblem(x, y, 10, part).solve(cs)
    assert np.allclose(chunked.objectives, whole.objectives, rtol=1e-6) and np.array_equal(chunked.cs, whole.cs)
    assert chunked.weights.shape == whole.weights.shape and chunked.gaps.max() <= 1e-7
    assert np.array_equal(chunked.scores(x, 1).argmax(1), whole.scores(x, 1).argmax(1))


def test_knn_in_chunks_keeps_the_first_of_equal_neighbours(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    train = np.repeat(rng.normal(size=(20, 6)), 3, axis=0)  # every image three times, under other labels
    y, test = np.arange(60) % 4, rng.normal(size=(9, 6))
    whole = knn_scores(train, y, test, 4, k=5)
    monkeypatch.setattr(rows, "CHUNK", 7)
    monkeypatch.setattr(rows, "LARGE", 0)
    assert np.allclose(knn_scores(train, y, test, 4, k=5), whole, rtol=1e-5)  # float32 by another order


STREAM = """
import resource, sys, numpy as np, torch
from imagenet_sd.evaluation.probes import rows, simple
rows.LARGE, rows.WINDOW = 1 << 24, 0
torch.set_num_threads(1)
x = np.load(sys.argv[1], mmap_mode="r")
y = np.arange(len(x)) % 10
warm = simple.SgdConfig(learning_rate=1.0, weight_decay=0.0, epochs=1, batch_size=1024)
simple.train_sgd(np.ones((4096, 256), np.float32), y[:4096], 10, warm)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
linear = simple.train_sgd(rows.FeatureRows(x, np.arange(0, len(x), 2)), y[::2], 10, warm)
simple.linear_scores(linear.weight.detach(), None, x)
print(peak() - before)
"""


def test_a_probe_takes_the_memory_of_a_window_and_not_of_the_set(tmp_path: Path):
    """512 MB of features on disk (a file with holes), half of them trained on and all scored: 67 MB windows."""
    path = tmp_path / "x.npy"
    np.lib.format.open_memmap(path, "w+", np.float32, (500_000, 256)).flush()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 250


def test_the_planned_sizes_are_known_before_they_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rows.torch.accelerator, "is_available", lambda: False)
    gib = 1 << 30
    assert memory.peak_bytes("sgd", 1_281_167, 2048, 1000, CPU) < 2 * gib  # ImageNet-1k
    assert memory.peak_bytes("sea", 437_513, 2048, 8142, CPU) < 3 * gib  # iNaturalist 2018
    assert memory.peak_bytes("lbfgs", 1_281_167, 2048, 1000, CPU) > 8 * 1_281_167 * 2048
    line = memory.memory_line("inat18", "sgd", 437_513, 2048, 8142)
    assert line.startswith("inat18: sgd on cpu, 437,513 x 2,048 features of 8,142 classes, read in windows: about ")
    assert "read in windows" not in memory.memory_line("pets", "sgd", 3680, 2048, 37)
    monkeypatch.setattr(memory.os, "sysconf", lambda name: 1 << 16)
    assert "of which this machine has 4.0; --probe sgd" in memory.memory_line("x", "lbfgs", 1_281_167, 2048, 1000)


class Mean(torch.nn.Module):
    """Features without weights: the mean of each channel and its square."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3)), x.mean((2, 3)) ** 2], 1)


def test_large_features_are_one_file_that_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images, config = open_images("builtin:faces", "test"), EvalConfig(crop_size=32)
    encoders = [Encoder(name=name, module=Mean(), fingerprint=name * 64) for name in "ab"]
    expected = F.extract(encoders[0], images, config, tmp_path / "small").data
    monkeypatch.setattr(F, "LARGE", 0)
    monkeypatch.setattr(F, "_PART", 30)
    first = F.extract(encoders[0], images, config, tmp_path)
    folder = tmp_path / first.cache_key
    assert isinstance(first.data.features, np.memmap) and not first.data.features.flags.writeable
    assert np.allclose(first.data.features, expected.features) and np.array_equal(first.data.labels, expected.labels)
    assert sorted(path.name for path in folder.iterdir()) == ["features.npy", "labels.safetensors"]
    assert F.extract(encoders[0], images, config, tmp_path).from_cache
    ensemble = F.concatenate([first, F.extract(encoders[1], images, config, tmp_path)])
    assert isinstance(ensemble.data.features, np.memmap) and ensemble.data.features.shape == (100, 12)
    norms = np.linalg.norm(expected.features, axis=1, keepdims=True)
    assert np.allclose(ensemble.data.features[:, 6:], expected.features / norms / np.sqrt(2), atol=1e-6)
    for path in folder.iterdir():
        path.unlink()
    write = F.write_rows

    def after_another(path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
        """Another process puts the same parts together first, and removes them."""
        monkeypatch.setattr(F, "write_rows", write)
        assert len(F.extract(encoders[0], images, config, tmp_path).data.features) == 100
        return write(path, blocks, shape)

    monkeypatch.setattr(F, "write_rows", after_another)
    assert np.allclose(F.extract(encoders[0], images, config, tmp_path).data.features, expected.features)
    (folder / "features.npy").write_bytes((folder / "features.npy").read_bytes()[:-9])
    again = F.extract(encoders[0], images, config, tmp_path)
    assert not again.from_cache and np.allclose(again.data.features, expected.features)


def test_memory_that_pytorch_holds_unused_is_free(monkeypatch: pytest.MonkeyPatch):
    """After one probe of a GPU of 24 GiB, the next must not read its features from the file."""
    gib = 1 << 30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (12 * gib, 24 * gib))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1 * gib)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 11 * gib)
    assert rows.fits(13 * gib, torch.device("cuda")) and not rows.fits(14 * gib, torch.device("cuda"))
