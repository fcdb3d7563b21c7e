"""Suites that train a classifier on frozen features: transfer, CoG levels, few-shot and episodes."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from imagenet_sd.core.progress import Progress, counted, note
from imagenet_sd.core.results import ProbeResult
from imagenet_sd.core.seeds import stable_hash
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.core.types import FeatureSet
from imagenet_sd.data.transfer import TRANSFER_SETS
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError, Metric
from imagenet_sd.evaluation.features import Extracted
from imagenet_sd.evaluation.metrics import combine, score
from imagenet_sd.evaluation.probes.memory import memory_line
from imagenet_sd.evaluation.probes.one_vs_rest import one_vs_rest
from imagenet_sd.evaluation.probes.search import PROBES, SearchSettings, fit_sgd, stratified_split

_POOLED = ("cub",)
"""Transfer sets whose episodes take the images of both splits (AugSelf)."""
_TOGETHER = 64
"""Episodes that are solved at once."""


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


def selection_metric(spec: DataSpec | None, probe: str, config: EvalConfig) -> Metric:
    """What hyper-parameters are chosen by: what the user asks for, else the measure of the probe's protocol."""
    if config.selection != "auto":
        return config.selection
    if spec is None or spec.kind != "torchvision":
        return "top1"
    known = TRANSFER_SETS[spec.name]
    return known.metric_sea if probe in ("sea", "path") else known.metric


def probe_dataset(
    name: str, train: Extracted, test: Extracted, config: EvalConfig, spec: DataSpec | None = None
) -> ProbeResult:
    """One data set: per seed, choose hyper-parameters on a validation split, refit on all, score the test images.

    Raises:
        EvaluationError: a test class has no training images, or there is nothing to validate on.
    """
    kind = config.probe
    if kind == "auto":
        kind = "sgd" if len(train.data.labels) >= config.large else "lbfgs"
    x_test, y_test, classes = aligned(train, test, name)
    x, y = train.data.features, train.data.labels
    if len(y) == len(np.unique(y)):
        raise EvaluationError(
            f"{name}: no class has a second training image", "hyper-parameters need validation images"
        )
    note(memory_line(name, kind, len(y), x.shape[1], classes))
    settings = SearchSettings(
        metric=selection_metric(spec, kind, config), sea=config.sea, concatenations=train.concatenations
    )
    results, chosen = [], []
    for seed in config.seeds:
        rows = stratified_split(y, config.validation_share, name, seed)
        scores, best = PROBES[kind](x, y, classes, rows, config.trials, seed, settings)
        results.append(score(scores(x_test), y_test, seed))
        chosen.append(best)
        if kind == "knn":
            break  # nothing in it depends on the seed
    return ProbeResult(
        probe=kind if kind != "sea" or config.sea.augmentation == "sea" else f"sea-{config.sea.augmentation}",
        **combine(results),
        num_train=len(y),
        num_classes=classes,
        seeds=config.seeds[: len(results)],
        hyper_parameters=tuple(chosen),
        selected_by=settings.metric,
        **_provenance(name, train, test),
    )


def few_shot(
    name: str, train: Extracted, test: Extracted, config: EvalConfig, spec: DataSpec | None = None
) -> Iterator[ProbeResult]:
    """Few-shot classifiers (CoG) and episodes (AugSelf) of one data set.

    Raises:
        EvaluationError: a class has too few images for the shots, or too few classes have enough for an episode.
    """
    pool = test
    if config.episode_pool == "all" or (
        config.episode_pool == "auto" and spec is not None and spec.kind == "torchvision" and spec.name in _POOLED
    ):
        pool = pooled(train, test, name)
    _check_shots(name, train, config)
    _check_episodes(name, pool, config)
    yield from fewshot_dataset(name, train, test, config, spec)
    yield from episodes(name, pool, config, "test" if pool is test else "train+test")


def _check_shots(name: str, train: Extracted, config: EvalConfig) -> None:
    kept, _ = stratified_split(train.data.labels, config.validation_share, name, config.seeds[0])
    counts = np.bincount(train.data.labels[kept], minlength=len(train.classes))
    counts[np.bincount(train.data.labels, minlength=len(train.classes)) == 0] = 1 << 60  # a class without images
    worst = int(counts.argmin())
    if config.shots and max(config.shots) > counts[worst]:
        raise EvaluationError(
            f"{name}: class {train.classes[worst]!r} has {counts[worst]} training images beside its validation images, "
            f"not {max(config.shots)}",
            f"set shots to at most {counts[worst]}",
        )


def _check_episodes(name: str, pool: Extracted, config: EvalConfig) -> None:
    if not config.episodes or not config.episode_shots:
        return
    needed = max(config.episode_shots) + config.queries
    usable = int((np.bincount(pool.data.labels, minlength=len(pool.classes)) >= needed).sum())
    if usable < config.ways:
        raise EvaluationError(
            f"{name}: {usable} classes have the {needed} test images of an episode, not {config.ways}",
            "set episodes to 0, or fewer ways, queries or episode_shots; episode_pool: all takes both splits",
        )


