"""Metrics and feature analyses against closed forms on constructed inputs."""

import math

import numpy as np
import pytest

from imagenet_sd.evaluation import analysis as A
from imagenet_sd.evaluation import metrics as M
from imagenet_sd.report.measurements import FEATURE_TITLES


def test_top_k_with_ties_and_masks():
    scores = np.array([[3.0, 1, 2], [1, 1, 1], [-np.inf, 0, -np.inf]])
    assert M.top_k(scores, np.array([0, 1, 1]), 1).tolist() == [True, False, True]
    assert M.top_k(scores, np.array([2, 1, 1]), 2).tolist() == [True, True, True]


def test_top_k_of_more_images_than_are_sorted_at_once():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(9000, 4)), rng.integers(0, 4, 9000)
    rank = (scores > scores[np.arange(9000), labels][:, None]).sum(1)
    assert np.array_equal(M.top_k(scores, labels, 2), rank < 2)


def test_mean_per_class_is_not_top1():
    correct, labels = np.array([1, 1, 1, 0]), np.array([0, 0, 0, 1])
    assert M.mean_per_class(correct, labels) == 0.5 and correct.mean() == 0.75


def test_log_odds_of_eq_4_3():
    assert M.log_odds(75, 25) == pytest.approx(math.log(3))
    assert M.log_odds(50, 50) == 0
    assert M.log_odds(10, 0) == pytest.approx(math.log(21)) and M.log_odds(0, 10) == pytest.approx(-math.log(21))


def test_bootstrap_interval_has_the_binomials_width():
    correct = np.arange(1000) < 900
    low, high = M.bootstrap_interval(correct)
    half = 1.96 * math.sqrt(0.9 * 0.1 / 1000)
    assert low == pytest.approx(0.9 - half, abs=0.004) and high == pytest.approx(0.9 + half, abs=0.004)
    assert M.bootstrap_interval(correct) == (low, high)
    assert M.bootstrap_interval(correct * 0.5)[1] == pytest.approx((0.9 + half) / 2, abs=0.004)


def test_means_over_seeds_have_the_population_deviation():
    results = [M.score(np.eye(4)[[0, 1, 2, k]], np.arange(4)) for k in (3, 0, 3)]
    merged = M.combine(results)
    assert merged["top1"] == pytest.approx((1 + 0.75 + 1) / 3)
    assert merged["top1_sd"] == pytest.approx(np.std([1, 0.75, 1]))


def test_orthonormal_features():
    """N = D orthonormal rows, eps^2 = 1/2: R = D/2 log(1 + 2), distances sqrt 2, sparsity 1 - 1/D."""
    d = 12
    x = np.eye(d)
    assert A.coding_length(x) == pytest.approx(d / 2 * math.log(3))
    assert A.intra_class_distance(x, np.arange(d) % 3) == pytest.approx(math.sqrt(2))
    assert A.sparsity(x) == pytest.approx(1 - 1 / d)
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    assert A.coding_length(q) == pytest.approx(d / 2 * math.log(3))
    assert A.singular_values(q)[-1] == pytest.approx(0, abs=1e-7)


def test_duplicated_and_constant_features():
    rng = np.random.default_rng(0)
    column = rng.normal(size=(50, 1))
    height = np.sqrt(1 - np.tanh(column) ** 2 / 2)  # of rows (t, t, h) of unit length, up to a constant
    rows = np.concatenate([np.repeat(np.tanh(column) / 2, 2, 1), height], 1)
    corr = abs(np.corrcoef(rows[:, 0], height[:, 0])[0, 1])
    assert A.redundancy(rows) == pytest.approx((5 + 4 * corr) / 9)
    pair = np.concatenate([np.cos(column), np.sin(column), np.zeros((50, 2))], 1)
    assert A.redundancy(pair) == pytest.approx((2 + 2 * abs(np.corrcoef(pair[:, :2].T)[0, 1])) / 16)
    one = np.tile([[3.0, 4.0, 0.0]], (20, 1))
    assert A.coding_length(one) == pytest.approx(0.5 * math.log(1 + 3 / 0.5))  # rank one: log(1 + d / eps^2) / 2
    assert A.intra_class_distance(one, np.zeros(20, int)) == pytest.approx(0, abs=1e-7)
    assert A.sparsity(one) == pytest.approx(1 / 3)


def test_coding_length_does_not_depend_on_the_number_of_images():
    """R is an average per image (thesis 5.5.5); what `evaluate` writes and the report plots must be R, not R / N."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(24, 24))
    lengths = []
    for n in (500, 2000, 8000):
        measured = A.analyse(np.maximum(rng.normal(size=(n, 24)) @ mixing, 0), rng.integers(0, 10, n))
        (plotted,) = (key for key in FEATURE_TITLES if "coding" in key)
        lengths.append(measured[plotted])
    assert max(lengths) / min(lengths) < 1.03 and min(lengths) > 1


def test_all_four_metrics_take_normalised_features():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(60, 8)), np.arange(60) % 4
    scaled = x * rng.uniform(0.1, 10, size=(60, 1))  # directions as before
    first, second = A.analyse(x, y), A.analyse(scaled, y)
    for measure in first:
        assert second[measure] == pytest.approx(first[measure])


def test_singular_values_are_shares_of_their_sum():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(40, 6)) * [5, 3, 1, 1, 0.5, 0.1]
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = np.linalg.svd(u - u.mean(0), compute_uv=False)
    assert A.singular_values(x) == pytest.approx(expected / expected.sum(), abs=1e-7)
    assert A.singular_values(x[:4]).sum() == pytest.approx(1) and len(A.singular_values(x[:4])) == 4
    assert A.singular_values(np.ones((5, 3))).tolist() == [0, 0, 0]


def test_redundancy_of_uncorrelated_columns_is_one_over_d():
    h = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], float)  # rows of one length
    x = np.concatenate([h, -h])[:, 1:]
    assert A.redundancy(x) == pytest.approx(1 / 3)


def test_distances_and_lengths_against_plain_loops():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(15, 6)), np.arange(15) % 3
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    means = []
    for c in range(3):
        rows = u[y == c]
        means.append(np.mean([np.linalg.norm(a - b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]))
    assert A.intra_class_distance(x, y) == pytest.approx(np.mean(means))
    expected = 0.5 * np.log(np.linalg.det(np.eye(6) + 6 / (15 * 0.5) * u.T @ u))
    assert A.coding_length(x) == pytest.approx(expected)
    assert A.coding_length(x[:4]) == pytest.approx(
        0.5 * np.log(np.linalg.det(np.eye(6) + 6 / (4 * 0.5) * u[:4].T @ u[:4]))
    )
    corr = np.abs(np.corrcoef(u.T))
    assert A.redundancy(x) == pytest.approx(corr.sum() / 36)
