"""Intervals: bootstrap over patients or images, and what stands in where a bootstrap would claim certainty.

A replicate is a column of weights: how often each image was drawn. Every figure of merit is computed from weights, so
that an estimate (all weights 1) and its thousand replicates come from the same code, all at once.
"""

from collections.abc import Iterator

import numpy as np
from scipy import stats

_CELLS = 4_000_000  # entries of a block of weights: 16 MB
_DEFINED = 0.9  # part of the replicates that must have a value


def replicates(units: np.ndarray, n_resamples: int, seed: int, cells_per_replicate: int = 0) -> Iterator[np.ndarray]:
    """Yield int32 ``(n, b)``, ``n_resamples`` columns in all: how often each image is drawn when as many units as
    there are, are drawn with replacement. ``units`` numbers each image's unit from 0."""
    rng = np.random.default_rng(seed)
    count = int(units.max()) + 1
    block = max(1, _CELLS // max(len(units), cells_per_replicate))
    for start in range(0, n_resamples, block):
        b = min(block, n_resamples - start)
        drawn = rng.integers(0, count, (b, count)) + np.arange(b)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=b * count).reshape(b, count)
        yield np.ascontiguousarray(times.T, np.int32)[units]


def percentile_interval(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    """Percentile interval (Efron 1979); NaN where over a tenth of the replicates have no value, as happens with fewer
    than three units of a class, or where all agree: that is not certainty."""
    found = samples[np.isfinite(samples)]
    if len(found) < _DEFINED * len(samples) or np.ptp(found) < 1e-12:
        return np.nan, np.nan
    low, high = np.percentile(found, 50 * np.array([1 - confidence, 1 + confidence]))
    return float(low), float(high)


def wilson(successes: float, trials: float, confidence: float) -> tuple[float, float]:
    """Wilson's interval (1927) of a proportion; NaN without trials. Counts may be fractions."""
    if trials <= 0:
        return np.nan, np.nan
    z, p = stats.norm.ppf((1 + confidence) / 2), successes / trials
    centre = p + z**2 / (2 * trials)
    half = z * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    low, high = (centre - half) / (1 + z**2 / trials), (centre + half) / (1 + z**2 / trials)
    return max(0.0, float(low)), min(1.0, float(high))


def proportion_interval(
    hits: np.ndarray, units: np.ndarray, samples: np.ndarray | None, confidence: float
) -> tuple[float, float]:
    """Interval of the mean of a bool array: Wilson's where each image is a unit of its own, else the percentiles of
    ``samples``, or, where these all agree, Wilson's with units for images."""
    n_units = len(np.unique(units))
    if n_units < len(hits) and samples is not None:
        low, high = percentile_interval(samples, confidence)
        if np.isfinite(low):
            return low, high
    return wilson(float(np.mean(hits)) * n_units, n_units, confidence) if len(hits) else (np.nan, np.nan)


def auc_interval(
    auc: float, samples: np.ndarray, positive_units: int, negative_units: int, confidence: float
) -> tuple[float, float]:
    """Percentiles of ``samples``; for an AUC of 1 (or 0), whose replicates all agree, a bound that always holds.

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


def balanced_accuracy_interval(
    labels: np.ndarray, correct: np.ndarray, units: np.ndarray, confidence: float
) -> tuple[float, float]:
    """Interval of balanced accuracy, the mean of the classes' recalls; it always holds the value.

    A bootstrap would be certain of a recall of 1 seen on a single image. So each end is at the root of the summed
    squares of the distances from the recalls to their Wilson limits (MOVER: Zou & Donner 2008, Statistics in Medicine
    27), divided by the number of classes. Of many recalls near 0 or 1 these distances are too short towards the middle;
    there the normal interval, with the variances p (1 - p) / (n - 1), is wider and taken. A class counts as many trials
    as it has units: images of one patient count as one.
    """
    z = stats.norm.ppf((1 + confidence) / 2)
    found = list(_recalls(labels, correct, units))
    recalls = np.array([p for p, _ in found])
    low, high = np.array([wilson(p * n, n, confidence) for p, n in found]).T
    normal = z**2 * sum(p * (1 - p) / max(n - 1, 1) for p, n in found)
    below, above = (np.sqrt(max(normal, (gaps**2).sum())) / len(recalls) for gaps in (recalls - low, high - recalls))
    return max(0.0, float(recalls.mean() - below)), min(1.0, float(recalls.mean() + above))


def better_than_guessing(
    labels: np.ndarray,
    correct: np.ndarray,
    units: np.ndarray,
    confidence: float,
    n_draws: int = 4000,
    seed: int = 0,
) -> bool:
    """Whether balanced accuracy is above 1 / classes, that of guessing, by more than chance.

    Each class's recall is drawn from its posterior after a prior that is worth one image and has guessing as its mean,
    Beta(1 / classes, 1 - 1 / classes), which is Jeffreys' of two classes: of their means all but
    (1 - ``confidence``) / 2 must be above. Units as in `balanced_accuracy_interval`.
    """
    rng = np.random.default_rng(seed)
    found = list(_recalls(labels, correct, units))
    guess = 1 / len(found)
    if guess == 1:
        return False
    total = sum(rng.beta(p * n + guess, (1 - p) * n + 1 - guess, n_draws) for p, n in found)
    return bool(np.quantile(total * guess, (1 - confidence) / 2) > guess)


def _recalls(labels: np.ndarray, correct: np.ndarray, units: np.ndarray) -> Iterator[tuple[float, int]]:
    """The recall of each class that occurs, and how many units it has."""
    for label in np.unique(labels):
        yield float(correct[labels == label].mean()), len(np.unique(units[labels == label]))
