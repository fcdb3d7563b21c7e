"""Probes scored on other data than their own: the ImageNet test sets of thesis Tab. 4.2, and a check for label noise.

Suite `imagenet-probe`: the linear classifier that was trained on the frozen features of one data set is applied to
further test sets of its classes. Suite `label-noise` (3.5.3): of two sets without a class in common, the classifier of
each is applied to the other; images that it is very sure of may show one of its classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from imagenet_sd.core.results import LabelNoise, Mistake, ProbeResult
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.features import Extracted
from imagenet_sd.evaluation.metrics import combine
from imagenet_sd.evaluation.probes.search import PROBES, SearchSettings, stratified_split
from imagenet_sd.evaluation.suites.imagenet import classify, mean_of
from imagenet_sd.evaluation.suites.probing import selection_metric

Scores = Callable[[np.ndarray], np.ndarray]
"""From features float [N, D] to scores [N, C]."""
CONFIDENT = 0.99
"""Probability of the predicted class from which 3.5.3 counts a prediction as very confident."""
_EXAMPLES = 50


class _ProbeHead(torch.nn.Module):
    """A fitted probe in the place of an encoder's own classifier."""

    def __init__(self, scores: Scores):
        super().__init__()
        self.scores = scores

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.scores(features.numpy())))


def training_set(data: Mapping[str, DataSpec]) -> str:
    """The name of the data set that trains the probe of `imagenet-probe`: the first that has training images.

    Raises:
        EvaluationError: all are test sets of the ImageNet family.
    """
    for name, spec in data.items():
        if spec.kind != "imagenet":
            return name
    raise EvaluationError("there are no training images", "give ImageNet's as --data in1k=imagefolder:DIR")


def fit_probe(name: str, train: Extracted, config: EvalConfig, seed: int) -> tuple[str, Scores, dict[str, float]]:
    """One probe of the transfer protocol: hyper-parameters from a validation split, then a fit on all images.

    They are chosen by top-1, or by what `config.selection` asks for.

    Returns:
        The kind of probe, its scores as a function of features, and its hyper-parameters.
    """
    labels = train.data.labels
    kind = config.probe
    if kind == "auto":
        kind = "sgd" if len(labels) >= config.large else "lbfgs"
    rows = stratified_split(labels, config.validation_share, name, seed)
    settings = SearchSettings(
        metric=selection_metric(None, kind, config), sea=config.sea, concatenations=train.concatenations
    )
    scores, best = PROBES[kind](train.data.features, labels, len(train.classes), rows, config.trials, seed, settings)
    return kind, scores, best


def score_elsewhere(
    name: str, train: Extracted, tests: Mapping[str, Extracted], config: EvalConfig
) -> Iterator[ProbeResult]:
    """The probes of one training set on several test sets, classes matched by id; the mean of ImageNet-v2 too.

    Args:
        name: the training set.
        train: its training features.
        tests: name -> test features.
        config: seeds and probe; each seed fits one probe, which scores all test sets.

    Raises:
        EvaluationError: a test set has no class of the training set.
    """
    found: dict[str, list[ProbeResult]] = {test: [] for test in tests}
    kind, chosen = "", []
    for seed in config.seeds:
        kind, scores, best = fit_probe(name, train, config, seed)
        chosen.append(best)
        head = Encoder(
            name=f"the probe on {name}",
            module=torch.nn.Identity(),
            fingerprint="",
            head=_ProbeHead(scores),
            classes=tuple(train.classes),
        )
        for test, features in tests.items():
            found[test].append(classify(head, test, features))
    results = [_over_seeds(parts, kind, chosen, train, config) for parts in found.values()]
    yield from results
    v2 = [result for result in results if result.dataset.startswith("v2-")]
    if len(v2) == 3:
        yield mean_of(v2, "v2")


def _over_seeds(
    results: list[ProbeResult], kind: str, chosen: list[dict[str, float]], train: Extracted, config: EvalConfig
) -> ProbeResult:
    """The mean over the probes of all seeds on one test set."""
    first = results[0]
    per_class = {wnid: float(np.mean([result.per_class[wnid] for result in results])) for wnid in first.per_class}
    changes = combine(results) | {
        "probe": kind,
        "num_train": len(train.data.labels),
        "seeds": config.seeds,
        "hyper_parameters": tuple(chosen),
        "selected_by": selection_metric(None, kind, config),
        "per_class": per_class,
        "cache_keys": (*first.cache_keys, train.cache_key),
        "unreadable": (*first.unreadable, *train.unreadable),
    }
    return first.model_copy(update=changes)


def label_noise(
    sets: Mapping[str, tuple[Extracted, Extracted]], names: Mapping[str, Sequence[str]], config: EvalConfig
) -> Iterator[LabelNoise]:
    """The share of test images of one set that the classifier of the other is very sure of, in both directions.

    Args:
        sets: name -> (training, test) features of two sets that share no class.
        names: name -> names of its test images, in their order.
        config: the probe; the first seed counts.

    Raises:
        EvaluationError: there are not two sets, they share a class, or the probe gives no probabilities.
    """
    if len(sets) != 2:
        raise EvaluationError(f"the suite label-noise compares two data sets, not {len(sets)}", "give --data twice")
    if config.probe not in ("auto", "lbfgs", "sgd", "path"):
        raise EvaluationError(f"the probe {config.probe} gives no probabilities", "use lbfgs or sgd")
    (first, second), (one, other) = sets, sets.values()
    if shared := sorted(set(one[0].classes) & set(other[0].classes)):
        raise EvaluationError(f"{first} and {second} share the class {shared[0]}", "compare sets of different classes")
    for classifier, name in ((first, second), (second, first)):
        train, test = sets[classifier][0], sets[name][1]
        kind, scores, best = fit_probe(classifier, train, config, config.seeds[0])
        logits = torch.as_tensor(scores(test.data.features)).double()
        probability, predicted = logits.softmax(1).max(1)
        order = torch.argsort(probability, descending=True, stable=True)
        sure = [int(row) for row in order if probability[row] > CONFIDENT]
        yield LabelNoise(
            dataset=name,
            split="test",
            probe="label-noise",
            classifier=classifier,
            classifier_probe=kind,
            threshold=CONFIDENT,
            confident=len(sure) / len(probability),
            num_test=len(probability),
            num_classes=len(train.classes),
            seeds=config.seeds[:1],
            hyper_parameters=(best,),
            examples=tuple(
                Mistake(
                    image=names[name][row],
                    wnid=test.classes[test.data.labels[row]],
                    predicted=train.classes[int(predicted[row])],
                )
                for row in sure[:_EXAMPLES]
            ),
            cache_keys=(train.cache_key, test.cache_key),
            unreadable=(*train.unreadable, *test.unreadable),
        )
