"""Intervals of proportions and of balanced accuracy: published cases, by hand, and how often they hold."""

import numpy as np
import pytest

from xaiutils.statistics.bootstrap import percentile_interval
from xaiutils.statistics.delong import auc_interval
from xaiutils.statistics.proportions import (
    balanced_accuracy_interval,
    better_than_guessing,
    proportion_interval,
    wilson,
)


def test_wilson_by_hand():
    """Newcombe 1998 (Statistics in Medicine 17), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(hits, n, 0.95) == pytest.approx((low, high), abs=5e-5)
    assert wilson(5, 10, 0.9) == pytest.approx((0.2693, 0.7307), abs=5e-5)
    assert np.isnan(wilson(0, 0, 0.95)).all()
    assert wilson(20, 20, 0.95)[1] == 1


def test_intervals_of_proportions_by_hand():
    hits, alone, pairs = np.array([True] * 3 + [False] * 7), np.arange(10), np.arange(10) // 2
    samples = np.arange(1001) / 1000
    assert proportion_interval(hits, alone, samples, 0.95) == wilson(3, 10, 0.95)
    assert proportion_interval(hits, pairs, samples, 0.95) == pytest.approx((0.025, 0.975))
    assert proportion_interval(hits, pairs, np.full(99, 0.3), 0.95) == wilson(1.5, 5, 0.95)
    assert np.isnan(proportion_interval(hits[:0], alone[:0], None, 0.95)).all()


def test_interval_of_balanced_accuracy_by_hand():
    """MOVER: each end at the root of the summed squares of the distances to the Wilson limits, over the classes."""
    labels = np.repeat([0, 1], [20, 10])
    correct = np.concatenate([np.arange(20) < 14, np.arange(10) < 10])
    limits = [wilson(14, 20, 0.95), wilson(10, 10, 0.95)]
    normal = 1.96**2 * (0.7 * 0.3 / 19 + 0)
    below = np.sqrt(max(normal, (0.7 - limits[0][0]) ** 2 + (1 - limits[1][0]) ** 2)) / 2
    above = np.sqrt(max(normal, (limits[0][1] - 0.7) ** 2 + 0)) / 2
    found = balanced_accuracy_interval(labels, correct, np.arange(30), 0.95)
    assert found == pytest.approx((0.85 - below, min(1, 0.85 + above)), abs=1e-4)


def test_intervals_where_a_bootstrap_would_claim_certainty():
    assert wilson(1, 26, 0.95) == pytest.approx((0.0068, 0.1889), abs=1e-4)
    same = np.ones(1000)
    assert np.isnan(percentile_interval(same, 0.95)).all()
    low, high = auc_interval(1.0, same, 5, 8, 0.95)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 5)), 1)
    few = np.where(np.arange(1000) < 870, np.linspace(0, 1, 1000), np.nan)  # two images of a class: 13 % have none
    assert np.isnan(percentile_interval(few, 0.95)).all()
    hits, units = np.ones(12, bool), np.arange(12) // 4
    assert proportion_interval(hits, units, same, 0.95) == wilson(3, 3, 0.95)


def guessed(k, n, seed=None):
    """``n`` images of each of ``k`` classes, and answers by chance or, without a seed, always the first class."""
    labels = np.repeat(np.arange(k), n)
    said = np.zeros(k * n, int) if seed is None else np.random.default_rng(seed).integers(0, k, k * n)
    return labels, said == labels, np.arange(k * n)


@pytest.mark.parametrize(("k", "n"), [(2, 20), (10, 20), (37, 5), (37, 20)])
def test_guessing_among_many_classes_is_guessing(k, n):
    labels, constant, units = guessed(k, n)
    low, high = balanced_accuracy_interval(labels, constant, units, 0.95)
    assert low < 1 / k < high
    assert not better_than_guessing(labels, constant, units, 0.95)
    right, outside = 0, 0
    for seed in range(100):
        found = guessed(k, n, seed)
        low, high = balanced_accuracy_interval(*found, 0.95)
        assert low <= found[1].mean() <= high
        outside += not low <= 1 / k <= high
        right += better_than_guessing(*found, 0.95, n_draws=1000)
    assert outside <= 11  # 5 expected
    assert right <= 7  # 2.5
    assert better_than_guessing(labels, np.arange(k * n) % 3 > 0, units, 0.95)


def test_the_interval_of_balanced_accuracy_holds_the_value():
    labels, _, units = guessed(10, 20)
    perfect = np.ones(200, bool)
    low, high = balanced_accuracy_interval(labels, perfect, units, 0.95)
    assert (low, high) == (pytest.approx(1 - (1 - wilson(20, 20, 0.95)[0]) / np.sqrt(10)), 1)
    # Ten patients of two images each are ten trials of each class.
    pairs = balanced_accuracy_interval(labels, perfect, units // 2, 0.95)
    assert pairs[0] == pytest.approx(1 - (1 - wilson(10, 10, 0.95)[0]) / np.sqrt(10))
