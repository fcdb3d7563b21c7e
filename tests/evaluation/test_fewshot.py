"""Few-shot classifiers of CoG and episodes of AugSelf: who trains on which images, in which space, and how many."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from imagenet_sd.core.specs import DataSpec
from imagenet_sd.core.types import FeatureSet
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.features import Extracted
from imagenet_sd.evaluation.probes.one_vs_rest import one_vs_rest
from imagenet_sd.evaluation.probes.search import stratified_split
from imagenet_sd.evaluation.suites import probing

QUICK = EvalConfig(suite="fewshot", seeds=(0, 1), trials=2, shots=(2, 8), episodes=40, ways=3)


def extracted(x: np.ndarray, y: np.ndarray, key: str = "k", classes: int = 4) -> Extracted:
    names = tuple(f"n{c}" for c in range(classes))
    data = FeatureSet(features=x.astype(np.float32), labels=y)
    digests = np.arange(len(y), dtype=np.uint64)
    return Extracted(data=data, classes=names, unreadable=(), cache_key=key, from_cache=True, digests=digests)


def clouds(per_class: int, seed: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Four classes around the corners of a simplex, in 6 dimensions, of very different lengths."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(4), per_class)
    x = 2 * np.eye(6)[y] + noise * rng.normal(size=(len(y), 6))
    return x * rng.uniform(0.1, 30, (len(y), 1)), y


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The calls of `fit_sgd`, which still happens."""
    calls: list[dict[str, Any]] = []
    real = probing.fit_sgd

    def spy(x, y, classes, rows, trials, seed, **options):
        calls.append({"rows": rows, "seed": seed, "y": y, **options})
        return real(x, y, classes, rows, trials, seed, **options)

    monkeypatch.setattr(probing, "fit_sgd", spy)
    return calls


def test_few_shots_are_selected_by_the_measure_that_is_asked_for(fits):
    x, y = clouds(40, 0)
    for asked, metric in (("auto", "top1"), ("mean_per_class", "mean_per_class")):
        config = replace(QUICK, shots=(2,), seeds=(0,), trials=1, episodes=0, selection=asked)  # pyright: ignore[reportArgumentType]
        (result,) = probing.few_shot("d", extracted(x, y), extracted(*clouds(30, 1)), config)
        assert fits[-1]["settings"].metric == metric == result.selected_by


def test_the_search_and_the_final_fit_of_cog_draw_their_images_as_the_thesis_says(fits):
    x, y = clouds(40, 0)
    results = list(probing.few_shot("d", extracted(x, y), extracted(*clouds(30, 1)), QUICK))
    assert [r.probe for r in results] == ["fewshot-2", "fewshot-8", "episodes-3-way-1-shot", "episodes-3-way-5-shot"]
    assert [len(r.hyper_parameters) for r in results[:2]] == [2, 2]
    assert results[0].hyper_parameters[0].keys() == {"learning_rate", "weight_decay"}
    assert [r.num_train for r in results[:2]] == [8, 32]
    outside = 0
    for call, (shots, seed) in zip(fits, [(2, 0), (2, 1), (8, 0), (8, 1)], strict=True):
        few, held = call["rows"]
        kept, expected = stratified_split(y, 0.2, "d", seed)
        assert np.array_equal(held, expected) and set(few) <= set(kept)  # N of the 80%, chosen on all of the 20%
        for rows in (few, call["refit"]):
            assert np.bincount(y[rows]).tolist() == [shots] * 4 and (np.diff(rows) > 0).all()
        outside += len(set(call["refit"]) & set(held))
        assert set(call["refit"]) != set(few)
    assert outside > 0  # the final fit draws from all training images


def test_few_shot_features_are_normalised_before_sgd():
    x, y = clouds(40, 0, noise=0.6)
    test = clouds(30, 1, noise=0.6)
    scale = np.random.default_rng(5).uniform(0.01, 100, (len(x), 1))
    one, other = (
        [r.top1 for r in probing.fewshot_dataset("d", extracted(z, y), extracted(*test), QUICK)] for z in (x, scale * x)
    )
    assert one == other and one[1] > 0.8


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"shots": (1, 33)}, "d: class 'n2' has 8 training images beside its validation images, not 33", "at most 8"),
        (
            {"shots": (), "episode_shots": (1, 15)},
            "d: 0 classes have the 31 test images of an episode, not 3",
            "episodes",
        ),
    ],
)
def test_what_a_class_cannot_give_is_an_error_and_not_left_out(change: dict[str, Any], message: str, hint: str, fits):
    from dataclasses import replace

    x, y = clouds(40, 0)
    rows = np.flatnonzero((y != 2) | (np.arange(len(y)) % 4 == 0))  # class 2 has 10 images
    train, test = extracted(x[rows], y[rows]), extracted(*clouds(30, 1))
    with pytest.raises(EvaluationError, match=message) as caught:
        list(probing.few_shot("d", train, test, replace(QUICK, **change)))
    assert hint in caught.value.hint and not fits  # before anything is computed


