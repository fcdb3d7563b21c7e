"""One evaluation: encoders and data in, `results.json` out."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imagenet_sd import __version__
from imagenet_sd.core.files import write_json
from imagenet_sd.core.results import AnyResult, EvaluationResults, PreprocessingRecord, ProbeResult
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.open import has_test_images, open_images
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.features import Extracted, concatenate, extract, versions
from imagenet_sd.evaluation.splits import check_apart, check_classes, hold_out, noted, overlap, whole_note
from imagenet_sd.evaluation.suites.analysis import analyse_dataset, analysed_splits
from imagenet_sd.evaluation.suites.gradient import measure_gradient
from imagenet_sd.evaluation.suites.imagenet import classify, mean_of
from imagenet_sd.evaluation.suites.invariance import measure_invariance
from imagenet_sd.evaluation.suites.probing import few_shot, probe_dataset
from imagenet_sd.evaluation.suites.readout import measure_readouts
from imagenet_sd.evaluation.suites.shift import label_noise, score_elsewhere, training_set

_OF_IMAGES = {"invariance": measure_invariance, "readout": measure_readouts, "gradient": measure_gradient}
"""What needs the images and not only their features: by the name of the suite, or `gradient`."""

Features = Callable[[DataSpec, str], Extracted]
"""Features of one split of a data set."""


def evaluate(
    encoders: list[Encoder],
    data: Mapping[str, DataSpec],
    config: EvalConfig,
    cache: Path,
    out: Path | None = None,
) -> dict[str, Any]:
    """Evaluate an encoder, or several as one (their features side by side).

    Args:
        encoders: at least one.
        data: name -> what to open.
        config: what to measure.
        cache: folder of the feature cache.
        out: file for the results; None for none.

    Returns:
        The JSON of `EvaluationResults`, equal for equal inputs and seeds, and `features_from_cache`.

    Raises:
        EvaluationError: the data or the encoder do not fit the suite.
    """
    if not data:
        raise EvaluationError("no data to evaluate on", "give --data NAME=SPEC, such as --data mnist=builtin:mnist")
    from_cache = True

    def features(spec: DataSpec, split: str) -> Extracted:
        nonlocal from_cache
        images = open_images(spec, split)
        check_classes(images)
        joined = concatenate([extract(encoder, images, config, cache) for encoder in encoders], config.fusion)
        from_cache &= joined.from_cache
        return joined

    if of_images := _OF_IMAGES.get("gradient" if config.probe == "gradient" else config.suite):
        measured = [of_images(encoders, name, spec, config, cache) for name, spec in data.items()]
        results: list[AnyResult] = [result for found, _ in measured for result in found]
        from_cache = all(cached for _, cached in measured)
    else:
        results = list(_measure(encoders, data, features, config))
    v2 = [result for result in results if isinstance(result, ProbeResult) and result.dataset.startswith("v2-")]
    if config.suite == "imagenet" and len(v2) == 3:
        results.append(mean_of(v2, "v2"))
    document = EvaluationResults(
        encoder="+".join(encoder.name for encoder in encoders),
        suite=config.suite,  # pyright: ignore[reportArgumentType]  # checked by the config
        results=tuple(results),
        data={name: str(spec) for name, spec in data.items()},
        encoder_fingerprints=tuple(encoder.fingerprint for encoder in encoders),
        preprocessing=tuple(_record(encoder, config) for encoder in encoders),
        versions={"imagenet-sd": __version__, **versions()},
    ).to_json()
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, document)
    return document | {"features_from_cache": from_cache}


def _record(encoder: Encoder, config: EvalConfig) -> PreprocessingRecord:
    return PreprocessingRecord(chosen_by=config.preprocessing, **asdict(encoder.preprocessing(config)))


def _measure(
    encoders: list[Encoder], data: Mapping[str, DataSpec], features: Features, config: EvalConfig
) -> Iterator[AnyResult]:
    """What the suite measures, with notes on the splits."""
    if config.suite == "imagenet-probe":
        yield from _imagenet_probe(data, features, config)
    elif config.suite == "label-noise":
        sets = {name: (features(spec, "train"), features(spec, "test")) for name, spec in data.items()}
        names = {name: _image_names(spec, sets[name][1]) for name, spec in data.items()}
        for result in label_noise(sets, names, config):
            yield noted(result, whole_note(data[result.dataset]))
    else:
        for name, spec in data.items():
            yield from _measure_one(encoders, name, spec, features, config)


def _measure_one(
    encoders: list[Encoder], name: str, spec: DataSpec, features: Features, config: EvalConfig
) -> Iterator[AnyResult]:
    """One data set of the suites that take each on its own."""
    if config.suite == "analysis":
        splits = analysed_splits(spec, open_images(spec, "test").classes, encoders)
        yield noted(analyse_dataset(name, [features(spec, split) for split in splits]), _own_note(spec))
    elif config.suite == "imagenet":
        if len(encoders) > 1:
            raise EvaluationError("the imagenet suite takes one encoder", "evaluate ensembles with --suite transfer")
        yield noted(classify(encoders[0], name, features(spec, "test")), _own_note(spec))
    else:
        test, note = features(spec, "test"), _own_note(spec)
        if has_test_images(spec):
            train = features(spec, "train")
        else:
            train, test, note = hold_out(test, name)
        note = "; ".join(filter(None, (note, check_apart(train, test, name))))
        few = config.suite == "fewshot"
        found = few_shot(name, train, test, config, spec) if few else [probe_dataset(name, train, test, config, spec)]
        for number, result in enumerate(found):
            yield noted(result, note, said=number > 0)


def _imagenet_probe(data: Mapping[str, DataSpec], features: Features, config: EvalConfig) -> Iterator[AnyResult]:
    """The probe of the first set on all test sets; images that it was trained on are counted, not refused."""
    name = training_set(data)
    tests = {each: features(spec, "test") for each, spec in data.items()}
    notes = {each: _own_note(spec) for each, spec in data.items()}
    if has_test_images(data[name]):
        train = features(data[name], "train")
    else:
        train, tests[name], notes[name] = hold_out(tests[name], name)
    for result in score_elsewhere(name, train, tests, config):
        shared = overlap(train, tests[result.dataset]) if result.dataset in tests else ""
        yield noted(result, "; ".join(filter(None, (notes.get(result.dataset, ""), shared))))


def _own_note(spec: DataSpec) -> str:
    """What the reader of the test images says about them."""
    return whole_note(spec) or getattr(open_images(spec, "test"), "note", "")


def _image_names(spec: DataSpec, test: Extracted) -> list[str]:
    """The names of the readable test images, in the order of their features."""
    images, unreadable = open_images(spec, "test"), set(test.unreadable)
    groups = range(len(images.group_sizes))
    names = (record.image_id for group in groups for record in images.read_group(group))
    return [name for name in names if name not in unreadable]
