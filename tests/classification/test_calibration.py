"""Calibration: by hand, against scikit-learn, and where the probabilities are true."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from simulated_predictions import scored, simulated
from sklearn import linear_model, metrics

from xaiutils.classification import assess
from xaiutils.classification import calibration as cal
from xaiutils.statistics.proportions import wilson

pytestmark = pytest.mark.filterwarnings("error")

SEEDS = st.integers(0, 2**32 - 1)
Y = np.array([0, 0, 1, 0, 1, 0, 1, 1, 1, 1], bool)
P = np.array([0.1, 0.1, 0.2, 0.3, 0.4, 0.6, 0.6, 0.7, 0.9, 0.9])


def test_bins_of_equal_mass_by_hand():
    assert cal.equal_mass_bins(P, 2).tolist() == [0] * 5 + [1] * 5
    assert cal.equal_mass_bins(P, 5).tolist() == [0, 0, 1, 1, 2, 3, 3, 3, 4, 4]  # ties share the bin of their middle
    assert cal.equal_mass_bins(np.full(7, 0.3), 4).tolist() == [0] * 7


def test_calibration_errors_by_hand():
    """Bins 0.22 against 2 of 5 and 0.74 against 4 of 5."""
    assert cal.expected_calibration_error(Y, P, 2) == pytest.approx((0.18 + 0.06) / 2)
    table = cal.reliability_table(Y, P, 2)
    assert table["n"].tolist() == [5, 5]
    assert table["probability"].tolist() == pytest.approx([0.22, 0.74])
    assert table["frequency"].tolist() == pytest.approx([0.4, 0.8])
    assert table[["low", "high"]].iloc[0].tolist() == pytest.approx(wilson(2, 5, 0.95))
    parts = cal.brier_decomposition(Y, P, 2)
    brier = ((P - Y) ** 2).mean()
    assert parts["Brier"] == pytest.approx(brier)
    assert parts["reliability"] == pytest.approx((0.18**2 + 0.06**2) / 2)
    assert parts["resolution"] == pytest.approx(0.2**2)
    assert parts["uncertainty"] == pytest.approx(0.6 * 0.4)
    assert parts["skill"] == pytest.approx(1 - brier / 0.24)
    assert np.isnan(cal.brier_decomposition(np.ones(10, bool), P, 2)["skill"])


def test_the_error_of_true_probabilities():
    """One bin of n images of p = 1/2: the mean of |binomial / n - 1/2|."""
    n = 40
    expected = (stats.binom.pmf(range(n + 1), n, 0.5) * np.abs(np.arange(n + 1) / n - 0.5)).sum()
    assert cal.calibrated_error(np.full(n, 0.5), 10, n_draws=5000) == pytest.approx(expected, rel=0.03)
    assert cal.calibrated_error(np.repeat([0.0, 1.0], 20)) == 0


def test_slope_and_its_error():
    """A logistic regression's slope, and its standard error from the information matrix."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.95, 400)
    y = rng.random(400) < special.expit(0.3 + 0.7 * special.logit(p))
    found = cal.calibration_line(y, p)
    x = special.logit(p)
    q = special.expit(found["intercept"] + found["slope"] * x)
    assert [(y - q).sum(), ((y - q) * x).sum()] == pytest.approx([0, 0], abs=1e-6)
    design = np.stack([np.ones(400), x], axis=1)
    covariance = np.linalg.inv(design.T @ (design * (q * (1 - q))[:, None]))
    assert found["slope error"] == pytest.approx(np.sqrt(covariance[1, 1]), rel=1e-3)


def test_temperatures_by_hand():
    """p = 0.8 where three of five are right: the likelihood is largest where the stated p is 0.6."""
    labels, p = np.array([0, 0, 0, 1, 1]), np.tile([0.8, 0.2], (5, 1))
    temperature = cal.fit_temperature(labels, p)
    assert temperature == pytest.approx(np.log(0.8 / 0.2) / np.log(0.6 / 0.4), rel=1e-4)
    assert cal.apply_temperature(p, temperature)[0, 0] == pytest.approx(0.6, rel=1e-4)
    assert np.isnan(cal.fit_temperature(np.zeros(5, int), p))  # always right