def fewshot_dataset(
    name: str, train: Extracted, test: Extracted, config: EvalConfig, spec: DataSpec | None = None
) -> Iterator[ProbeResult]:
    """SGD on l2-normalised features of N training images per class (thesis 3.3.4 and Fig. 3.5).

    The search sees N images of each class out of those that are not held out for validation, the final classifier N out
    of all.
    """
    x_test, y_test, classes = aligned(train, test, name)
    x, y = train.data.features, train.data.labels
    everything, settings = np.arange(len(y)), SearchSettings(metric=selection_metric(spec, "sgd", config))
    if config.shots:
        note(memory_line(name, "sgd", len(y), x.shape[1], classes))
    for shots in config.shots:
        note(f"{name}: few-shot, {counted(shots, 'image')} per class")
        results, chosen = [], []
        for seed in config.seeds:
            kept, held = stratified_split(y, config.validation_share, name, seed)
            few = _sample_shots(y, kept, shots, "fewshot", name, seed)
            final = _sample_shots(y, everything, shots, "fewshot-final", name, seed)
            scores, best = fit_sgd(x, y, classes, (few, held), config.trials, seed, settings=settings, refit=final)
            results.append(score(scores(x_test), y_test, seed))
            chosen.append(best)
        yield ProbeResult(
            probe=f"fewshot-{shots}",
            **combine(results),
            num_train=shots * len(np.unique(y)),
            num_classes=classes,
            seeds=config.seeds,
            hyper_parameters=tuple(chosen),
            selected_by=settings.metric,
            **_provenance(name, train, test),
        )


def _sample_shots(labels: np.ndarray, rows: np.ndarray, shots: int, *key: str | int) -> np.ndarray:
    """`shots` rows of every class, increasing."""
    sampled = []
    for label in np.unique(labels):
        members = rows[labels[rows] == label]
        order = np.random.default_rng(stable_hash(*key, shots, int(label))).permutation(members)
        sampled.append(order[:shots])
    return np.sort(np.concatenate(sampled))


def pooled(train: Extracted, test: Extracted, name: str) -> Extracted:
    """The images of both splits as one set, in the numbering of the training classes."""
    features, labels, _ = aligned(train, test, name)
    return replace(
        train,
        data=FeatureSet(
            features=np.concatenate([train.data.features, features]), labels=np.concatenate([train.data.labels, labels])
        ),
        unreadable=train.unreadable + test.unreadable,
        cache_key=f"{train.cache_key}+{test.cache_key}",
        from_cache=train.from_cache and test.from_cache,
        digests=np.concatenate([train.digests, test.digests]),
    )


def episodes(name: str, pool: Extracted, config: EvalConfig, split: str = "test") -> Iterator[ProbeResult]:
    """(N, K) tasks of AugSelf: N classes, K training and some test images each, logistic regression on raw features.

    One-vs-rest with C = 1. Top-1 is the mean over the episodes; `top1_interval` its normal 95% interval.
    """
    if not config.episodes:
        return
    x, y = pool.data.features, pool.data.labels
    members = [np.flatnonzero(y == c) for c in range(len(pool.classes))]
    targets = np.repeat(np.arange(config.ways), config.queries)
    for shots in config.episode_shots:
        usable = np.flatnonzero([len(rows) >= shots + config.queries for rows in members])
        sampled = [_episode(name, members, usable, shots, config, number) for number in range(config.episodes)]
        parts = []
        with Progress("episodes", len(sampled), brief=True) as progress:
            for start in range(0, len(sampled), _TOGETHER):
                together = sampled[start : start + _TOGETHER]
                parts.append(_episode_accuracies(x, together, shots, targets))
                progress.advance(len(together))
        accuracies = np.concatenate(parts)
        mean, half = float(accuracies.mean()), 1.96 * float(accuracies.std()) / len(accuracies) ** 0.5
        yield ProbeResult(
            probe=f"episodes-{config.ways}-way-{shots}-shot",
            top1=mean,
            top1_sd=float(accuracies.std()),
            top1_interval=(mean - half, mean + half),
            num_test=config.episodes * len(targets),
            num_classes=config.ways,
            seeds=config.seeds[:1],
            hyper_parameters=({"C": 1.0},),
            **_provenance(name, pool, split=split),
        )


def _episode(
    name: str, members: list[np.ndarray], usable: np.ndarray, shots: int, config: EvalConfig, number: int
) -> np.ndarray:
    """Rows of an episode [ways, shots + queries]."""
    rng = np.random.default_rng(stable_hash("episode", name, shots, config.seeds[0], number))
    picked = rng.choice(usable, config.ways, replace=False)
    return np.stack([rng.choice(members[c], shots + config.queries, replace=False) for c in picked])


def _episode_accuracies(x: np.ndarray, sampled: list[np.ndarray], shots: int, targets: np.ndarray) -> np.ndarray:
    rows = np.stack(sampled)  # [T, ways, shots + queries]
    support, query = (
        torch.from_numpy(np.asarray(x[part.reshape(len(rows), -1)], np.float64))
        for part in (rows[:, :, :shots], rows[:, :, shots:])
    )
    labels = torch.arange(rows.shape[1]).repeat_interleave(shots)
    return (one_vs_rest(support, labels, query).argmax(2).numpy() == targets).mean(1)


def _provenance(name: str, *features: Extracted, split: str = "test") -> dict[str, Any]:
    return {
        "dataset": name,
        "split": split,
        "cache_keys": tuple(each.cache_key for each in features),
        "unreadable": tuple(image for each in features for image in each.unreadable),
    }
