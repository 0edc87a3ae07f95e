"""Intervals over two crossed factors: by hand, by the t-test where one factor is enough, and their coverage."""

import numpy as np
import pytest
from scipy import stats

from xaiutils.statistics.crossed import crossed_interval


def mean_of(values):
    return lambda weights: (weights @ values / weights.sum(axis=1))[:, None]


def test_of_one_factor_it_is_the_t_interval():
    values = np.random.default_rng(0).normal(2, 1, 12)
    (mean,), (low,), (high,) = crossed_interval(mean_of(values), np.arange(12), np.zeros(12))
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 11, values.mean(), stats.sem(values)))


def test_variances_of_two_factors_are_added():
    # Two images by two seeds, value = image + seed: each factor's means are 0 and 2, of variance 2 / 2 = 1.
    values, images, seeds = np.array([0, 2, 2, 4.0]), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    (mean,), (low,), (high,) = crossed_interval(mean_of(values), images, seeds)
    half = np.sqrt(1 + 1) * stats.t.ppf(0.975, 2**2 / (1 + 1))
    assert (mean, low, high) == pytest.approx((2, 2 - half, 2 + half))


def test_nothing_that_varies_is_no_certainty():
    for factors in ([np.zeros(4)], [np.arange(4)]):
        _, low, high = crossed_interval(mean_of(np.ones(4)), *factors)
        assert np.isnan([low, high]).all()


def test_of_five_seeds_and_forty_images_it_holds_the_truth_as_often_as_it_says():
    """Which an interval over images alone does not."""
    rng, images, seeds = np.random.default_rng(1), np.repeat(np.arange(40), 5), np.tile(np.arange(5), 40)
    found = {"both": 0, "images": 0}
    for _ in range(300):
        values = rng.normal(0, 1, 40)[images] + rng.normal(0, 0.3, 5)[seeds] + rng.normal(0, 0.5, 200)
        for name, factors in (("both", (images, seeds)), ("images", (images,))):
            _, (low,), (high,) = crossed_interval(mean_of(values), *factors)
            found[name] += low <= 0 <= high
    assert 0.93 <= found["both"] / 300 <= 0.995
    assert found["images"] / 300 < 0.9
