"""Hyper-parameters chosen on a stratified validation split, then a refit on all training images; one call per seed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imagenet_sd.core.progress import Progress
from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.evaluation.config import Metric, SeaSettings
from imagenet_sd.evaluation.metrics import mean_per_class
from imagenet_sd.evaluation.probes.logreg import LogisticProblem, lambda_path
from imagenet_sd.evaluation.probes.rows import FeatureRows
from imagenet_sd.evaluation.probes.sea import SeaConfig, train_sea
from imagenet_sd.evaluation.probes.simple import SgdConfig, knn_scores, linear_scores, train_sgd

Rows = tuple[np.ndarray, np.ndarray]
"""Increasing rows of the training and of the validation part."""
Scores = Callable[[np.ndarray], np.ndarray]
"""From features [M, D] to scores [M, C]."""
Fitted = tuple[Scores, dict[str, float]]
"""The refitted classifier, and the hyper-parameters that were chosen."""
_CHUNK = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """What a search is told beside its trials and its seed."""

    metric: Metric = "top1"
    """What is maximised on the validation part."""
    sea: SeaSettings = field(default_factory=SeaSettings)
    """Grids of `fit_sea`."""
    concatenations: int = 0
    """Of raw features: each lets `fit_lbfgs` and `fit_path` try a hundredth of their smallest C."""


DEFAULT = SearchSettings()


def stratified_split(labels: np.ndarray, share: float, *key: str | int) -> Rows:
    """Rows of a training and a validation part, stratified and seeded.

    The share of a class is rounded down, as in the papers' evaluation code, so that a class of few images may have none
    held out. Where no class has enough of them, one image is held out of each class that has two.

    Args:
        labels: int64 [N].
        share: share of each class that is held out, in (0, 1).
        key: seeds the choice.

    Returns:
        Sorted rows int64 of (training, validation).
    """
    held: list[int] = []
    classes, sizes = np.unique(labels, return_counts=True)
    counts = np.floor(share * sizes + 1e-9).astype(int)  # 1e-9: 0.3 * 10 is 2.9999... in binary
    counts = counts if counts.any() else np.minimum(1, sizes - 1)
    for label, count in zip(classes, counts, strict=True):
        rows = np.flatnonzero(labels == label)
        order = np.random.default_rng(stable_hash("validation", *key, int(label))).permutation(rows)
        held += order[:count].tolist()
    mask = np.zeros(len(labels), bool)
    mask[held] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _optimize(objective: Callable[[Any], float], trials: int, seed: int) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    with Progress("trials", trials, brief=True) as progress:
        study.optimize(objective, n_trials=trials, callbacks=[lambda *_: progress.advance(1)])
    return study.best_params


def accuracy(scores: Scores, x: np.ndarray, y: np.ndarray, rows: np.ndarray, metric: Metric) -> float:
    """Top-1 or mean per-class accuracy on some rows, some thousands of which are in memory at a time.

    Args:
        scores: the classifier.
        x: features [N, D].
        y: labels int64 [N].
        rows: the rows that count.
        metric: which of the two.
    """
    parts = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    correct = np.concatenate([scores(x[part]).argmax(1) == y[part] for part in parts])
    return mean_per_class(correct, y[rows]) if metric == "mean_per_class" else float(correct.mean())


def fit_lbfgs(
    x: np.ndarray, y: np.ndarray, classes: int, rows: Rows, trials: int, seed: int, settings: SearchSettings = DEFAULT
) -> Fitted:
    """L-BFGS on raw features; C in [1e-5, 1e6] by TPE."""
    best = search_c(x, y, classes, rows, trials, seed, settings)
    return _refit(x, y, classes, best["C"]), best


def search_c(
    x: np.ndarray, y: np.ndarray, classes: int, rows: Rows, trials: int, seed: int, settings: SearchSettings
) -> dict[str, float]:
    """The C that `fit_lbfgs` refits with."""
    train, held = rows
    problem = LogisticProblem(x, y, classes, train)

    def objective(trial: Any) -> float:
        c = trial.suggest_float("C", 10.0 ** (-5 - 2 * settings.concatenations), 1e6, log=True)
        solution = problem.solve([c], tolerance=1e-4, max_iterations=500)
        return accuracy(lambda features: solution.scores(features, 0), x, y, held, settings.metric)

    return _optimize(objective, trials, seed)


def fit_path(
    x: np.ndarray, y: np.ndarray, classes: int, rows: Rows, trials: int, seed: int, settings: SearchSettings = DEFAULT
) -> Fitted:
    """L-BFGS over the 45 values of lambda at once (Kornblith et al., 2019); the best on validation is refitted.

    Not quite AugSelf's linear evaluation, which minimises sum_i CE_i + w |p|^2 with the bias in p, for 45 values of w
    from 1e-6 to 1e5: here it is sum_i CE_i + lambda / 2 ||W||^2 for the same values of lambda, and the bias is free.
    """
    train, held = rows
    cs = np.sort(1 / lambda_path(settings.concatenations))
    path = LogisticProblem(x, y, classes, train).solve(cs.tolist(), tolerance=1e-4, max_iterations=500)
    accuracies = [
        accuracy(lambda features, k=k: path.scores(features, k), x, y, held, settings.metric) for k in range(len(cs))
    ]
    best = float(cs[int(np.argmax(accuracies))])
    return _refit(x, y, classes, best), {"C": best}


def _refit(x: np.ndarray, y: np.ndarray, classes: int, c: float) -> Scores:
    solution = LogisticProblem(x, y, classes).solve([c], tolerance=1e-6)
    return lambda features: solution.scores(features, 0)


def fit_sgd(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    rows: Rows,
    trials: int,
    seed: int,
    settings: SearchSettings = DEFAULT,
    refit: np.ndarray | None = None,
) -> Fitted:
    """SGD on l2-normalised features; learning rate in [0.1, 100], weight decay in [1e-12, 1e-4], by TPE.

    `refit`: increasing rows that the final classifier is trained on; None: all.
    """
    train, held = rows
    whole = FeatureRows(x)

    def fitted(config: SgdConfig, rows: np.ndarray) -> Scores:
        linear = train_sgd(whole.select(rows), y[rows], classes, config, seed)
        return lambda features: linear_scores(linear.weight, linear.bias, features)

    def objective(trial: Any) -> float:
        config = SgdConfig(
            learning_rate=trial.suggest_float("learning_rate", 0.1, 100, log=True),
            weight_decay=trial.suggest_float("weight_decay", 1e-12, 1e-4, log=True),
        )
        return accuracy(fitted(config, train), x, y, held, settings.metric)

    best = _optimize(objective, trials, seed)
    return fitted(SgdConfig(**best), np.arange(len(y)) if refit is None else refit), best  # pyright: ignore[reportArgumentType]


def fit_sea(
    x: np.ndarray, y: np.ndarray, classes: int, rows: Rows, trials: int, seed: int, settings: SearchSettings = DEFAULT
) -> Fitted:
    """SeA, or a method it is compared with, on l2-normalised features; the grids of `settings.sea`, sampled by TPE."""
    train, held = rows
    sea, whole = settings.sea, FeatureRows(x)
    base = {"augmentation": sea.augmentation, "batch_size": sea.batch_size, "epochs": sea.epochs}
    grids = {name: getattr(sea, name) for name in ("learning_rate", "weight_decay", "smoothing", "margin")}
    grids |= {"alpha": sea.alpha} if sea.augmentation in ("sea", "sea_neg") else {}
    grids |= {"eta": sea.etas}

    def fitted(point: dict[str, float], rows: np.ndarray) -> Scores:
        w = train_sea(whole.select(rows), y[rows], classes, SeaConfig(**base, **point), seed)  # pyright: ignore[reportArgumentType]
        return lambda features: linear_scores(w, None, features)

    def objective(trial: Any) -> float:
        point = {name: trial.suggest_categorical(name, list(values)) for name, values in grids.items()}
        return accuracy(fitted(point, train), x, y, held, settings.metric)

    best = _optimize(objective, trials, seed)
    return fitted(best, np.arange(len(y))), best


def fit_knn(
    x: np.ndarray, y: np.ndarray, classes: int, rows: Rows, trials: int, seed: int, settings: SearchSettings = DEFAULT
) -> Fitted:
    """k-NN with k = 20 on l2-normalised features; nothing is searched."""
    return (lambda features: knn_scores(x, y, features, classes)), {"k": 20.0}


PROBES = {"lbfgs": fit_lbfgs, "path": fit_path, "sgd": fit_sgd, "sea": fit_sea, "knn": fit_knn}
"""By name. Each takes (features, labels, classes, rows, trials, seed, settings); the last may be left out."""
