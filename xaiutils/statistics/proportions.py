"""Intervals of proportions (accuracy, sensitivity, hit rates) and of balanced accuracy, the mean of several."""

from collections.abc import Iterator

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from xaiutils.statistics.bootstrap import percentile_interval


def wilson(successes: float, trials: float, confidence: float) -> tuple[float, float]:
    """Wilson's interval (1927, JASA 22) of a proportion; NaN without trials. Counts may be fractions."""
    if trials <= 0:
        return np.nan, np.nan
    low, high = proportion_confint(successes, trials, 1 - confidence, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def proportion_interval(
    hits: np.ndarray, units: np.ndarray, samples: np.ndarray | None, confidence: float
) -> tuple[float, float]:
    """Interval of the mean of ``hits``, bool ``(n,)``, of rows that belong to ``units`` ``(n,)``.

    Wilson's where each row is a unit of its own; else the percentiles of its bootstrap ``samples``; where these all
    agree, Wilson's with as many trials as there are units.
    """
    n_units = len(np.unique(units))
    if n_units < len(hits) and samples is not None:
        low, high = percentile_interval(samples, confidence)
        if np.isfinite(low):
            return low, high
    return wilson(float(np.mean(hits)) * n_units, n_units, confidence) if len(hits) else (np.nan, np.nan)


def balanced_accuracy_interval(
    labels: np.ndarray, correct: np.ndarray, units: np.ndarray, confidence: float
) -> tuple[float, float]:
    """Interval of balanced accuracy, the mean of the classes' recalls; it always contains the value.

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
    labels: np.ndarray, correct: np.ndarray, units: np.ndarray, confidence: float, n_draws: int = 4000, seed: int = 0
) -> bool:
    """Whether balanced accuracy is above 1 / classes, that of guessing, by more than chance.

    Each class's recall is drawn from its posterior after a prior that is worth one image and has guessing as its mean,
    Beta(1 / classes, 1 - 1 / classes), which for two classes is Jeffreys'. All but (1 - ``confidence``) / 2 of the
    means of these draws must be above guessing. Units as in `balanced_accuracy_interval`.
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
