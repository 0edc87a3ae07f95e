"""McNemar, sign flips of patients, Cochran, and intervals of differences of accuracy."""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from simulated_predictions import simulated

from xaiutils.classification import compare_models
from xaiutils.statistics.mcnemar import accuracy_difference_interval, cochran_q, mcnemar


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (12, 3), (40, 10), (30, 30)])
def test_mcnemar(b, c):
    right_a = np.array([True] * b + [False] * c + [True] * 7)
    right_b = np.array([False] * b + [True] * c + [True] * 7)
    found = mcnemar(right_a, right_b)
    exact = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    mid_p = exact - stats.binom.pmf(b, b + c, 0.5) if b != c else 1.0
    assert (found.only_a, found.only_b) == (b, c)
    assert found.p == pytest.approx(exact if b + c < 25 else mid_p)
    assert found.test == ("McNemar, exact" if b + c < 25 else "McNemar, mid-p")


def test_sign_flips_of_patients_are_exact():
    rng = np.random.default_rng(1)
    units = np.repeat(np.arange(8), 4)
    right = rng.random((2, 32)) < [[0.8], [0.5]]
    found = mcnemar(*right, units)
    d = np.bincount(units, right[0].astype(float) - right[1])
    sums = [abs(np.dot(signs, d)) for signs in product((-1, 1), repeat=8)]
    assert found.p == pytest.approx(np.mean(np.array(sums) >= abs(d.sum()) - 1e-9))
    assert found.test == "sign flips of patients, exact"


def test_accuracy_differences_of_images_are_never_certain():
    """Bonett & Price by hand: 12 and 3 discordant of 100, and none of 50."""
    a, b = np.arange(100) < 92, (np.arange(100) >= 12) & (np.arange(100) < 95)
    low, high = accuracy_difference_interval(a, b, np.arange(100), 0.95)
    assert ((a & ~b).sum(), (b & ~a).sum()) == (12, 3)
    half = 1.959964 * np.sqrt((17 / 102 - (9 / 102) ** 2) / 102)
    assert (low, high) == pytest.approx((9 / 102 - half, 9 / 102 + half))
    same = compare_models({"a": simulated(50), "b": simulated(50)}).set_index("quantity")
    assert same.loc["accuracy", "low"] == -same.loc["accuracy", "high"] < -0.02
    assert same.loc["AUC", ["low", "high"]].isna().all()


def test_cochrans_q_of_two_models_is_mcnemars_without_correction():
    right = np.random.default_rng(0).random((2, 200)) < [[0.8], [0.7]]
    b, c = (right[0] & ~right[1]).sum(), (~right[0] & right[1]).sum()
    q, p = cochran_q(right)
    assert q == pytest.approx((b - c) ** 2 / (b + c))
    assert p == pytest.approx(stats.chi2.sf(q, 1))
    assert np.isnan(cochran_q(np.ones((3, 5), bool))).all()


def test_mcnemar_and_cochran_by_hand():
    """Of 8 images on which one alone is right, 7 are a's: 2 (1 + 8) / 256."""
    a = np.array([True] * 7 + [False] + [True] * 5)
    b = np.array([False] * 7 + [True] + [True] * 5)
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b, found.test) == (7, 1, "McNemar, exact")
    assert found.p == pytest.approx(2 * 9 / 256)
    for n, test in ((24, "McNemar, exact"), (25, "McNemar, mid-p")):
        found = mcnemar(np.arange(n) < 18, np.arange(n) >= 18)
        exact = 2 * stats.binom.sf(17, n, 0.5)
        assert found.test == test
        assert found.p == pytest.approx(exact - (stats.binom.pmf(18, n, 0.5) if n == 25 else 0))
    right = np.array([[1, 1, 1, 1, 0], [1, 0, 0, 1, 0], [0, 0, 1, 1, 0]], bool)
    # Models 4, 2, 2; images 2, 1, 2, 3, 0: Q = 2 (3 * 24 - 64) / (3 * 8 - 18).
    assert cochran_q(right) == pytest.approx((16 / 6, np.exp(-16 / 12)))
