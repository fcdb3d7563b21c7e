"""One evaluation: encoders and data in, `results.json` out."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imagenet_sd import __version__
from imagenet_sd.core.files import write_json
from imagenet_sd.core.results import EvaluationResults, FeatureAnalysis, ProbeResult
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.data.open import has_test_images, open_images
from imagenet_sd.evaluation.analysis import analyse
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.features import Extracted, concatenate, extract, versions
from imagenet_sd.evaluation.splits import check_apart, hold_out
from imagenet_sd.evaluation.suites.imagenet import classify, mean_of
from imagenet_sd.evaluation.suites.probing import episodes, fewshot_dataset, probe_dataset


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
    results: list[ProbeResult | FeatureAnalysis] = []
    from_cache = True
    for name, spec in data.items():
        train, test, note = _features(encoders, name, spec, config, cache)
        from_cache &= test.from_cache and (train is None or train.from_cache)
        measured = list(_measure(encoders, name, train, test, config))
        if note:
            print(f"note: {name}: {note}", file=sys.stderr)
            measured = [result.model_copy(update={"note": note}) for result in measured]
        results += measured
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


def _features(
    encoders: list[Encoder], name: str, spec: DataSpec, config: EvalConfig, cache: Path
) -> tuple[Extracted | None, Extracted, str]:
    """Features of the training images (None where the suite takes none) and of the test images, and a note on both."""

    def of(split: str) -> tuple[Extracted, str]:
        images = open_images(spec, split)
        note = getattr(images, "note", "")
        return concatenate([extract(encoder, images, config, cache) for encoder in encoders]), note

    test, note = of("test")
    if config.suite in ("imagenet", "analysis"):
        return None, test, note if has_test_images(spec) else "all images: there is no test split"
    if has_test_images(spec):
        train, _ = of("train")
    else:
        train, test, note = hold_out(test, name)
    return train, test, "; ".join(filter(None, (note, check_apart(train, test, name))))


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
