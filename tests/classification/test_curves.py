"""ROC and precision-recall curves, operating points and net benefit: scikit-learn, brute force and cases by hand."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_predictions import TWO, scored
from sklearn import metrics

from xaiutils.classification import Predictions, assess, curves
from xaiutils.classification.figures_of_merit import confusion_counts
from xaiutils.statistics.bootstrap import replicates

SEEDS = st.integers(0, 2**32 - 1)
Y = np.array([0, 0, 1, 0, 1, 0, 1, 1, 1, 1], bool)
P = np.array([0.1, 0.1, 0.2, 0.3, 0.4, 0.6, 0.6, 0.7, 0.9, 0.9])


@given(SEEDS)
def test_curves_agree_with_scikit_learn(seed):
    positive, scores = scored(seed)
    table = curves.threshold_table(positive, scores)
    fpr, tpr, thresholds = metrics.roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(1 - table["specificity"], fpr, atol=1e-12)
    np.testing.assert_allclose(table["sensitivity"], tpr)
    np.testing.assert_array_equal(table["threshold"], thresholds)
    precision, _, _ = metrics.precision_recall_curve(positive, scores)
    np.testing.assert_allclose(table["precision"], precision[::-1])


@settings(max_examples=15)
@given(SEEDS)
def test_weights_are_repetitions(seed):
    """A replicate's area is that of the drawn images, and so are its confusion counts and operating points."""
    positive, scores = scored(seed)
    units = np.random.default_rng(seed).integers(0, 9, len(scores))
    units = np.unique(units, return_inverse=True)[1]
    weights = np.concatenate(list(replicates(units, 6, 0)), axis=1)
    assert weights.shape == (len(scores), 6)
    ranks = curves.PositiveRanks.of(positive, scores, weights)
    auc, precision = ranks.auc(), ranks.average_precision()
    sensitivity, specificity = ranks.sensitivity_at(0.7), ranks.specificity_at(0.6)
    counts = confusion_counts(positive.astype(int), (scores > 0.5).astype(int), 2, weights)
    for b in range(6):
        assert all(len(set(weights[units == u, b])) == 1 for u in range(units.max() + 1))
        drawn = np.repeat(np.arange(len(scores)), weights[:, b])
        y, x = positive[drawn], scores[drawn]
        np.testing.assert_array_equal(counts[:, :2, b], metrics.confusion_matrix(y, x > 0.5, labels=[False, True]))
        if 0 < y.sum() < len(y):
            assert auc[b] == pytest.approx(metrics.roc_auc_score(y, x))
            assert precision[b] == pytest.approx(metrics.average_precision_score(y, x))
            table = curves.threshold_table(y, x)
            assert sensitivity[b] == pytest.approx(table["sensitivity"][table["specificity"] >= 0.7 - 1e-9].max())
            assert specificity[b] == pytest.approx(table["specificity"][table["sensitivity"] >= 0.6 - 1e-9].max())
        else:
            assert np.isnan(auc[b])


@given(SEEDS)
def test_reversed_scores_have_the_rest_of_the_area(seed):
    positive, scores = scored(seed)
    once = np.ones((len(scores), 1), np.int32)
    there, back = (curves.PositiveRanks.of(positive, s, once).auc()[0] for s in (scores, -scores))
    assert there + back == pytest.approx(1)


def test_average_precision_of_random_scores():
    positive = np.arange(8) < 3
    orders = [[i in places for i in range(8)] for places in combinations(range(8), 3)]
    expected = np.mean([metrics.average_precision_score(order, -np.arange(8)) for order in orders])
    assert curves.random_average_precision(3, 8) == pytest.approx(expected)
    assert expected > 0.45  # the prevalence is 0.375
    assert curves.random_average_precision(5, 5) == pytest.approx(1)
    row = assess(Predictions(positive.astype(int), np.full((8, 2), 0.5), TWO)).metrics.loc["average precision"]
    assert row[["majority", "random"]].tolist() == [0.375, expected]


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


def test_net_benefit():
    positive, scores = np.array([True, True, False, False, False]), np.array([0.9, 0.3, 0.6, 0.2, 0.1])
    curve = curves.decision_curve(positive, scores, np.array([0.25, 0.5]))
    assert curve["model"].tolist() == pytest.approx([2 / 5 - 1 / 5 / 3, 1 / 5 - 1 / 5])
    assert curve["treat all"].tolist() == pytest.approx([2 / 5 - 3 / 5 / 3, 2 / 5 - 3 / 5])
    assert (curves.decision_curve(positive, positive.astype(float))["model"] == 0.4).all()


def test_net_benefit_by_hand():
    """At 0.2 a false alarm costs a quarter of a hit, at 0.5 a whole one; a score at the threshold is called."""
    found = curves.decision_curve(Y, P, np.array([0.2, 0.5]))
    assert found["model"].tolist() == pytest.approx([(6 - 2 / 4) / 10, (4 - 1) / 10])
    assert found["treat all"].tolist() == pytest.approx([(6 - 4 / 4) / 10, (6 - 4) / 10])
    assert found["treat none"].tolist() == [0, 0]
    default = curves.decision_curve(Y, P)["threshold"]
    assert (len(default), default.iloc[0], default.iloc[-1]) == (99, 0.01, 0.99)
