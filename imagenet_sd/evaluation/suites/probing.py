"""Suites that train a classifier on frozen features: transfer, CoG levels, few-shot and episodes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from imagenet_sd.core.progress import tracked
from imagenet_sd.core.results import ProbeResult
from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.evaluation.analysis import unit
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.features import Extracted
from imagenet_sd.evaluation.metrics import combine, score
from imagenet_sd.evaluation.probes.logreg import LogisticProblem
from imagenet_sd.evaluation.probes.search import PROBES, stratified_split


def aligned(train: Extracted, test: Extracted, name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Test features and labels in the numbering of the training classes, matched by class id.

    Raises:
        EvaluationError: a test class is not among the training classes.
    """
    number = {wnid: i for i, wnid in enumerate(train.classes)}
    used = np.unique(test.data.labels)
    unknown = [test.classes[i] for i in used if test.classes[i] not in number]
    if unknown:
        raise EvaluationError(f"{name}: test class {unknown[0]!r} has no training images", "check the two splits")
    lookup = np.array([number.get(wnid, -1) for wnid in test.classes])
    return test.data.features, lookup[test.data.labels], len(train.classes)


def probe_dataset(name: str, train: Extracted, test: Extracted, config: EvalConfig) -> ProbeResult:
    """One data set: per seed, choose hyper-parameters on a validation split, refit on all, score the test images."""
    kind = config.probe
    if kind == "auto":
        kind = "sgd" if len(train.data.labels) >= config.large else "lbfgs"
    x_test, y_test, classes = aligned(train, test, name)
    x, y = train.data.features, train.data.labels
    results, chosen = [], []
    for seed in config.seeds:
        rows = stratified_split(y, config.validation_share, name, seed)
        scores, best = PROBES[kind](x, y, classes, rows, config.trials, seed)
        results.append(score(scores(x_test), y_test, seed))
        chosen.append(best)
        if kind == "knn":
            break  # nothing in it depends on the seed
    return ProbeResult(
        probe=kind,
        **combine(results),
        num_train=len(y),
        num_classes=classes,
        seeds=config.seeds[: len(results)],
        hyper_parameters=tuple(chosen),
        **_provenance(name, train, test),
    )


def fewshot_dataset(name: str, train: Extracted, test: Extracted, config: EvalConfig) -> Iterator[ProbeResult]:
    """N training images per class, sampled after the validation split is taken off (CoG); C chosen on that split."""
    x_test, y_test, classes = aligned(train, test, name)
    x, y = train.data.features, train.data.labels
    for shots in tracked("few-shot sizes", config.shots):
        results, chosen = [], []
        for seed in config.seeds:
            kept, held = stratified_split(y, config.validation_share, name, seed)
            few = _sample_shots(y, kept, shots, "fewshot", name, seed)
            if few is None:
                break
            rows = np.concatenate([few, held])
            local = (np.arange(len(few)), np.arange(len(few), len(rows)))
            _, best = PROBES["lbfgs"](x[rows], y[rows], classes, local, config.trials, seed)
            fitted = LogisticProblem(x[few], y[few], classes).solve([best["C"]], tolerance=1e-6)
            results.append(score(fitted.scores(x_test, 0), y_test, seed))
            chosen.append(best)
        if results:
            yield ProbeResult(
                probe=f"fewshot-{shots}",
                **combine(results),
                num_train=shots * classes,
                num_classes=classes,
                seeds=config.seeds,
                hyper_parameters=tuple(chosen),
                **_provenance(name, train, test),
            )


def _sample_shots(labels: np.ndarray, rows: np.ndarray, shots: int, *key: str | int) -> np.ndarray | None:
    """`shots` rows of every class; None when a class has fewer."""
    sampled = []
    for label in np.unique(labels):
        members = rows[labels[rows] == label]
        if len(members) < shots:
            return None
        order = np.random.default_rng(stable_hash(*key, shots, int(label))).permutation(members)
        sampled.append(order[:shots])
    return np.concatenate(sampled)


def episodes(name: str, pool: Extracted, config: EvalConfig, queries: int = 15) -> Iterator[ProbeResult]:
    """(N, K) tasks: N classes, K training and 15 test images each, logistic regression with C = 1 (AugSelf).

    Top-1 is the mean over the episodes; `top1_interval` its normal 95% interval.
    """
    x, y = unit(pool.data.features), pool.data.labels
    for shots in config.episode_shots:
        counts = np.bincount(y, minlength=len(pool.classes))
        usable = np.flatnonzero(counts >= shots + queries)
        if len(usable) < config.ways or not config.episodes:
            continue
        accuracies = []
        for episode in tracked("episodes", range(config.episodes)):
            rng = np.random.default_rng(stable_hash("episode", name, shots, config.seeds[0], episode))
            picked = rng.choice(usable, config.ways, replace=False)
            chosen = [rng.permutation(np.flatnonzero(y == c))[: shots + queries] for c in picked]
            support = np.concatenate([rows[:shots] for rows in chosen])
            query = np.concatenate([rows[shots:] for rows in chosen])
            problem = LogisticProblem(x[support], np.repeat(np.arange(config.ways), shots), config.ways)
            predicted = problem.solve([1.0], tolerance=1e-5).scores(x[query], 0).argmax(1)
            accuracies.append(float((predicted == np.repeat(np.arange(config.ways), queries)).mean()))
        mean, half = float(np.mean(accuracies)), 1.96 * float(np.std(accuracies)) / len(accuracies) ** 0.5
        yield ProbeResult(
            probe=f"episodes-{config.ways}-way-{shots}-shot",
            top1=mean,
            top1_sd=float(np.std(accuracies)),
            top1_interval=(mean - half, mean + half),
            num_test=config.episodes * config.ways * queries,
            num_classes=config.ways,
            seeds=config.seeds[:1],
            hyper_parameters=({"C": 1.0},),
            **_provenance(name, pool),
        )


def _provenance(name: str, *features: Extracted) -> dict[str, Any]:
    return {
        "dataset": name,
        "split": "test",
        "cache_keys": tuple(each.cache_key for each in features),
        "unreadable": tuple(image for each in features for image in each.unreadable),
    }
