"""How well ordered classes are told: agreement and distance in grades, not only right or wrong."""

import warnings

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from xaiutils.classification.predictions import Predictions
from xaiutils.registry import check_choice, check_integer
from xaiutils.statistics.bootstrap import percentile_interval, replicates


def assess_grades(
    predictions: Predictions,
    answer: str = "likeliest",
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of classes that have an order, such as BI-RADS: that of ``class_names``.

    Args:
        predictions: of the images to be judged.
        answer: the grade that the model names: the "likeliest", or the "median" of its probabilities, by which the
            absolute error is least.
        n_resamples, confidence, seed: of the bootstrap over units (patients, where they are known).

    Returns:
        Rows "quadratic kappa" (Cohen 1968, weights by the square of the distance; 1 is perfect), "MAE" (mean absolute
        error in grades) and "within one grade"; columns value, low, high, and middle: of always naming the median grade
        of these images. NaN where it has no meaning: kappa where all truths and answers are one grade.

    Raises:
        ValueError: an argument is out of range, or answers are classes that the data do not have.
    """
    check_choice("answer", answer, ("likeliest", "median"))
    check_integer("n_resamples", n_resamples, 1)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}; expected a number between 0 and 1, such as 0.95.")
    p, k, truth = predictions.probabilities, len(predictions.class_names), predictions.labels
    if p.shape[1] > k:
        raise ValueError(f"the model knows {p.shape[1]} classes and the data {k}: a grade of the others is not known.")
    said = predictions.predicted if answer == "likeliest" else (np.cumsum(p, axis=1) >= 0.5 - 1e-9).argmax(axis=1)
    once = np.ones((len(truth), 1), np.int32)
    values = _scores(truth, said, k, once)
    drawn = np.concatenate(
        [_scores(truth, said, k, w) for w in replicates(predictions.units, n_resamples, seed)], axis=1
    )
    middle = _scores(truth, np.full(len(truth), np.sort(truth)[len(truth) // 2]), k, once)
    rows = [(v[0], *percentile_interval(s, confidence), m[0]) for v, s, m in zip(values, drawn, middle, strict=True)]
    names = ["quadratic kappa", "MAE", "within one grade"]
    return pd.DataFrame(rows, index=names, columns=["value", "low", "high", "middle"])


def _scores(truth: np.ndarray, said: np.ndarray, k: int, weights: np.ndarray) -> np.ndarray:
    """``(3, b)`` for ``weights`` ``(n, b)``."""
    distance = np.abs(truth - said)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of samples of one grade alone, whose kappa is NaN
        kappa = [
            cohen_kappa_score(truth, said, labels=np.arange(k), weights="quadratic", sample_weight=w) for w in weights.T
        ]
    n = weights.sum(axis=0)
    return np.stack([np.array(kappa), distance @ weights / n, (distance <= 1) @ weights / n])
