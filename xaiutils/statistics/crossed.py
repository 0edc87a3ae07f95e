"""Intervals of statistics of rows that cross random factors, such as the same test images seen by networks of several
training seeds: an interval over images alone does not hold what another seed would change.

Each factor's share of the variance is that of the jackknife that leaves out one of its levels, with all its rows (Efron
& Stein 1981, Annals of Statistics 9). The shares are added, as of readers and cases where several readers read the same
cases, and the degrees of freedom are Satterthwaite's (1946, Biometrics Bulletin 2): of five seeds that differ much the
interval is that of five observations, not of a bootstrap of five. What is left within a seed and an image is in
both shares, so the interval is rather too wide than too narrow.
"""

from collections.abc import Callable

import numpy as np
from scipy.stats import t


def crossed_interval(
    statistic: Callable[[np.ndarray], np.ndarray], *factors: np.ndarray, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimates, and the low and high ends of their intervals, each float64 ``(m,)``.

    Args:
        statistic: of weights ``(k, n)``, 0 or 1 for each row, the ``m`` statistics of each: ``(k, m)``.
        factors: of each the level of every row, ``(n,)``: image or patient, training seed. A factor of one level adds
            nothing: what it would change is not known.
        confidence: of the interval.

    The ends are NaN where no factor has two levels, or where nothing varies: that is not certainty.
    """
    n = len(factors[0])
    estimate = statistic(np.ones((1, n)))[0]
    total, scale = np.zeros_like(estimate), np.zeros_like(estimate)
    for factor in factors:
        levels, number = np.unique(factor, return_inverse=True)
        if (k := len(levels)) > 1:
            left = statistic((number != np.arange(k)[:, None]).astype(float))
            variance = (k - 1) / k * ((left - left.mean(axis=0)) ** 2).sum(axis=0)
            total, scale = total + variance, scale + variance**2 / (k - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.sqrt(total) * t.ppf((1 + confidence) / 2, total**2 / scale)
    half[~(total > 1e-24)] = np.nan
    return estimate, estimate - half, estimate + half
