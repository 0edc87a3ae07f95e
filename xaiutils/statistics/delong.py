"""The sampling error of the AUC (DeLong for images, Obuchowski for patients), of models on the same images."""

import numpy as np
from scipy import stats

from xaiutils.statistics.bootstrap import percentile_interval


def auc_influence(positive: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """The AUC, and what each image adds to its error, float64 ``(n,)``: DeLong's structural components less the AUC,
    divided by the number of images of the class.

    By mid-ranks (Sun & Xu 2014, IEEE Signal Processing Letters 21): O(n log n) for DeLong et al. 1988. ``positive`` is
    bool ``(n,)``, ``scores`` float ``(n,)``; raises ValueError unless both classes occur.
    """
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        raise ValueError("an AUC needs images of the positive class and others.")
    ranks = stats.rankdata(scores)
    influence = np.empty(len(scores))
    v10 = (ranks[positive] - stats.rankdata(scores[positive])) / n
    v01 = 1 - (ranks[~positive] - stats.rankdata(scores[~positive])) / m
    auc = float(v10.mean())
    influence[positive], influence[~positive] = (v10 - auc) / m, (v01 - auc) / n
    return auc, influence


def delong(positive: np.ndarray, scores: np.ndarray, units: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """AUCs ``(models,)`` and their covariance ``(models, models)``, of ``scores`` ``(models, n)`` on the same images.

    DeLong et al. 1988 (Biometrics 44) where each image is a unit of its own; with ``units`` ``(n,)``, images of a
    patient may depend on each other: Obuchowski 1997 (Biometrics 53).
    """
    found = [auc_influence(positive, s) for s in scores]
    influence = np.stack([f[1] for f in found])
    units = np.arange(len(positive)) if units is None else np.unique(units, return_inverse=True)[1]
    of_positives = _sums_by_unit(np.where(positive, influence, 0), units)
    of_negatives = _sums_by_unit(np.where(positive, 0, influence), units)
    cross = of_positives @ of_negatives.T
    covariance = (
        small_sample_correction(len(np.unique(units[positive]))) * of_positives @ of_positives.T
        + small_sample_correction(len(np.unique(units[~positive]))) * of_negatives @ of_negatives.T
        + small_sample_correction(of_positives.shape[1]) * (cross + cross.T)
    )
    return np.array([f[0] for f in found]), covariance


def macro_auc_covariance(
    labels: np.ndarray, probabilities: np.ndarray, units: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`delong` for the mean of the one-against-rest AUCs of the classes that occur; ``probabilities`` are
    ``(models, n, classes)``. The influences of an image in the AUCs are averaged before they are squared."""
    present = [c for c in range(probabilities.shape[2]) if 0 < (labels == c).sum() < len(labels)]
    if not present:
        raise ValueError("an AUC needs images of two classes.")
    units = np.arange(len(labels)) if units is None else np.unique(units, return_inverse=True)[1]
    found = [[auc_influence(labels == c, p[:, c]) for c in present] for p in probabilities]
    sums = _sums_by_unit(np.array([np.mean([f[1] for f in model], axis=0) for model in found]), units)
    aucs = np.array([np.mean([f[0] for f in model]) for model in found])
    return aucs, small_sample_correction(sums.shape[1]) * sums @ sums.T


def auc_interval(
    auc: float, samples: np.ndarray, positive_units: int, negative_units: int, confidence: float
) -> tuple[float, float]:
    """Percentiles of the bootstrap's ``samples``; for an AUC of 1 (or 0), whose replicates all agree, a bound that
    always holds.

    ``m = min(positive_units, negative_units)`` disjoint pairs are independent, and each is in order with a
    probability of AUC, so that all are with AUC^m at most: an AUC below ((1 - confidence) / 2)^(1/m) is excluded.
    """
    low, high = percentile_interval(samples, confidence)
    m = min(positive_units, negative_units)
    if np.isfinite(low) or m < 1:
        return low, high
    bound = ((1 - confidence) / 2) ** (1 / m)
    if auc == 1:
        return bound, 1.0
    return (0.0, 1 - bound) if auc == 0 else (np.nan, np.nan)


def small_sample_correction(n: int) -> float:
    """n / (n - 1), which makes a variance over ``n`` units unbiased; NaN for a single one."""
    return n / (n - 1) if n > 1 else np.nan


def _sums_by_unit(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Sums ``(rows, units)`` of values ``(rows, n)``."""
    return np.stack([np.bincount(units, row) for row in values])