def test_without_images_to_validate_on_there_is_no_search():
    x, y = clouds(1, 0)
    with pytest.raises(EvaluationError, match="d: no class has a second training image"):
        probing.probe_dataset("d", extracted(x, y), extracted(x, y), QUICK)


@pytest.mark.parametrize(("scale", "c"), [(1.0, 1.0), (30.0, 1.0), (0.05, 10.0)])
def test_one_vs_rest_is_liblinears_optimum(scale: float, c: float):
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(5), 5)
    x = scale * (np.abs(rng.normal(size=(3, 25, 40))) + np.eye(40)[labels])
    z = scale * np.abs(rng.normal(size=(3, 7, 40)))
    scores = one_vs_rest(torch.tensor(x), torch.tensor(labels), torch.tensor(z), c).numpy()
    for task in range(3):
        for way in range(5):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = LogisticRegression(C=c, solver="liblinear", tol=1e-9, max_iter=10_000)
                model.fit(x[task], labels == way)
            assert np.allclose(scores[task, :, way], model.decision_function(z[task]), rtol=1e-3, atol=1e-3)


def test_episodes_follow_augself(monkeypatch: pytest.MonkeyPatch):
    """Raw features, 16 queries a class, 2,000 tasks, mean +- 1.96 sd / sqrt(n); all classes of a task differ."""
    defaults = EvalConfig()
    assert (defaults.queries, defaults.episodes, defaults.ways, defaults.episode_shots) == (16, 2000, 5, (1, 5))
    x, y = clouds(30, 3)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    real = probing.one_vs_rest

    def spy(support, labels, query):
        seen.append((support.numpy(), query.numpy()))
        return real(support, labels, query)

    monkeypatch.setattr(probing, "one_vs_rest", spy)
    first, second = probing.episodes("d", extracted(x, y), QUICK)
    assert (first.num_test, first.num_classes, first.split) == (40 * 3 * 16, 3, "test")
    assert first.top1_sd is not None
    half = 1.96 * first.top1_sd / 40**0.5
    assert first.top1_interval == pytest.approx((first.top1 - half, first.top1 + half))
    assert second.top1 > first.top1 > 0.4
    assert sum(len(support) for support, _ in seen) == 80
    number = {tuple(row): i for i, row in enumerate(x.astype(np.float32).astype(np.float64))}
    for supports, queries in seen:
        for support, query in zip(supports, queries, strict=True):  # raw: the very rows of the set
            rows = [number[tuple(row)] for row in np.concatenate([support, query])]
            assert len(set(rows)) == len(rows)
            shots = len(support) // 3
            by_way = np.concatenate(
                [y[rows[: len(support)]].reshape(3, shots), y[rows[len(support) :]].reshape(3, 16)], 1
            )
            assert (by_way == by_way[:, :1]).all() and len(set(by_way[:, 0])) == 3


@pytest.mark.parametrize(("asked", "where", "split"), [
    ("auto", "torchvision:cub@/data", "train+test"), ("auto", "torchvision:pets@/data", "test"),
    ("auto", "builtin:digits", "test"), ("all", "builtin:digits", "train+test"),
    ("test", "torchvision:cub@/data", "test"),
])  # fmt: skip
def test_cub_pools_both_splits(asked: Any, where: str, split: str):
    config = EvalConfig(suite="fewshot", shots=(), episodes=5, ways=3, episode_shots=(1,), episode_pool=asked)
    x, y = clouds(20, 0)
    train, other = extracted(x, y, "a"), extracted(*clouds(20, 1), "b")
    test = Extracted(data=FeatureSet(features=other.data.features, labels=3 - other.data.labels),
                     classes=other.classes[::-1], unreadable=(), cache_key="b", from_cache=True,
                     digests=other.digests)  # fmt: skip
    (result,) = probing.few_shot("d", train, test, config, DataSpec.parse(where))
    assert result.split == split and result.cache_keys == (("a+b",) if split != "test" else ("b",))
    both = probing.pooled(train, test, "d")
    assert len(both.data.labels) == 160 and np.array_equal(both.data.labels, np.concatenate([y, other.data.labels]))
