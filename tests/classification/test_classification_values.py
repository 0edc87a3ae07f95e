"""Figures of merit whose value follows by hand or from the formula as its paper has it: each constant counts."""

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics

from xaiutils.classification import Predictions, assess, curves
from xaiutils.classification import calibration as cal
from xaiutils.classification import compare_models as cmp
from xaiutils.classification.scores import class_scores, confusion_counts, overall_scores
from xaiutils.statistics import bootstrap

Y = np.array([0, 0, 1, 0, 1, 0, 1, 1, 1, 1], bool)
P = np.array([0.1, 0.1, 0.2, 0.3, 0.4, 0.6, 0.6, 0.7, 0.9, 0.9])


# Confusions ---------------------------------------------------------------------------------------------------------


def test_answers_outside_the_classes_count_in_every_figure():
    """Six of ten right, two of class 1 called something that the data do not have."""
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    said = np.array([0, 0, 0, 1, 2, 1, 1, 1, 0, 2])
    p = np.full((10, 4), 0.1)
    p[np.arange(10), np.where(said == 2, 3, said)] = 0.7
    found = assess(Predictions(labels, p, ("a", "b"))).summary
    assert found["accuracy"] == 0.6
    assert found["MCC"] == pytest.approx(metrics.matthews_corrcoef(labels, said))
    assert found["kappa"] == pytest.approx(metrics.cohen_kappa_score(labels, said))
    # right n - sum t p = 60 - 5 * 4 - 5 * 4; n^2 - sum p^2 = 100 - 16 - 16 - 4; n^2 - sum t^2 = 50.
    assert found["MCC"] == pytest.approx(20 / np.sqrt(64 * 50))
    assert found["kappa"] == pytest.approx((0.6 - 0.4) / (1 - 0.4))
    assert found["balanced accuracy"] == 0.6
    assert found["macro F1"] == pytest.approx(2 * 3 / (5 + 4))


def test_confusion_by_hand():
    weights = np.array([[1, 0], [1, 2], [1, 3], [1, 0]])
    counts = confusion_counts(np.array([0, 1, 1, 0]), np.array([0, 0, 1, 2]), 2, weights)
    assert counts[..., 0].tolist() == [[1, 0, 1], [1, 1, 0]]
    assert counts[..., 1].tolist() == [[0, 0, 0], [2, 3, 0]]
    found = class_scores(counts)
    assert found["precision"][:, 0].tolist() == [1 / 2, 1]
    assert found["recall"][:, 0].tolist() == [1 / 2, 1 / 2]
    assert found["F1"][:, 0].tolist() == pytest.approx([1 / 2, 2 / 3])
    assert found["support"].T.tolist() == [[2, 2], [0, 5]]
    assert np.isnan(found["recall"][0, 1])
    overall = overall_scores(counts)
    assert overall["balanced accuracy"].tolist() == pytest.approx([1 / 2, 3 / 5])
    assert overall["macro F1"].tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2, (0 + 6 / 8) / 2])
    never = class_scores(confusion_counts(np.array([0, 0]), np.array([0, 0]), 2, np.ones((2, 1))))
    assert never["precision"][1, 0] == 0
    assert np.isnan([never["recall"][1, 0], never["F1"][1, 0]]).all()
    one = overall_scores(confusion_counts(np.array([0, 0]), np.array([0, 0]), 2, np.ones((2, 1))))
    assert one["MCC"] == 0
    assert np.isnan(one["kappa"])


# Intervals ----------------------------------------------------------------------------------------------------------


