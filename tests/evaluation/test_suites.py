"""Which images the suites take, and probes on other data than their own, against computations by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from imagenet_sd.core.specs import DataSpec
from imagenet_sd.core.types import FeatureSet
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.encoders import Encoder
from imagenet_sd.evaluation.features import Extracted
from imagenet_sd.evaluation.probes import search
from imagenet_sd.evaluation.suites.analysis import analyse_dataset, analysed_splits
from imagenet_sd.evaluation.suites.shift import label_noise, score_elsewhere, training_set
from imagenet_sd.pipeline import evaluate


def extracted(features: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Extracted:
    data = FeatureSet(features=features.astype(np.float32), labels=labels)
    digests = np.arange(len(labels), dtype=np.uint64)
    return Extracted(data=data, classes=classes, unreadable=(), cache_key="k", from_cache=False, digests=digests)


def cloud(classes: tuple[str, ...], count: int, seed: int, shift: float = 0.0) -> Extracted:
    """Three well separated classes in three dimensions; `shift` moves all images the same way."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count * len(classes)) % len(classes)
    centres = {"n1": [4, 0, 0], "n2": [0, 4, 0], "n3": [0, 0, 4]}
    means = np.array([centres[wnid] for wnid in classes])[labels]
    return extracted(means + rng.normal(size=(len(labels), 3)) + [shift, 0, 0], labels, classes)


def test_the_small_sets_are_analysed_whole_and_the_training_task_on_its_test_images(tmp_path: Path):
    def splits(text: str, classes: tuple[str, ...] = ("a", "b"), trained: tuple[str, ...] = ()) -> tuple[str, ...]:
        encoder = Encoder(name="e", module=torch.nn.Identity(), fingerprint="", classes=trained)
        return analysed_splits(DataSpec.parse(text), classes, [encoder])

    assert splits("torchvision:dtd@/x") == splits("builtin:faces") == ("test", "train")
    assert splits("torchvision:inat18@/x") == splits("torchvision:inat19@/x") == ("test",)
    assert splits("imagenet:val@/x") == splits("imagefolder:/x") == ("test",)
    assert splits("builtin:mnist", trained=("a", "b", "c")) == ("test",)
    assert splits("builtin:mnist", trained=("a", "c")) == ("test", "train")
    config = EvalConfig(suite="analysis", crop_size=32)
    (found,) = evaluate("timm:test_resnet@random", {"faces": "builtin:faces"}, config, cache=tmp_path)["results"]
    assert (found["num_test"], found["split"], found["num_classes"]) == (200, "all", 2)
    assert len(found["cache_keys"]) == 2


def test_splits_are_joined_by_class_id():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)), np.arange(40) % 2
    whole = analyse_dataset("d", [extracted(x, y, ("a", "b"))])
    parts = [extracted(x[:10], y[:10], ("a", "b")), extracted(x[10:], 1 - y[10:], ("b", "a"))]
    joined = analyse_dataset("d", parts)
    assert joined.intra_class_distance == pytest.approx(whole.intra_class_distance)
    assert joined.num_test == 40 and joined.split == "all" and whole.split == "test"


def test_a_probe_on_one_set_scores_others_of_its_classes():
    """Tab. 4.2: one linear classifier, several test sets; of a set with two of three classes the third is masked."""
    classes = ("n1", "n2", "n3")
    train, val = cloud(classes, 60, 0), cloud(classes, 30, 1)
    tests = {"imagenet": val, "r": cloud(("n3", "n1"), 30, 2, shift=2.5)}
    tests |= {f"v2-{k}": cloud(classes, 20, 3 + k, shift=k) for k in range(3)}
    config = EvalConfig(suite="imagenet-probe", probe="lbfgs", seeds=(0, 1), trials=3)
    results = {result.dataset: result for result in score_elsewhere("imagenet", train, tests, config)}
    assert list(results) == ["imagenet", "r", "v2-0", "v2-1", "v2-2", "v2"]
    c = results["imagenet"].hyper_parameters[0]["C"]
    model = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(train.data.features, train.data.labels)
    first = next(iter(score_elsewhere("imagenet", train, {"val": val}, EvalConfig(seeds=(0,), trials=3))))
    assert first.top1 == pytest.approx(model.score(val.data.features, val.data.labels))
    scores = model.decision_function(tests["r"].data.features)[:, [2, 0]]  # n3, n1; n2 is masked
    by_hand = (scores.argmax(1) == tests["r"].data.labels).mean()
    assert results["r"].top1 == pytest.approx(by_hand, abs=0.02)
    assert results["r"].masked is not None and results["r"].masked.scored == ("n1", "n3")
    assert results["v2"].top1 == pytest.approx(np.mean([results[f"v2-{k}"].top1 for k in range(3)]))
    assert results["v2"].mean_of == ("v2-0", "v2-1", "v2-2") and results["imagenet"].seeds == (0, 1)


