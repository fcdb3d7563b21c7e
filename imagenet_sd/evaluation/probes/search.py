"""Hyper-parameters chosen on a stratified validation split, then a refit on all training images; one call per seed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.evaluation.analysis import unit
from imagenet_sd.evaluation.probes.logreg import LogisticProblem, lambda_path
from imagenet_sd.evaluation.probes.sea import SeaConfig, train_sea
from imagenet_sd.evaluation.probes.simple import SgdConfig, knn_scores, train_sgd

Rows = tuple[np.ndarray, np.ndarray]
"""Rows of the training and of the validation part."""
Fitted = tuple[Callable[[np.ndarray], np.ndarray], dict[str, float]]
"""From features to scores, and the hyper-parameters that were chosen."""


def stratified_split(labels: np.ndarray, share: float, *key: str | int) -> Rows:
    """Rows of a training and a validation part, stratified and seeded.

    Every class keeps at least one training image; a class of one image has no validation image.

    Args:
        labels: int64 [N].
        share: share of each class that is held out.
        key: seeds the choice.

    Returns:
        Sorted rows int64 of (training, validation).
    """
    held: list[int] = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        order = np.random.default_rng(stable_hash("validation", *key, int(label))).permutation(rows)
        held += order[: min(len(rows) - 1, max(1, round(share * len(rows))))].tolist()
    mask = np.zeros(len(labels), bool)
    mask[held] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _optimize(objective: Callable[[Any], float], trials: int, seed: int) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials)
    return study.best_params


def _accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    return float((scores.argmax(1) == labels).mean())


def fit_lbfgs(
    x: np.ndarray, y: np.ndarray, classes: int, rows: Rows, trials: int, seed: int, concatenations: int = 0
) -> Fitted:
    """L-BFGS on raw features; C in [1e-5, 1e6] by TPE, from 100 times lower for each concatenation of raw features."""
    train, held = rows
    problem = LogisticProblem(x[train], y[train], classes)

    def objective(trial: Any) -> float:
        c = trial.suggest_float("C", 10.0 ** (-5 - 2 * concatenations), 1e6, log=True)
        return _accuracy(problem.solve([c], tolerance=1e-4, max_iterations=500).scores(x[held], 0), y[held])

    best = _optimize(objective, trials, seed)
    solution = LogisticProblem(x, y, classes).solve([best["C"]], tolerance=1e-6)
    return (lambda features: solution.scores(features, 0)), best


def fit_path(
    x: np.ndarray, y: np.ndarray, classes: int, rows: Rows, trials: int, seed: int, concatenations: int = 0
) -> Fitted:
    """L-BFGS over the 45 values of lambda at once (Kornblith et al., 2019); the best on validation is refitted."""
    train, held = rows
    cs = np.sort(1 / lambda_path(concatenations))
    path = LogisticProblem(x[train], y[train], classes).solve(cs.tolist(), tolerance=1e-4, max_iterations=500)
    accuracies = [_accuracy(path.scores(x[held], k), y[held]) for k in range(len(cs))]
    best = float(cs[int(np.argmax(accuracies))])
    solution = LogisticProblem(x, y, classes).solve([best], tolerance=1e-6)
    return (lambda features: solution.scores(features, 0)), {"C": best}


def fit_sgd(x: np.ndarray, y: np.ndarray, classes: int, rows: Rows, trials: int, seed: int) -> Fitted:
    """SGD on l2-normalised features; learning rate in [0.1, 100], weight decay in [1e-12, 1e-4], by TPE."""
    import torch

    train, held = rows
    x = unit(x)

    def scores(model: Any, features: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.as_tensor(np.asarray(features, np.float32))).numpy()

    def objective(trial: Any) -> float:
        config = SgdConfig(
            learning_rate=trial.suggest_float("learning_rate", 0.1, 100, log=True),
            weight_decay=trial.suggest_float("weight_decay", 1e-12, 1e-4, log=True),
        )
        return _accuracy(scores(train_sgd(x[train], y[train], classes, config, seed), x[held]), y[held])

    best = _optimize(objective, trials, seed)
    model = train_sgd(x, y, classes, SgdConfig(**best), seed)  # pyright: ignore[reportArgumentType]
    return (lambda features: scores(model, unit(features))), best


def fit_sea(
    x: np.ndarray, y: np.ndarray, classes: int, rows: Rows, trials: int, seed: int, base: SeaConfig | None = None
) -> Fitted:
    """SeA on l2-normalised features; the paper's grids, sampled by TPE."""
    train, held = rows
    x, base = unit(x), base or SeaConfig()
    steps = {"none": [0.0], "adv": [0.005, 0.01, 0.02, 0.05]}.get(base.augmentation, [0.2, 0.4, 0.8, 1.0])

    def objective(trial: Any) -> float:
        w = train_sea(x[train], y[train], classes, replace(base, **_suggest(trial, steps)), seed)
        return _accuracy(x[held] @ w.T, y[held])

    best = _optimize(objective, trials, seed)
    w = train_sea(x, y, classes, replace(base, **best), seed)  # pyright: ignore[reportArgumentType]
    return (lambda features: unit(features) @ w.T), best


def _suggest(trial: Any, steps: list[float]) -> dict[str, float]:
    """One point of the grids of the SeA paper, section 4."""
    return {
        "learning_rate": trial.suggest_categorical("learning_rate", [2.0**i for i in range(-2, 4)]),
        "weight_decay": trial.suggest_categorical("weight_decay", [0.0, 1e-6, 1e-5, 1e-4]),
        "alpha": trial.suggest_categorical("alpha", [0.01, 0.02, 0.05]),
        "smoothing": trial.suggest_categorical("smoothing", [0.05, 0.1, 1.0]),
        "margin": trial.suggest_categorical("margin", [0.0, 1.0]),
        "eta": trial.suggest_categorical("eta", steps),
    }


def fit_knn(x: np.ndarray, y: np.ndarray, classes: int, rows: Rows, trials: int, seed: int) -> Fitted:
    """k-NN with k = 20 on l2-normalised features; nothing is searched."""
    x = unit(x)
    return (lambda features: knn_scores(x, y, unit(features), classes)), {"k": 20.0}


PROBES = {"lbfgs": fit_lbfgs, "path": fit_path, "sgd": fit_sgd, "sea": fit_sea, "knn": fit_knn}