def test_true_probabilities_are_called_calibrated():
    rng = np.random.default_rng(0)
    p = rng.beta(0.7, 1.2, 20_000)
    y = rng.random(20_000) < p
    row = cal.calibration_row(y, p)
    assert row["ECE"] < 0.012
    assert row["ECE"] == pytest.approx(row["ECE if calibrated"], abs=0.006)
    assert row["slope"] == pytest.approx(1, abs=0.05)
    assert row["intercept"] == pytest.approx(0, abs=0.06)
    too_sure = special.expit(2 * special.logit(p) + 1)
    row = cal.calibration_row(y, too_sure)
    assert row["ECE"] > 0.1
    assert row["slope"] == pytest.approx(0.5, abs=0.03)
    assert row["intercept"] == pytest.approx(-0.5, abs=0.06)
    slopes = [cal.calibration_line(rng.random(500) < q, q) for q in rng.beta(0.7, 1.2, (300, 500))]
    spread = np.std([line["slope"] for line in slopes])
    assert np.mean([line["slope error"] for line in slopes]) == pytest.approx(spread, rel=0.15)
    table = cal.reliability_table(y, p)
    assert table["n"].tolist() == [2000] * 10
    assert ((table["low"] < table["probability"]) & (table["probability"] < table["high"])).sum() >= 8


@given(SEEDS)
def test_the_parts_of_the_brier_score_add_up(seed):
    y, p = scored(seed, levels=25)
    parts = cal.brier_decomposition(y, p)
    assert parts["Brier"] == pytest.approx(metrics.brier_score_loss(y, p))
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within bins"]
    assert total == pytest.approx(parts["Brier"])
    coarse = cal.brier_decomposition(y, np.round(p * 4) / 4, n_bins=1000)  # a bin a value: nothing within
    assert coarse["within bins"] == pytest.approx(0, abs=1e-12)


@settings(max_examples=20)
@given(SEEDS)
def test_calibration_line_is_a_logistic_regression(seed):
    y, p = scored(seed, n=80, levels=20)
    p = 0.02 + 0.95 * p
    x = special.logit(p)[:, None]
    found = cal.calibration_line(y, p)
    if x[y].min() < x[~y].max() and x[~y].min() < x[y].max():
        model = linear_model.LogisticRegression(C=1e10, tol=1e-10, max_iter=1000).fit(x, y)
        assert found["slope"] == pytest.approx(model.coef_[0, 0], abs=1e-3)
        assert found["intercept"] == pytest.approx(model.intercept_[0], abs=1e-3)
    assert special.expit(special.logit(p) + found["intercept at slope 1"]).mean() == pytest.approx(y.mean(), abs=1e-6)


def test_calibration_without_a_line():
    y = np.array([False, False, True, True])
    for p in (np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.1, 0.5, 0.5, 0.9]), np.full(4, 0.3), np.array([1, 1, 0, 0])):
        found = cal.calibration_line(y, p)
        assert np.isnan([found["slope"], found["intercept"]]).all()
        assert np.isfinite(found["intercept at slope 1"])
    assert np.isnan(list(cal.calibration_line(np.ones(3, bool), np.array([0.1, 0.2, 0.3])).values())).all()
    assert cal.expected_calibration_error(y, np.full(4, 0.5)) == 0  # equal probabilities share a bin


def test_temperature_is_found_again():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 1, (20_000, 4))
    truth = special.softmax(logits, axis=1)
    labels = (truth.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    stated = special.softmax(2 * logits, axis=1)
    temperature = cal.fit_temperature(labels, stated)
    assert temperature == pytest.approx(2, rel=0.03)
    np.testing.assert_allclose(cal.apply_temperature(stated, 2.0), truth, atol=1e-5)
    report = assess(simulated(600, seed=1, skill=2), simulated(600, seed=2, skill=2))
    before, after = report.calibration["ECE"].iloc[:2]
    assert report.calibration.index[1].endswith(f"temperature {report.temperature:.3g}")
    assert after < before
