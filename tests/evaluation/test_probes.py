"""The probes against scikit-learn, autograd, numerical optima and plain loops, on real features."""

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from imagenet_sd.data.builtin import mnist_digits
from imagenet_sd.evaluation.config import Augmentation
from imagenet_sd.evaluation.probes import logreg
from imagenet_sd.evaluation.probes import rows as rows_module
from imagenet_sd.evaluation.probes.logreg import LogisticProblem, lambda_path
from imagenet_sd.evaluation.probes.sea import (
    SeaConfig,
    augment,
    feature_gradient,
    semantic_weights,
    smoothed_hinge,
    train_sea,
)
from imagenet_sd.evaluation.probes.search import PROBES, stratified_split
from imagenet_sd.evaluation.probes.simple import knn_scores


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Real digits, pooled to 14x14 = 196 features: 1,200 for training, 1,000 for testing."""

    def pooled(images: np.ndarray) -> np.ndarray:
        return images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196) / 255

    train, labels = mnist_digits("train")
    test, test_labels = mnist_digits("test")
    rows = np.random.default_rng(0).permutation(4000)[:1200]
    return pooled(train[rows]), labels[rows], pooled(test), test_labels


def objective(x: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray, c: float) -> float:
    logits = x @ w + b
    losses = np.logaddexp.reduce(logits, 1) - logits[np.arange(len(y)), y]
    return c * losses.sum() + 0.5 * (w**2).sum()


def test_the_path_matches_scikit_learn_run_to_convergence(digits):
    x, y, test, _ = digits
    cs = [1e-4, 1e-2, 1.0, 100.0]
    path = LogisticProblem(x, y, 10).solve(cs)
    agree = []
    for k, c in enumerate(cs):
        reference = LogisticRegression(C=c, tol=1e-8, max_iter=20000).fit(x, y)
        best = objective(x, y, reference.coef_.T, reference.intercept_, c)
        ours = objective(x, y, path.weights[k], path.intercepts[k], c)
        assert abs(ours - best) / best < 1e-4
        assert path.objectives[k] == pytest.approx(ours, rel=1e-9)
        agree.append((path.scores(test, k).argmax(1) == reference.predict(test)).mean())
    assert min(agree) >= 0.999


def test_the_certified_gap_is_kept_on_the_whole_path(digits):
    x, y, _, _ = digits
    path = LogisticProblem(x[:400], y[:400], 10).solve((1 / lambda_path()).tolist(), tolerance=1e-5)
    assert len(path.cs) == 45 and (np.diff(path.cs) > 0).all()
    assert path.gaps.max() <= 1e-5
    assert (np.diff(path.objectives) > 0).all()


def test_more_features_than_images(digits):
    x, y, _, _ = digits
    x, y = x[:60], y[:60]
    ours = LogisticProblem(x, y, 10).solve([1.0])
    reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=20000).fit(x, y)
    assert ours.objectives[0] == pytest.approx(objective(x, y, reference.coef_.T, reference.intercept_, 1.0), rel=1e-4)


def unit_rows(rng: np.random.Generator, n: int, d: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rng.normal(size=(n, d))), dim=1)


def test_q_of_eq_10_is_the_optimum_of_eq_9():
    rng = np.random.default_rng(0)
    x, g, alpha = unit_rows(rng, 6, 4), unit_rows(rng, 6, 4), 0.3
    q = semantic_weights(x, g.clone(), alpha).numpy()
    assert np.allclose(q.sum(1), 1) and np.allclose(np.diag(q), 0)
    for i in range(6):
        others = [j for j in range(6) if j != i]
        gain = (x[others] @ g[i]).numpy()

        def negative(p: np.ndarray, gain: np.ndarray = gain) -> float:  # eq. 9 on the simplex, by softmax coordinates
            q = np.exp(p - p.max()) / np.exp(p - p.max()).sum()
            return -(q @ gain) + alpha * (q * np.log(q)).sum()

        found = minimize(negative, np.zeros(5), tol=1e-14, options={"gtol": 1e-10}).x
        best = np.exp(found - found.max()) / np.exp(found - found.max()).sum()
        assert np.allclose(q[i, others], best, atol=1e-6)


@pytest.mark.parametrize(("smoothing", "margin"), [(1.0, 0.0), (0.1, 0.0), (0.05, 1.0)])
def test_the_gradient_of_eq_16_is_autograds(smoothing: float, margin: float):
    rng = np.random.default_rng(1)
    x = unit_rows(rng, 5, 4).requires_grad_()
    w, y = torch.tensor(rng.normal(size=(3, 4))), torch.tensor([0, 1, 2, 1, 0])
    smoothed_hinge(x @ w.T, y, smoothing, margin).sum().backward()
    assert torch.allclose(feature_gradient(x.detach(), w, y, smoothing, margin), x.grad, atol=1e-10)


def test_limits_of_the_smoothed_hinge_loss():
    rng = np.random.default_rng(2)
    logits, y = torch.tensor(rng.normal(size=(7, 4))), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    cross_entropy = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    assert torch.allclose(smoothed_hinge(logits, y, 1.0, 0.0), cross_entropy)
    others = logits.masked_fill(torch.nn.functional.one_hot(y, 4).bool(), -np.inf).amax(1)
    hinge = (1.0 + others - logits[torch.arange(7), y]).clamp(min=0)  # eq. 12
    assert torch.allclose(smoothed_hinge(logits, y, 1e-3, 1.0), hinge, atol=2e-3)


def test_directions_of_the_comparison():
    rng = np.random.default_rng(3)
    x, w, y = unit_rows(rng, 8, 5).float(), torch.tensor(rng.normal(size=(3, 5))).float(), torch.arange(8) % 3
    generator = torch.Generator().manual_seed(0)
    shown = {}
    for kind in ("none", "sea", "sea_neg", "adv", "rand", "mixup"):
        config = SeaConfig(augmentation=kind, eta=0.02 if kind == "adv" else 0.4)
        shown[kind] = augment(x, w, y, config, generator)
        assert torch.allclose(shown[kind].norm(dim=1), torch.ones(8), atol=1e-5)
    assert torch.equal(shown["none"], x)
    assert len({tuple(value.flatten().tolist()) for value in shown.values()}) == 6

    def loss(z: torch.Tensor) -> float:
        return smoothed_hinge(z @ w.T, y, 0.1, 0.0).mean().item()

    assert loss(shown["sea"]) > loss(x) and loss(shown["adv"]) > loss(x)
    g = torch.nn.functional.normalize(feature_gradient(x, w, y, 0.1, 0.0), dim=1)
    q = semantic_weights(x, g, 0.01)
    by_hand = torch.nn.functional.normalize(x + 0.4 * torch.nn.functional.normalize(q @ x, dim=1), dim=1)
    assert torch.allclose(shown["sea"], by_hand, atol=1e-6)


def test_sea_learns(digits):
    x, y, test, labels = digits
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)  # noqa: E731
    config = SeaConfig(epochs=20, eta=0.2)  # pixels lie in one orthant: the step for deep features is too long
    w = train_sea(unit(x), y, 10, config).cpu().numpy()
    assert ((unit(test) @ w.T).argmax(1) == labels).mean() > 0.85
    assert np.array_equal(w, train_sea(unit(x), y, 10, config).cpu().numpy())
    assert np.allclose(w, train_sea(x, y, 10, config).cpu().numpy(), atol=1e-4)  # features are normalised there


def test_knn_against_a_plain_loop():
    rng = np.random.default_rng(0)
    train, test, y = unit_rows(rng, 30, 3).numpy(), unit_rows(rng, 5, 3).numpy(), rng.integers(0, 4, 30)
    scores = knn_scores(train, y, test, 4, k=7, temperature=0.1)
    for i in range(5):
        votes = np.zeros(4)
        for j in sorted(range(30), key=lambda j: -test[i] @ train[j])[:7]:
            votes[y[j]] += np.exp(test[i] @ train[j] / 0.1)
        assert np.allclose(scores[i], votes)


@pytest.mark.parametrize("kind", ["lbfgs", "path", "sgd", "sea", "knn"])
def test_every_probe_finds_a_good_classifier(digits, kind: str):
    x, y, test, labels = digits
    rows = stratified_split(y, 0.2, "d", 0)
    scores, best = PROBES[kind](x, y, 10, rows, 3, 0)
    assert (scores(test).argmax(1) == labels).mean() > 0.85
    assert best


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("held", [True, False])
def test_the_accelerator_finds_what_the_cpu_finds(digits, held: bool, monkeypatch: pytest.MonkeyPatch):
    """All probes on the GPU: features held there, or passed through it in windows."""
    x, y, test, labels = digits
    if not held:
        monkeypatch.setattr(rows_module, "LARGE", 0)
        monkeypatch.setattr(rows_module, "fits", lambda num_bytes, device: False)
        monkeypatch.setattr(logreg, "fits", lambda num_bytes, device: False)
    split = stratified_split(y, 0.2, "d", 0)
    for kind in PROBES:
        scores, best = PROBES[kind](x, y, 10, split, 2, 0)
        found = (scores(test).argmax(1) == labels).mean()
        with monkeypatch.context() as patch:
            patch.setattr(torch.accelerator, "is_available", lambda: False)
            reference, expected = PROBES[kind](x, y, 10, split, 2, 0)
            accuracy = (reference(test).argmax(1) == labels).mean()
        assert best.keys() == expected.keys() and abs(found - accuracy) < 0.02, kind
    weights = {augmentation: train_sea(x, y, 10, SeaConfig(augmentation=augmentation, epochs=1, eta=0.02))
               for augmentation in get_args(Augmentation)}  # fmt: skip
    assert all(w.device.type != "cpu" and bool(w.isfinite().all()) for w in weights.values())


def test_the_validation_split_is_stratified_and_rounds_down():
    labels = np.array([0] * 10 + [1] * 9 + [2] * 1 + [3] * 4 + [4] * 35)
    train, held = stratified_split(labels, 0.2, "x", 0)
    assert sorted([*train, *held]) == list(range(59))
    assert np.bincount(labels[held], minlength=5).tolist() == [2, 1, 0, 0, 7]
    assert len(stratified_split(np.zeros(10), 0.3, "x", 0)[1]) == 3  # 0.3 * 10 is below 3 in binary
    assert np.bincount(labels[19:24][stratified_split(labels[19:24], 0.2, "x", 0)[1]]).tolist() == [0, 0, 0, 1]
    assert set(labels[train]) == {0, 1, 2, 3, 4}
    again, other = stratified_split(labels, 0.2, "x", 0)[1], stratified_split(labels, 0.2, "x", 1)[1]
    assert np.array_equal(held, again) and not np.array_equal(held, other)
