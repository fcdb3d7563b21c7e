"""The whole path of regularisations: our batched L-BFGS against scikit-learn's, at equal objective, in one run.

Real features: real training digits, pooled to 196 features. For every C scikit-learn gets the loosest tolerance of a
list whose objective is within 1e-4 of ours, from its default to 1e-7 and 3,000 iterations. Both run on the same
cores, in turn; median of several rounds.

And large sets: batches of the SGD probe on features of the size of ImageNet-1k, read from a file in windows.
"""

import resource
import tempfile
import time
import timeit
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from imagenet_sd.data.builtin import mnist_digits
from imagenet_sd.evaluation.probes.logreg import LogisticProblem, lambda_path
from imagenet_sd.evaluation.probes.memory import peak_bytes
from imagenet_sd.evaluation.probes.rows import FeatureRows, probe_device
from imagenet_sd.evaluation.probes.simple import SgdConfig, train_sgd

TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7)


def bench_probe(rounds: int = 3, images: int = 1000) -> dict[str, Any]:
    """Time the solution of the whole path.

    Args:
        rounds: measured rounds.
        images: training images, at most 4,000.

    Returns:
        `ratio` (median seconds of scikit-learn over ours), `worst_excess` (of our objective over scikit-learn's,
        relative), `agreement_with_loose_sklearn` (smallest share of equal predictions), `seconds` (of each round),
        `sklearn_tolerances` (one per C).
    """
    x, y = _pooled_digits("train")
    rows = np.random.default_rng(0).permutation(len(x))[:images]  # the file is sorted by class
    x, y = x[rows], y[rows]
    cs = np.sort(1 / lambda_path()).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tolerances, agreement, worst = _match_tolerances(x, y, cs)

        def sklearn() -> None:
            for c, tolerance in zip(cs, tolerances, strict=True):
                LogisticRegression(C=c, tol=tolerance, max_iter=3000).fit(x, y)

        def ours() -> None:
            LogisticProblem(x, y, 10).solve(cs, tolerance=1e-5)

        seconds: dict[str, list[float]] = {"ours": [], "sklearn": []}
        for _ in range(rounds):
            for solve in (ours, sklearn):
                seconds[solve.__name__].append(timeit.timeit(solve, number=1))
    return {
        "ratio": median(s / o for s, o in zip(seconds["sklearn"], seconds["ours"], strict=True)),
        "worst_excess": worst,
        "agreement_with_loose_sklearn": agreement,
        "seconds": seconds,
        "sklearn_tolerances": tolerances,
    }


def _match_tolerances(x: np.ndarray, y: np.ndarray, cs: Sequence[float]) -> tuple[list[float], float, float]:
    """For every C the tolerance that scikit-learn needs; the smallest agreement; our largest excess."""
    test, _ = _pooled_digits("test")
    ours = LogisticProblem(x, y, 10).solve(cs, tolerance=1e-5)
    tolerances, agreements, worst, untried = [], [], 0.0, list(TOLERANCES)
    for k, c in enumerate(cs):  # weaker regularisation never needs a looser tolerance
        while True:
            model = LogisticRegression(C=c, tol=untried[0], max_iter=3000).fit(x, y)
            losses = log_loss(y, model.predict_proba(x), normalize=False)
            objective = float(c * losses + 0.5 * (model.coef_**2).sum())  # scikit-learn's
            if len(untried) == 1 or objective <= float(ours.objectives[k]) * (1 + 1e-4):
                break
            untried.pop(0)
        tolerances.append(untried[0])
        worst = max(worst, (float(ours.objectives[k]) - objective) / objective)
        agreements.append(float((ours.scores(test, k).argmax(1) == model.predict(test)).mean()))
    return tolerances, min(agreements), worst


def _pooled_digits(split: Literal["train", "test"]) -> tuple[np.ndarray, np.ndarray]:
    """2x2 mean-pooled pixels float64 [N, 196] in [0, 1] and labels."""
    images, labels = mnist_digits(split)
    return images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196) / 255, labels


def bench_stream(
    share: float = 0.125,
    images: int = 1_281_167,
    dimension: int = 2048,
    classes: int = 1000,
    folder: Path | None = None,
) -> dict[str, Any]:
    """One pass of the SGD probe over a part of features of the size of ImageNet-1k, which lie in a file.

    The features are generated: random in some rows of every window, and holes of the file (zeros) elsewhere, so that
    the file takes little disk. They are read, normalised and multiplied like any others. The part that trains is spread
    over the whole file.

    Args:
        share: part of the images that is trained on.
        images: rows of the file.
        dimension: features of an image.
        classes: number of classes.
        folder: where the file is made; None: the system's folder for temporary files.

    Returns:
        `images_per_second` of a pass, `peak_gib` of this process on the CPU and `device_peak_gib` on a GPU (0 without
        one), `expected_gib` (what the probe says beforehand), `file_gib`, `device`, and the hours of the protocol (25
        trials and a refit of 100 epochs, one seed) for the whole and for a hundredth of the images, extrapolated.
    """
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "features.npy"
        features = np.lib.format.open_memmap(path, "w+", np.float32, (images, dimension))
        for first in range(0, images, 1 << 16):
            features[first : first + 64] = rng.normal(size=features[first : first + 64].shape)
        features.flush()
        features = np.load(path, mmap_mode="r")
        blocks = rng.permutation(images // 64)[: max(1, round(share * images / 64))]
        rows = (np.sort(blocks)[:, None] * 64 + np.arange(64)).ravel()
        part, device = FeatureRows(features, rows), probe_device()
        config = SgdConfig(learning_rate=1.0, weight_decay=1e-6, epochs=1)
        started = time.perf_counter()
        linear = train_sgd(part, rows % classes, classes, config)
        norm = float(linear.weight.detach().norm())  # waits for the device
        seconds = time.perf_counter() - started
    passes = 100 * (25 * 0.8 + 1)  # over all images: 25 trials on 80% of them, then a refit
    hours = passes * images * seconds / len(rows) / 3600
    cuda = device.type == "cuda"
    return {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "images": images,
        "dimension": dimension,
        "classes": classes,
        "images_in_the_pass": len(rows),
        "images_per_second": len(rows) / seconds,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20),
        "device_peak_gib": torch.cuda.max_memory_allocated() / (1 << 30) if cuda else 0.0,
        "expected_gib": peak_bytes("sgd", len(rows), dimension, classes, device) / (1 << 30),
        "file_gib": 4 * images * dimension / (1 << 30),
        "weight_norm": norm,
        "hours_per_seed": hours,
        "hours_per_seed_of_a_hundredth": hours / 100,
    }
