"""Scores of ordered classes, on answers small enough to work out by hand."""

import numpy as np
import pytest

from xaiutils.classification import Predictions, assess_grades

NAMES = ("1", "2", "3")


def told(labels, said, groups=None):
    return Predictions(np.array(labels), np.eye(3)[said], NAMES, groups or {})


def test_values_by_hand():
    table = assess_grades(told([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 2]), n_resamples=50)
    # distances 0 1 0 0 2 0; by chance, with truths 2 1 3 and answers 2 2 2 of 6: (2*(2+8) + 1*(2+2) + 3*(8+2)) / 6
    assert table["value"].tolist() == pytest.approx([1 - 5 / (54 / 6), 0.5, 5 / 6])
    assert table["middle"].tolist() == pytest.approx([0, 5 / 6, 4 / 6])  # always "3"
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()


def test_the_best_and_the_worst():
    assert assess_grades(told([0, 1, 2], [0, 1, 2]), n_resamples=5)["value"].tolist() == [1, 0, 1]
    assert assess_grades(told([0, 0, 2, 2], [2, 2, 0, 0]), n_resamples=5)["value"].tolist() == [-1, 2, 0]


def test_the_median_answer():
    p = np.array([[0.4, 0.3, 0.3], [0.2, 0.2, 0.6]])
    found = Predictions(np.array([1, 2]), p, NAMES)
    assert assess_grades(found, n_resamples=5)["value"]["MAE"] == 0.5
    assert assess_grades(found, "median", n_resamples=5)["value"]["MAE"] == 0.0


def test_patients_are_the_units():
    labels, said = [0, 1, 2, 1] * 10, [0, 1, 1, 1] * 10
    alone = assess_grades(told(labels, said), n_resamples=200)
    whose = np.repeat(["p1", "p2", "p3", "p4"], 10)
    together = assess_grades(told(sorted(labels), sorted(said), {"patient": whose}), n_resamples=200)
    width = (alone["high"] - alone["low"])["MAE"], (together["high"] - together["low"])["MAE"]
    assert width[1] > 1.5 * width[0]


def test_refusals():
    with pytest.raises(ValueError, match="answer='mean'"):
        assess_grades(told([0, 1], [0, 1]), "mean")
    with pytest.raises(ValueError, match="confidence"):
        assess_grades(told([0, 1], [0, 1]), confidence=1.0)
    with pytest.raises(ValueError, match="knows 3 classes and the data 2"):
        assess_grades(Predictions(np.array([0, 1]), np.eye(3)[[0, 1]], NAMES[:2]))
