"""What the majority class and random answers score: by hand, and by averaging over draws."""

import warnings

import numpy as np
import pytest
from simulated_predictions import TWO
from sklearn import metrics

from xaiutils.classification import Predictions, assess
from xaiutils.classification.baselines import average_baselines, metric_baselines, warn_untaught

# Five images of the first class, three of the second, two of the third.
COUNTS = np.array([5, 3, 2])
LABELS = np.repeat(np.arange(3), COUNTS)


def always_first(names, labels):
    p = np.zeros((len(labels), len(names)))
    p[:, 0] = 1
    return Predictions(labels, p, names)


def test_of_three_classes_by_hand():
    found = metric_baselines(always_first(("a", "b", "c"), LABELS), None)
    assert found["accuracy"] == pytest.approx((0.5, 0.25 + 0.09 + 0.04))
    assert found["balanced accuracy"] == pytest.approx((1 / 3, 1 / 3))
    assert found["macro F1"] == pytest.approx((2 * 0.5 / 1.5 / 3, 1 / 3))
    assert found["Brier"] == pytest.approx((2 * (1 - 0.5), 2 * (1 - 0.38)))
    assert found["average precision"][0] == pytest.approx(1 / 3)
    assert "sensitivity" not in found


def test_of_two_classes_by_hand():
    labels = np.repeat([0, 1], [7, 3])
    found = metric_baselines(always_first(TWO, labels), 1)
    assert found["accuracy"] == pytest.approx((0.7, 0.49 + 0.09))
    assert found["Brier"] == pytest.approx((1 - 0.7, 1 - 0.58))
    assert found["sensitivity"] == pytest.approx((0, 0.3))
    assert found["specificity"] == pytest.approx((1, 0.7))
    assert found["average precision"][0] == pytest.approx(0.3)
    other = metric_baselines(always_first(TWO, labels), 0)
    assert other["sensitivity"] == pytest.approx((1, 0.7))
    assert other["specificity"] == pytest.approx((0, 0.3))


def test_the_majority_is_what_a_model_scores_that_always_says_it():
    report = assess(always_first(("a", "b", "c"), LABELS))
    for name in ("accuracy", "balanced accuracy", "MCC", "kappa", "Brier"):
        assert report.metrics.loc[name, "value"] == pytest.approx(report.metrics.loc[name, "majority"]), name
    averages = report.classes.loc["macro average", ["precision", "recall", "F1"]]
    assert averages.tolist() == pytest.approx(report.classes.loc["macro average, majority"].iloc[:3].tolist())


def test_random_answers_by_draws():
    """One-hot guesses by class frequency: accuracy, recall and Brier score are right on average."""
    rng, draws = np.random.default_rng(0), []
    for _ in range(4000):
        said = rng.choice(3, 10, p=COUNTS / 10)
        brier = ((np.eye(3)[said] - np.eye(3)[LABELS]) ** 2).sum(axis=1).mean()
        draws.append((metrics.accuracy_score(LABELS, said), metrics.recall_score(LABELS, said, average="macro"), brier))
    found = metric_baselines(always_first(("a", "b", "c"), LABELS), None)
    expected = [found[name][1] for name in ("accuracy", "balanced accuracy", "Brier")]
    assert np.mean(draws, axis=0) == pytest.approx(expected, abs=0.01)


def test_averages_over_classes_by_hand():
    scores = np.array([[0.5, 1, 0.6], [1, 0.5, 0.7], [0, 0, 0], [0, 0, 0]])
    found = average_baselines(scores, np.array([5, 3, 2, 0]), np.array([8, 2, 0, 0]))
    assert found["macro average"].tolist() == pytest.approx([0.5, 0.5, 1.3 / 3])
    assert found["weighted average"].tolist() == pytest.approx([0.55, 0.65, 0.51])
    assert found["macro average, majority"].tolist() == pytest.approx([0.5 / 3, 1 / 3, 2 * 0.5 / 1.5 / 3])
    assert found["weighted average, majority"].tolist() == pytest.approx([0.25, 0.5, 0.5 * 2 * 0.5 / 1.5])
    assert found["macro average, random"].tolist() == pytest.approx([1 / 3] * 3)
    assert found["weighted average, random"].tolist() == pytest.approx([0.38] * 3)


def test_networks_that_have_not_learnt_are_named():
    """Ten of 16 images are of the first class: 16 right are surely more (p = 2 / 2**6), 11 are not, 9 are fewer."""
    labels = np.repeat([0, 1], (10, 6))
    hits = {name: np.arange(16) < n for name, n in (("good", 16), ("poor", 11), ("bad", 9))}
    hits["always"] = labels == 0
    with pytest.warns(
        UserWarning, match=r"largest class \(62.5% of 16 images\): poor 68.8%, bad 56.2%, always 62.5%\. "
    ):
        assert warn_untaught(hits, labels) == ["poor", "bad", "always"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert warn_untaught({"good": hits["good"]}, labels) == []
    with pytest.warns(UserWarning, match="good"):  # six more images, all of one patient
        assert warn_untaught({"good": hits["good"]}, labels, np.where(np.arange(16) < 10, np.arange(16), 10)) == [
            "good"
        ]