def test_wilson_by_hand():
    """Newcombe 1998 (Statistics in Medicine 17), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert bootstrap.wilson(hits, n, 0.95) == pytest.approx((low, high), abs=5e-5)
    assert bootstrap.wilson(5, 10, 0.9) == pytest.approx((0.2693, 0.7307), abs=5e-5)
    assert np.isnan(bootstrap.wilson(0, 0, 0.95)).all()
    assert bootstrap.wilson(20, 20, 0.95)[1] == 1


def test_percentiles_by_hand():
    even = np.arange(1001) / 1000
    assert bootstrap.percentile_interval(even, 0.95) == pytest.approx((0.025, 0.975))
    assert bootstrap.percentile_interval(even, 0.5) == pytest.approx((0.25, 0.75))
    missing = even.copy()
    missing[:100] = np.nan
    assert bootstrap.percentile_interval(missing, 0.5) == pytest.approx((0.1 + 0.225, 1 - 0.225))
    missing[:101] = np.nan
    assert np.isnan(bootstrap.percentile_interval(missing, 0.5)).all()
    assert np.isnan(bootstrap.percentile_interval(np.ones(100), 0.95)).all()


def test_intervals_of_an_auc_of_one_by_hand():
    """All of m disjoint pairs in order has the probability AUC^m at most: 0.025 at the bound."""
    flat = np.ones(50)
    assert bootstrap.auc_interval(1.0, flat, 3, 8, 0.95) == (pytest.approx(0.025 ** (1 / 3)), 1.0)
    assert bootstrap.auc_interval(0.0, flat * 0, 8, 3, 0.95) == (0.0, pytest.approx(1 - 0.025 ** (1 / 3)))
    assert np.isnan(bootstrap.auc_interval(1.0, flat, 0, 8, 0.95)).all()
    assert np.isnan(bootstrap.auc_interval(0.5, flat / 2, 3, 8, 0.95)).all()
    assert bootstrap.auc_interval(1.0, flat, 1, 1, 0.9)[0] == pytest.approx(0.05)


def test_intervals_of_proportions_by_hand():
    hits, alone, pairs = np.array([True] * 3 + [False] * 7), np.arange(10), np.arange(10) // 2
    samples = np.arange(1001) / 1000
    assert bootstrap.proportion_interval(hits, alone, samples, 0.95) == bootstrap.wilson(3, 10, 0.95)
    assert bootstrap.proportion_interval(hits, pairs, samples, 0.95) == pytest.approx((0.025, 0.975))
    assert bootstrap.proportion_interval(hits, pairs, np.full(99, 0.3), 0.95) == bootstrap.wilson(1.5, 5, 0.95)
    assert np.isnan(bootstrap.proportion_interval(hits[:0], alone[:0], None, 0.95)).all()


def test_interval_of_balanced_accuracy_by_hand():
    """MOVER: each end at the root of the summed squares of the distances to the Wilson limits, over the classes."""
    labels = np.repeat([0, 1], [20, 10])
    correct = np.concatenate([np.arange(20) < 14, np.arange(10) < 10])
    limits = [bootstrap.wilson(14, 20, 0.95), bootstrap.wilson(10, 10, 0.95)]
    normal = 1.96**2 * (0.7 * 0.3 / 19 + 0)
    below = np.sqrt(max(normal, (0.7 - limits[0][0]) ** 2 + (1 - limits[1][0]) ** 2)) / 2
    above = np.sqrt(max(normal, (limits[0][1] - 0.7) ** 2 + 0)) / 2
    found = bootstrap.balanced_accuracy_interval(labels, correct, np.arange(30), 0.95)
    assert found == pytest.approx((0.85 - below, min(1, 0.85 + above)), abs=1e-4)


def test_replicates_draw_as_many_units_as_there_are():
    units = np.array([0, 0, 1, 2, 2, 2])
    drawn = np.concatenate(list(bootstrap.replicates(units, 3000, 0)), axis=1)
    assert drawn.shape == (6, 3000)
    assert (drawn[[0, 2, 3]].sum(axis=0) == 3).all()
    assert (drawn[0] == drawn[1]).all()
    shares = np.bincount(drawn[2], minlength=4) / 3000
    np.testing.assert_allclose(shares, stats.binom.pmf(range(4), 3, 1 / 3), atol=0.03)


# Calibration --------------------------------------------------------------------------------------------------------


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
    assert table[["low", "high"]].iloc[0].tolist() == pytest.approx(bootstrap.wilson(2, 5, 0.95))
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


# Curves and thresholds ----------------------------------------------------------------------------------------------


def test_thresholds_by_hand():
    table = curves.threshold_table(Y, P)
    assert table["threshold"].tolist() == [np.inf, 0.9, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1]
    assert table["called"].tolist() == [0, 2, 3, 5, 6, 7, 8, 10]
    assert table["sensitivity"].tolist() == pytest.approx([0, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 5 / 6, 1, 1])
    assert table["specificity"].tolist() == pytest.approx([1, 1, 1, 3 / 4, 3 / 4, 2 / 4, 2 / 4, 0])
    assert table["precision"].tolist() == pytest.approx([1, 1, 1, 4 / 5, 5 / 6, 5 / 7, 6 / 8, 6 / 10])
    for what, target, threshold in (
        ("specificity", 0.75, 0.4), ("specificity", 0.76, 0.7), ("specificity", 1.0, 0.7),
        ("sensitivity", 4 / 6, 0.6), ("sensitivity", 0.7, 0.4), ("sensitivity", 1.0, 0.2),
    ):  # fmt: skip
        assert curves.choose_threshold(Y, P, what, target) == threshold, (what, target)
    assert curves.choose_threshold(np.array([True, False]), np.array([0.1, 0.9]), "specificity", 0.9) == np.inf


def test_areas_and_operating_points_by_hand():
    ranks = curves.PositiveRanks.of(Y, P, np.ones((10, 1), np.int32))
    # Of 24 pairs the positive is ahead in 4 + 4 + 4 + 3.5 + 3 + 2.
    assert ranks.auc()[0] == pytest.approx(20.5 / 24)
    precision = (2 * 1 + 1 * 1 + 1 * 4 / 5 + 1 * 5 / 6 + 1 * 6 / 8) / 6
    assert ranks.average_precision()[0] == pytest.approx(precision)
    for specificity, sensitivity in ((1.0, 3 / 6), (0.76, 3 / 6), (0.75, 5 / 6), (0.5, 1), (0.0, 1)):
        assert ranks.sensitivity_at(specificity)[0] == pytest.approx(sensitivity), specificity
    for sensitivity, specificity in ((2 / 6, 1), (0.5, 1), (0.51, 3 / 4), (5 / 6, 3 / 4), (0.84, 2 / 4), (1.0, 2 / 4)):
        assert ranks.specificity_at(sensitivity)[0] == pytest.approx(specificity), sensitivity


def test_net_benefit_by_hand():
    """At 0.2 a false alarm costs a quarter of a hit, at 0.5 a whole one; a score at the threshold is called."""
    found = curves.decision_curve(Y, P, np.array([0.2, 0.5]))
    assert found["model"].tolist() == pytest.approx([(6 - 2 / 4) / 10, (4 - 1) / 10])
    assert found["treat all"].tolist() == pytest.approx([(6 - 4 / 4) / 10, (6 - 4) / 10])
    assert found["treat none"].tolist() == [0, 0]
    default = curves.decision_curve(Y, P)["threshold"]
    assert (len(default), default.iloc[0], default.iloc[-1]) == (99, 0.01, 0.99)


# Tests of models ----------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    assert cmp.holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert cmp.holm(np.array([0.4, np.nan, 0.6])).tolist() == pytest.approx([0.8, np.nan, 0.8], nan_ok=True)


def test_mcnemar_and_cochran_by_hand():
    """Of 8 images on which one alone is right, 7 are a's: 2 (1 + 8) / 256."""
    a = np.array([True] * 7 + [False] + [True] * 5)
    b = np.array([False] * 7 + [True] + [True] * 5)
    found = cmp.mcnemar(a, b)
    assert (found["only_a"], found["only_b"], found["test"]) == (7, 1, "McNemar, exact")
    assert found["p"] == pytest.approx(2 * 9 / 256)
    for n, test in ((24, "McNemar, exact"), (25, "McNemar, mid-p")):
        found = cmp.mcnemar(np.arange(n) < 18, np.arange(n) >= 18)
        exact = 2 * stats.binom.sf(17, n, 0.5)
        assert found["test"] == test
        assert found["p"] == pytest.approx(exact - (stats.binom.pmf(18, n, 0.5) if n == 25 else 0))
    right = np.array([[1, 1, 1, 1, 0], [1, 0, 0, 1, 0], [0, 0, 1, 1, 0]], bool)
    # Models 4, 2, 2; images 2, 1, 2, 3, 0: Q = 2 (3 * 24 - 64) / (3 * 8 - 18).
    assert cmp.cochran_q(right) == pytest.approx((16 / 6, np.exp(-16 / 12)))


def test_delong_by_hand():
    """Two positives and three negatives: the variances of the components by pairs."""
    positive, scores = np.array([True, True, False, False, False]), np.array([3.0, 1, 2, 1, 0])
    aucs, covariance = cmp.delong(positive, scores[None])
    v10, v01 = np.array([1, (0 + 0.5 + 1) / 3]), np.array([1 / 2, (1 + 0.5) / 2, 1])
    assert aucs[0] == pytest.approx(4.5 / 6)
    assert covariance[0, 0] == pytest.approx(v10.var(ddof=1) / 2 + v01.var(ddof=1) / 3)


# Words --------------------------------------------------------------------------------------------------------------


def test_one_answer_is_told_where_there_are_several_truths():
    p = np.tile([0.9, 0.1], (6, 1))
    told = "It gives one answer to every image"
    assert told in str(assess(Predictions([0, 0, 0, 1, 1, 1], p, ("a", "b"))).verdict)
    assert told not in str(assess(Predictions([0] * 6, p, ("a", "b"))).verdict)
