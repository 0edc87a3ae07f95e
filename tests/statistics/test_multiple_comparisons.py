"""Corrections for many comparisons, by hand and by published tables."""

import numpy as np
import pytest

from xaiutils.statistics.multiple_comparisons import holm, nemenyi_critical_difference


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.5])).tolist() == [1, 1]
    assert np.isnan(holm(np.array([np.nan, np.nan]))).all()
    assert holm(np.array([])).shape == (0,)
    assert holm(np.array([0.4, np.nan, 0.6])).tolist() == pytest.approx([0.8, np.nan, 0.8], nan_ok=True)


@pytest.mark.parametrize(("n_methods", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_differences_of_demsars_table(n_methods, q):
    expected = q * np.sqrt(n_methods * (n_methods + 1) / (6 * 30))
    assert nemenyi_critical_difference(n_methods, 30) == pytest.approx(expected, abs=2e-3)
