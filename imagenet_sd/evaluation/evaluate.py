"""One evaluation: encoders and data in, `results.json` out."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imagenet_sd import __version__
from imagenet_sd.core.files import write_json
from imagenet_sd.core.results import AnyResult, EvaluationResults, FeatureAnalysis, ProbeResult
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.open import open_images
from imagenet_sd.evaluation.analysis import analyse
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.features import Extracted, concatenate, extract, versions
from imagenet_sd.evaluation.suites.gradient import measure_gradient
from imagenet_sd.evaluation.suites.imagenet import classify, mean_of
from imagenet_sd.evaluation.suites.invariance import measure_invariance
from imagenet_sd.evaluation.suites.probing import episodes, fewshot_dataset, probe_dataset
from imagenet_sd.evaluation.suites.readout import measure_readouts

_OWN_FEATURES = {"invariance": measure_invariance, "readout": measure_readouts, "gradient": measure_gradient}
"""What needs more than the features of a training and a test set: by the name of the suite, or `gradient`."""


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
    results: list[AnyResult] = []
    from_cache = True
    for name, spec in data.items():
        if own := _OWN_FEATURES.get("gradient" if config.probe == "gradient" else config.suite):
            found, cached = own(encoders, name, spec, config, cache)
            results += found
            from_cache &= cached
            continue
        features = {}
        for split in ("test",) if config.suite in ("imagenet", "analysis") else ("test", "train"):
            images = open_images(spec, split)
            features[split] = concatenate(
                [extract(encoder, images, config, cache) for encoder in encoders], config.fusion
            )
            from_cache &= features[split].from_cache
        results += _measure(encoders, name, features.get("train"), features["test"], config)
    v2 = [result for result in results if isinstance(result, ProbeResult) and result.dataset.startswith("v2-")]
    if config.suite == "imagenet" and len(v2) == 3:
        results.append(mean_of(v2, "v2"))
    document = EvaluationResults(
        encoder="+".join(encoder.name for encoder in encoders),
        suite=config.suite,  # pyright: ignore[reportArgumentType]  # checked by the config
        results=tuple(results),
        encoder_fingerprints=tuple(encoder.fingerprint for encoder in encoders),
        versions={"imagenet-sd": __version__, **versions()},
    ).to_json()
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, document)
    return document | {"features_from_cache": from_cache}


def _measure(
    encoders: list[Encoder], name: str, train: Extracted | None, test: Extracted, config: EvalConfig
) -> Iterator[ProbeResult | FeatureAnalysis]:
    """What the suite measures on one data set."""
    if config.suite == "analysis":
        yield _analysis(name, test)
    elif train is None:
        if len(encoders) > 1:
            raise EvaluationError("the imagenet suite takes one encoder", "evaluate ensembles with --suite transfer")
        yield classify(encoders[0], name, test)
    elif config.suite == "fewshot":
        yield from fewshot_dataset(name, train, test, config)
        yield from episodes(name, test, config)
    else:
        yield probe_dataset(name, train, test, config)


def _analysis(name: str, test: Extracted) -> FeatureAnalysis:
    return FeatureAnalysis(
        dataset=name,
        split="test",
        probe="analysis",
        **analyse(test.data.features, test.data.labels),
        num_test=len(test.data.labels),
        num_classes=len(test.classes),
        cache_keys=(test.cache_key,),
        unreadable=tuple(test.unreadable),
    )
