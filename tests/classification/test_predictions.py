"""Predictions: checked, and combined per patient and breast."""

import numpy as np
import pytest
from simulated_predictions import TWO

from xaiutils.classification import Predictions, assess


@pytest.mark.parametrize(
    ("labels", "probabilities", "match"),
    [
        ([0, 1], [[0.5, 0.5], [np.nan, 0.5]], "1 of 2 images are NaN"),
        ([0, 1], [[2.0, -1.0], [0.5, 0.5]], "give probabilities, not logits"),
        ([0, 1], [[0.5], [0.2]], "knows fewer classes than the data"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], r"integers in 0\.\.1"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], r"labels must be \(n,\)"),
        ([], np.zeros((0, 2)), "there are no images"),
    ],
)
def test_bad_predictions(labels, probabilities, match):
    with pytest.raises(ValueError, match=match):
        Predictions(labels, probabilities, TWO)


def test_per_patient_and_per_breast():
    p = np.array([0.9, 0.2, 0.1, 0.4, 0.3, 0.2])
    found = Predictions(
        [1, 0, 0, 0, 1, 1],
        np.stack([1 - p, p], axis=1),
        TWO,
        {"patient": list("aaabcc"), "breast": ["aL", "aL", "aR", "bL", "cL", "cL"]},
    )
    patients, breasts = found.per("patient"), found.per("breast")
    assert patients.labels.tolist() == [1, 0, 1]
    assert patients.probabilities[:, 1].tolist() == [0.9, 0.4, 0.3]
    assert breasts.labels.tolist() == [1, 0, 0, 1]
    assert found.per("patient", combine="mean").probabilities[:, 1] == pytest.approx([0.4, 0.4, 0.25])
    assert found.per("patient", positive="benign").labels.tolist() == [0, 0, 1]
    assert (breasts.unit, breasts.units.tolist(), breasts.level) == ("patient", [0, 0, 1, 2], "breast")
    report = assess(found)
    assert list(report.levels) == ["patient", "breast"]
    assert report.levels["patient"].summary["n"] == 3
    assert report.levels["patient"].summary["AUC"] == 0.5
    assert "of 3 patients" in report.levels["patient"].verdict
    assert report.levels["breast"].predictions.unit == "patient"
    alone = Predictions([0, 1], [[0.8, 0.2], [0.3, 0.7]], TWO, {"patient": ["a", "b"]})
    assert assess(alone).levels == {}
    assert "Each patient has one image" in assess(alone).verdict


def test_patients_of_many_classes():
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    same = Predictions([0, 0, 2], p, tuple("abc"), {"patient": ["x", "x", "y"]}).per("patient")
    np.testing.assert_allclose(same.probabilities, [[0.4, 0.4, 0.2], [0.1, 0.1, 0.8]])
    mixed = assess(Predictions([0, 1, 2], p, tuple("abc"), {"patient": ["x", "x", "y"]}))
    assert mixed.levels == {}
    assert "images of one patient are of several classes" in mixed.verdict
