"""Tests of paired values: against SciPy, brute force and cases by hand."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from xaiutils.statistics.paired_tests import (
    fewest_units,
    friedman,
    hits_against_chance,
    paired_test,
    wilcoxon_signed_rank,
)


def test_wilcoxon_by_hand():
    """Of 1, 2, -3, 4 the negative ranks sum to 3: five of the 16 sign patterns have 3 or less, so p is 10 / 16."""
    assert wilcoxon_signed_rank(np.array([1.0, 2, -3, 4, 0])) == pytest.approx((10 / 16, (7 - 3) / 10))
    assert wilcoxon_signed_rank(np.zeros(4)) == (1.0, 0.0)
    tied = np.array([1.0, 1, 1, -1, 2, 2])
    assert wilcoxon_signed_rank(tied)[0] == stats.wilcoxon(tied, method="asymptotic", correction=True).pvalue


@pytest.mark.parametrize("n_tests", [1, 6, 40])
def test_fewest_units_that_can_reject(n_tests):
    n = fewest_units(n_tests)
    assert n_tests * wilcoxon_signed_rank(np.arange(1.0, n + 1))[0] < 0.05
    assert n_tests * wilcoxon_signed_rank(np.arange(1.0, n))[0] >= 0.05


def test_the_test_is_over_the_means_of_units():
    differences, units = np.array([1.0, 3, -1, -1, 5, 5, 5]), np.array(list("aabbccc"))
    found = paired_test(differences, units, 500, 0)
    assert (found.p, found.effect, found.n) == (*wilcoxon_signed_rank(np.array([2.0, -1, 5])), 3)
    assert found.difference == pytest.approx(17 / 7)
    assert found.low < found.difference < found.high
    narrow = paired_test(differences, units, 500, 0, confidence=0.5)
    assert found.low < narrow.low < narrow.high < found.high
    assert np.isnan([paired_test(differences, units, 0, 0).low, paired_test(differences, units, 0, 0).high]).all()


def test_friedman_and_the_sign_test_of_two():
    ranks = stats.rankdata(np.random.default_rng(0).random((9, 3)), axis=1)
    assert friedman(ranks) == pytest.approx(tuple(stats.friedmanchisquare(*ranks.T)))
    two = np.array([[1.0, 2]] * 7 + [[2, 1]] + [[1.5, 1.5]] * 3)
    assert friedman(two) == (7, pytest.approx(2 * 9 / 256))
    assert friedman(np.full((4, 3), 2.0)) == (0.0, 1.0)


def hits_by_brute_force(chances, least):
    """The probability of ``least`` hits or more among independent images."""
    draws = product((0, 1), repeat=len(chances))
    return sum(np.prod(np.where(d, chances, 1 - chances)) for d in map(np.array, draws) if d.sum() >= least)


def test_hits_where_each_image_has_its_own_chance():
    chances, hits = np.array([0.1, 0.5, 0.05, 0.3, 0.2]), np.array([1, 1, 1, 0, 0])
    p = hits_against_chance(hits, chances, np.arange(5))
    assert p == pytest.approx(2 * hits_by_brute_force(chances, 3))
    # A fraction counts neither as a hit nor as a miss for any claim.
    assert hits_against_chance(np.array([1, 1, 0.5, 0, 0]), chances, np.arange(5)) == pytest.approx(
        min(1, 2 * hits_by_brute_force(chances, 2))
    )


def test_a_patients_images_may_depend_on_each_other():
    """Two patients of chances (0.1, 0.2) and (0.3,), both hit: 0.3 at most for the first."""
    p = hits_against_chance(np.array([1, 0, 1]), np.array([0.1, 0.2, 0.3]), np.array(list("aab")))
    assert p == pytest.approx(2 * 0.3 * 0.3)
    # None of ten patients: at least the largest chance of each.
    none = hits_against_chance(np.zeros(20), np.full(20, 0.4), np.arange(20) // 2)
    assert none == pytest.approx(2 * 0.6**10)


def test_tails_are_exact_far_out():
    assert hits_against_chance(np.ones(60), np.full(60, 0.1), np.arange(60)) == pytest.approx(2 * 0.1**60)
