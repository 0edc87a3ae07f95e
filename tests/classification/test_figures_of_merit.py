"""Figures of merit of confusions, by hand."""

import numpy as np
import pytest
from sklearn import metrics

from xaiutils.classification import Predictions, assess
from xaiutils.classification.figures_of_merit import class_scores, confusion_counts, overall_scores


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
