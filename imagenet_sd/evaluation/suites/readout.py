"""Linear read-outs of frozen features: ridge regression for numbers, logistic regression for classes.

Both choose among 45 penalties from 1e-6 to 1e5 by 5-fold cross-validation and refit on all training images (Ericsson et
al., 2022). Features of several encoders side by side widen the range. Ridge chooses by R^2, logistic regression by
accuracy: per class on the sets that are measured so, such as Caltech-101 and Flowers, else top-1.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from imagenet_sd.core.results import ProbeResult, RegressionResult
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.images import ImageSet
from imagenet_sd.data.targets import OWN_TARGETS, Rotated, TargetSet, own_targets
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError, Metric
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.features import Extracted, concatenate, extract
from imagenet_sd.evaluation.metrics import combine, score
from imagenet_sd.evaluation.probes.logreg import LogisticProblem, lambda_path
from imagenet_sd.evaluation.probes.ridge import cross_validate_ridge, folds, r_squared
from imagenet_sd.evaluation.probes.search import accuracy
from imagenet_sd.evaluation.splits import R, check_apart, check_classes, noted, open_apart
from imagenet_sd.evaluation.suites.probing import aligned, selection_metric

FOLDS = 5
Features = tuple[Extracted, Extracted]
"""Of the training and of the test images."""


def measure_readouts(
    encoders: list[Encoder], name: str, spec: DataSpec, config: EvalConfig, cache: Path
) -> tuple[list[ProbeResult | RegressionResult], bool]:
    """The read-outs of one data set.

    Args:
        encoders: one, or several whose features stand side by side.
        name: of the data.
        spec: the data; `targets:TSV` brings its targets, of other data `config.targets` says which.
        config: targets, fusion, selection, crop and batch size.
        cache: folder of the feature cache.

    Returns:
        One result per target, and whether all features came from the cache.

    Raises:
        EvaluationError: there is no such target, one class only where the class is read out, or too few images.
    """
    if spec.kind == "targets" and spec.limit:
        raise EvaluationError(f"{spec}: a table of targets has no classes", "leave @per_class out")
    train_images, test_images, note = open_apart(name, spec)
    sets = (train_images, test_images)
    concatenations = len(encoders) - 1 if config.fusion == "raw" else 0

    def features(change: Callable[[ImageSet], ImageSet] = lambda images: images) -> Features:
        train, test = (
            concatenate([extract(encoder, change(images), config, cache) for encoder in encoders], config.fusion)
            for images in sets
        )
        return train, test

    if isinstance(sets[0], TargetSet) and isinstance(sets[1], TargetSet):
        found = features()
        numbers = _readable(sets[0], found[0]), _readable(sets[1], found[1])
        result = _ridge(name, found, numbers, sets[0].target_names, concatenations)
        return [_noted(result, note, found)], all(each.from_cache for each in found)
    results, cached = [], True
    for target in filter(None, (part.strip() for part in config.targets.split(","))):
        if target != "class" and target not in OWN_TARGETS:
            raise EvaluationError(f"no target {target!r}", f"use some of class, {', '.join(OWN_TARGETS)}, with commas")
        if target == "class":
            check_classes(train_images)
        found = features(Rotated) if target == "rotation" else features()
        cached &= all(each.from_cache for each in found)
        if target == "class":
            result = _logistic(name, found, concatenations, selection_metric(spec, "path", config))
        else:
            numbers = own_targets(sets[0], target), own_targets(sets[1], target)
            result = _ridge(f"{name}-{target}", found, numbers, OWN_TARGETS[target], concatenations)
        results.append(_noted(result, note, found))
    return results, cached


def _noted(result: R, note: str, found: Features) -> R:
    return noted(result, "; ".join(filter(None, (note, check_apart(*found, result.dataset)))))


def _readable(images: TargetSet, found: Extracted) -> np.ndarray:
    lost = set(found.unreadable)
    return images.targets[[path not in lost for path, _ in images.files]]


def _ridge(
    name: str, found: Features, targets: tuple[np.ndarray, np.ndarray], names: tuple[str, ...], concatenations: int
) -> RegressionResult:
    train, test = found
    x, y = train.data.features, targets[0]
    penalties = lambda_path(concatenations).tolist()
    chosen = cross_validate_ridge(x, y, penalties, _folds(name, len(x)))
    per_target = r_squared(chosen.solution.predict(test.data.features, 0), targets[1])
    return RegressionResult(
        dataset=name,
        split="test",
        probe="ridge",
        targets=names,
        r2=float(per_target.mean()),
        r2_per_target=tuple(per_target.tolist()),
        r2_folds=chosen.mean,
        r2_folds_sd=chosen.sd,
        num_train=len(x),
        num_test=len(targets[1]),
        hyper_parameters=({"penalty": chosen.penalty},),
        cache_keys=(train.cache_key, test.cache_key),
        unreadable=(*train.unreadable, *test.unreadable),
    )


def _folds(name: str, count: int) -> list[np.ndarray]:
    if count < FOLDS:
        raise EvaluationError(
            f"{name}: {count} training images are too few for {FOLDS}-fold cross-validation", "give more images"
        )
    return folds(count, FOLDS, name)


def _logistic(name: str, found: Features, concatenations: int, metric: Metric) -> ProbeResult:
    train, test = found
    x_test, y_test, classes = aligned(train, test, name)
    x, y = train.data.features, train.data.labels
    cs = np.sort(1 / lambda_path(concatenations))
    scores = np.zeros((FOLDS, len(cs)))
    for number, held in enumerate(_folds(name, len(x))):
        rows = np.delete(np.arange(len(x)), held)
        path = LogisticProblem(x, y, classes, rows).solve(cs.tolist(), tolerance=1e-4, max_iterations=500)
        scores[number] = [
            accuracy(lambda part, path=path, k=k: path.scores(part, k), x, y, held, metric) for k in range(len(cs))
        ]
    best = float(cs[scores.mean(0).argmax()])
    solution = LogisticProblem(x, y, classes).solve([best], tolerance=1e-6)
    return ProbeResult(
        dataset=name,
        split="test",
        probe=f"logistic-{FOLDS}-fold",
        **combine([score(solution.scores(x_test, 0), y_test)]),
        num_train=len(y),
        num_classes=classes,
        seeds=(),
        hyper_parameters=({"C": best},),
        selected_by=metric,
        cache_keys=(train.cache_key, test.cache_key),
        unreadable=(*train.unreadable, *test.unreadable),
    )
