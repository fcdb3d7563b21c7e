"""One evaluation: encoders and data in, `results.json` out."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imagenet_sd import __version__
from imagenet_sd.core.files import write_json
from imagenet_sd.core.results import AnyResult, EvaluationResults, PreprocessingRecord, ProbeResult
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.open import open_images
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.features import Extracted, concatenate, extract, versions
from imagenet_sd.evaluation.suites.analysis import analyse_dataset, analysed_splits
from imagenet_sd.evaluation.suites.gradient import measure_gradient
from imagenet_sd.evaluation.suites.imagenet import classify, mean_of
from imagenet_sd.evaluation.suites.invariance import measure_invariance
from imagenet_sd.evaluation.suites.probing import few_shot, probe_dataset
from imagenet_sd.evaluation.suites.readout import measure_readouts
from imagenet_sd.evaluation.suites.shift import label_noise, score_elsewhere, training_set

_OF_IMAGES = {"invariance": measure_invariance, "readout": measure_readouts, "gradient": measure_gradient}
"""What needs the images and not only their features: by the name of the suite, or `gradient`."""


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
    encoders: list[Encoder], data: Mapping[str, DataSpec], features: Callable[[DataSpec, str], Extracted],
    config: EvalConfig,
) -> Iterator[AnyResult]:  # fmt: skip
    """What the suite measures; `features` gives those of one split of a data set."""
    if config.suite == "imagenet-probe":
        tests = {name: features(spec, "test") for name, spec in data.items()}
        name = training_set(data)
        yield from score_elsewhere(name, features(data[name], "train"), tests, config)
        return
    if config.suite == "label-noise":
        sets = {name: (features(spec, "train"), features(spec, "test")) for name, spec in data.items()}
        names = {name: _image_names(spec, sets[name][1]) for name, spec in data.items()}
        yield from label_noise(sets, names, config)
        return
    for name, spec in data.items():
        if config.suite == "analysis":
            splits = analysed_splits(spec, open_images(spec, "test").classes, encoders)
            yield analyse_dataset(name, [features(spec, split) for split in splits])
        elif config.suite == "imagenet":
            if len(encoders) > 1:
                raise EvaluationError(
                    "the imagenet suite takes one encoder", "evaluate ensembles with --suite transfer"
                )
            yield classify(encoders[0], name, features(spec, "test"))
        elif config.suite == "fewshot":
            test, train = features(spec, "test"), features(spec, "train")
            yield from few_shot(name, train, test, config, spec)
        else:
            test, train = features(spec, "test"), features(spec, "train")
            yield probe_dataset(name, train, test, config, spec)


def _image_names(spec: DataSpec, test: Extracted) -> list[str]:
    """The names of the readable test images, in the order of their features."""
    images, unreadable = open_images(spec, "test"), set(test.unreadable)
    groups = range(len(images.group_sizes))
    names = (record.image_id for group in groups for record in images.read_group(group))
    return [name for name in names if name not in unreadable]
