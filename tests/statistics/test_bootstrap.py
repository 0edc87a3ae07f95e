"""The bootstrap over units."""

import numpy as np
import pytest
from scipy import stats

from xaiutils.statistics.bootstrap import (
    bootstrap_means,
    bootstrap_medians,
    draw_units,
    percentile_interval,
    percentiles,
    replicates,
)


def test_replicates_draw_as_many_units_as_there_are():
    units = np.array([0, 0, 1, 2, 2, 2])
    drawn = np.concatenate(list(replicates(units, 3000, 0)), axis=1)
    assert drawn.shape == (6, 3000)
    assert (drawn[[0, 2, 3]].sum(axis=0) == 3).all()
    assert (drawn[0] == drawn[1]).all()
    shares = np.bincount(drawn[2], minlength=4) / 3000
    np.testing.assert_allclose(shares, stats.binom.pmf(range(4), 3, 1 / 3), atol=0.03)


def test_the_replicates_do_not_depend_on_the_block():
    units = np.arange(50) // 2
    whole = np.concatenate(list(replicates(units, 30, 1)), axis=1)
    blocks = list(replicates(units, 30, 1, cells_per_replicate=500_000))  # 8 of them are a block
    assert [block.shape[1] for block in blocks] == [8, 8, 8, 6]
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)


def test_models_and_maps_see_the_same_draws():
    """Means over rows by weights of replicates are the means of `bootstrap_means`, whatever the units are called."""
    values, units = np.random.default_rng(0).normal(size=(12, 2)), np.arange(12) // 3
    weights = np.concatenate(list(replicates(units, 40, 5)), axis=1)
    np.testing.assert_allclose(
        bootstrap_means(values, np.array(list("abcd"))[units], 40, 5),
        (weights.T @ values) / weights.sum(axis=0)[:, None],
    )


def test_whole_units_are_drawn():
    values = np.array([[1.0], [1.0], [4.0]])
    found = np.unique(bootstrap_means(values, np.array(["p", "p", "q"]), 200, 0).round(6))
    assert found.tolist() == [1.0, 2.0, 4.0]


def test_percentiles_by_hand():
    even = np.arange(1001) / 1000
    assert percentile_interval(even, 0.95) == pytest.approx((0.025, 0.975))
    assert percentile_interval(even, 0.5) == pytest.approx((0.25, 0.75))
    missing = even.copy()
    missing[:100] = np.nan
    assert percentile_interval(missing, 0.5) == pytest.approx((0.1 + 0.225, 1 - 0.225))
    missing[:101] = np.nan
    assert np.isnan(percentile_interval(missing, 0.5)).all()
    assert np.isnan(percentile_interval(np.ones(100), 0.95)).all()
    assert np.isnan(percentile_interval(np.append(np.full(999, 0.67), 0.68), 0.95)).all()  # "[0.67 to 0.67]"


def test_percentiles_of_columns_leave_out_what_has_no_value():
    samples = np.stack([np.arange(1001) / 1000, np.append(np.arange(1000) / 999, np.nan)], axis=1)
    np.testing.assert_allclose(percentiles(samples, 0.9), [[0.05, 0.05], [0.95, 0.95]])


def test_medians_are_those_of_the_rows_that_are_drawn():
    rng = np.random.default_rng(0)
    units, values = np.repeat(np.arange(9), [1, 2, 3, 1, 1, 2, 4, 1, 2]), rng.normal(size=(17, 2))
    found = bootstrap_medians(values, units, 50, seed=3)
    for drawn, medians in zip(draw_units(9, 50, 3), found, strict=True):
        rows = np.repeat(np.arange(17), drawn[units])
        np.testing.assert_allclose(medians, np.median(values[rows], axis=0))
