"""The sampling error of AUCs: by pairs, by hand and by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_predictions import scored, simulated

from xaiutils.statistics.delong import auc_interval, delong, macro_auc_covariance

SEEDS = st.integers(0, 2**32 - 1)


def naive_delong(positive, scores):
    """DeLong's covariance from the definition: every pair of a positive and a negative."""
    v10, v01 = [], []
    for s in scores:
        a, b = s[positive][:, None], s[~positive][None, :]
        order = (a > b) + 0.5 * (a == b)
        v10.append(order.mean(axis=1))
        v01.append(order.mean(axis=0))
    return np.mean(v10, axis=1), np.cov(v10) / positive.sum() + np.cov(v01) / (~positive).sum()


@given(SEEDS)
def test_delong_by_midranks_is_delong_by_pairs(seed):
    positive, first = scored(seed)
    positive[:4] = [True, True, False, False]
    rng = np.random.default_rng(seed)
    scores = np.stack([first, np.round(first + rng.normal(0, 0.3, len(first)), 1), rng.random(len(first))])
    auc, covariance = delong(positive, scores)
    expected, expected_covariance = naive_delong(positive, scores)
    np.testing.assert_allclose(auc, expected)
    np.testing.assert_allclose(covariance, expected_covariance, atol=1e-12)
    # A patient with twice the same image is worth one image.
    twice = np.repeat(np.arange(len(first)), 2)
    clustered = delong(positive[twice], scores[:, twice], twice)[1]
    np.testing.assert_allclose(clustered, covariance, atol=1e-12)


def test_patients_with_both_classes_by_simulation():
    """Obuchowski's variance is that of the AUC over new samples of patients, of whom most images are of one class and
    share a shift; that of images alone is too small by half."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 4)
    aucs, variances, naive = [], [], []
    for _ in range(300):
        positive = rng.random(240) < np.where(rng.random(60) < 0.5, 0.9, 0.1)[patients]
        scores = rng.normal(size=240) + positive + 1.5 * rng.normal(size=60)[patients]
        auc, variance = delong(positive, scores[None], patients)
        aucs.append(auc[0])
        variances.append(variance[0, 0])
        naive.append(delong(positive, scores[None])[1][0, 0])
    assert np.mean(variances) == pytest.approx(np.var(aucs), rel=0.15)
    assert np.mean(naive) < 0.6 * np.var(aucs)


def test_macro_auc_covariance_is_delongs_for_two_classes():
    found = simulated(300, seed=1)
    both = np.stack([found.probabilities, simulated(300, seed=1, skill=0.3).probabilities])
    auc, covariance = macro_auc_covariance(found.labels, both)
    expected, expected_covariance = delong(found.labels == 1, both[:, :, 1])
    np.testing.assert_allclose(auc, expected)
    np.testing.assert_allclose(covariance, expected_covariance, rtol=0.01)


def test_delong_by_hand():
    """Two positives and three negatives: the variances of the components by pairs."""
    positive, scores = np.array([True, True, False, False, False]), np.array([3.0, 1, 2, 1, 0])
    aucs, covariance = delong(positive, scores[None])
    v10, v01 = np.array([1, (0 + 0.5 + 1) / 3]), np.array([1 / 2, (1 + 0.5) / 2, 1])
    assert aucs[0] == pytest.approx(4.5 / 6)
    assert covariance[0, 0] == pytest.approx(v10.var(ddof=1) / 2 + v01.var(ddof=1) / 3)


def test_intervals_of_an_auc_of_one_by_hand():
    """All of m disjoint pairs in order has the probability AUC^m at most: 0.025 at the bound."""
    flat = np.ones(50)
    assert auc_interval(1.0, flat, 3, 8, 0.95) == (pytest.approx(0.025 ** (1 / 3)), 1.0)
    assert auc_interval(0.0, flat * 0, 8, 3, 0.95) == (0.0, pytest.approx(1 - 0.025 ** (1 / 3)))
    assert np.isnan(auc_interval(1.0, flat, 0, 8, 0.95)).all()
    assert np.isnan(auc_interval(0.5, flat / 2, 3, 8, 0.95)).all()
    assert auc_interval(1.0, flat, 1, 1, 0.9)[0] == pytest.approx(0.05)