def test_a_probe_on_further_sets_is_searched_as_one_on_its_own(monkeypatch: pytest.MonkeyPatch):
    """The measure that is asked for, and the wider range of penalties of raw features side by side."""
    seen = []
    fit = search.PROBES["lbfgs"]
    monkeypatch.setitem(search.PROBES, "lbfgs", lambda *given: seen.append(given[-1]) or fit(*given))
    train = replace(cloud(("n1", "n2"), 30, 0), concatenations=2)
    config = EvalConfig(probe="lbfgs", seeds=(0,), trials=1, selection="mean_per_class")
    (result,) = score_elsewhere("d", train, {"d": cloud(("n1", "n2"), 10, 1)}, config)
    assert (seen[0].metric, seen[0].concatenations, result.selected_by) == ("mean_per_class", 2, "mean_per_class")


def test_confident_predictions_of_foreign_images_are_counted():
    """3.5.3: half the images of one set lie where a class of the other lies, the rest on the border between two."""
    rng = np.random.default_rng(0)
    seen = cloud(("n1", "n2"), 100, 0), cloud(("n1", "n2"), 20, 1)
    inside = np.array([[9.0, 0, 0]] * 10) + 0.1 * rng.normal(size=(10, 3))
    border = np.array([[2.0, 2, 0]] * 10)
    foreign = np.concatenate([inside, border]), np.array([0] * 10 + [1] * 10)
    unseen = (extracted(*foreign, ("m1", "m2")), extracted(*foreign, ("m1", "m2")))
    names = {"in1k": [f"i{k}" for k in range(40)], "L5": [f"l{k}" for k in range(20)]}
    config = EvalConfig(suite="label-noise", probe="lbfgs", seeds=(0,), trials=5)
    found = {result.dataset: result for result in label_noise({"in1k": seen, "L5": unseen}, names, config)}
    noise = found["L5"]
    assert noise.classifier == "in1k" and noise.threshold == 0.99 and noise.num_test == 20
    assert noise.confident == 0.5
    assert {example.image for example in noise.examples} == {f"l{k}" for k in range(10)}
    assert {(example.wnid, example.predicted) for example in noise.examples} == {("m1", "n1")}
    assert found["in1k"].classifier == "L5"
    with pytest.raises(EvaluationError, match="share the class n1"):
        list(label_noise({"a": seen, "b": seen}, names, config))
    with pytest.raises(EvaluationError, match="two data sets, not 1"):
        list(label_noise({"a": seen}, names, config))


def test_both_suites_run_from_a_spec(tmp_path: Path):
    base = {"seeds": (0,), "trials": 1, "crop_size": 32}
    data = {"digits": "builtin:digits@per_class=20", "mnist": "builtin:mnist@per_class=10"}
    document = evaluate("timm:test_resnet@random", data, EvalConfig(suite="imagenet-probe", **base), cache=tmp_path)
    assert [(r["dataset"], r["num_test"], r["num_train"]) for r in document["results"]] == [
        ("digits", 200, 200),
        ("mnist", 100, 200),
    ]
    specs = {"a": DataSpec.parse("imagenet:a@/x"), "in1k": DataSpec.parse("imagefolder:/y")}
    assert training_set(specs) == "in1k"  # in any order
    with pytest.raises(EvaluationError, match="no training images"):
        training_set({"a": specs["a"]})
    data = {"digits": data["digits"], "faces": "builtin:faces"}
    document = evaluate("timm:test_resnet@random", data, EvalConfig(suite="label-noise", **base), cache=tmp_path)
    assert [(r["dataset"], r["classifier"]) for r in document["results"]] == [("faces", "digits"), ("digits", "faces")]
