"""Are models right equally often on the same images? McNemar for two of them, Cochran for more."""

from typing import NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import cochrans_q

from xaiutils.statistics.delong import small_sample_correction

_EXACT_BELOW = 25  # discordant units; with more, mid-p


class McNemar(NamedTuple):
    """Images that only the first, or only the second, has right; the test's name; its two-sided p."""

    only_a: int
    only_b: int
    test: str
    p: float


def mcnemar(right_a: np.ndarray, right_b: np.ndarray, units: np.ndarray | None = None) -> McNemar:
    """Two-sided test that two models are right equally often on the same images; ``right_a``, ``right_b`` bool
    ``(n,)``.

    McNemar 1947 in its exact, binomial form, and from 25 discordant images on its mid-p form (Fagerland et al. 2013,
    BMC Medical Research Methodology 13). With ``units`` ``(n,)``, images of a patient are kept together: the sign of
    each patient's difference (images that only a has right, less those that only b has) is turned at random, and the
    distribution of the sum over all turns is exact; with one image for each patient that is McNemar's.
    """
    difference = right_a.astype(np.int64) - right_b.astype(np.int64)
    units = np.arange(len(difference)) if units is None else np.unique(units, return_inverse=True)[1]
    per_unit = np.bincount(units, difference).round().astype(np.int64)
    sizes, counts = np.unique(np.abs(per_unit[per_unit != 0]), return_counts=True)
    # The sum of k signs of size s takes the values s * (2j - k) with binomial probabilities.
    distribution, reach = np.ones(1), 0
    for size, k in zip(sizes, counts, strict=True):
        steps = np.zeros(2 * size * k + 1)
        steps[:: 2 * size] = stats.binom.pmf(np.arange(k + 1), k, 0.5)
        distribution, reach = np.convolve(distribution, steps), reach + int(size * k)
    values = np.arange(-reach, reach + 1)
    total, discordant = abs(int(per_unit.sum())), int(counts.sum())
    p = float(distribution[np.abs(values) >= total].sum())
    exact = discordant < _EXACT_BELOW
    if not exact and total > 0:
        p -= 0.5 * float(distribution[np.abs(values) == total].sum())
    kind = "sign flips of patients" if units.max() + 1 < len(difference) else "McNemar"
    test = f"{kind}, {'exact' if exact else 'mid-p'}"
    return McNemar(int((difference > 0).sum()), int((difference < 0).sum()), test, min(1.0, p))


def accuracy_difference_interval(
    right_a: np.ndarray, right_b: np.ndarray, units: np.ndarray, confidence: float
) -> tuple[float, float]:
    """Interval of the difference of two accuracies on the same images, a less b.

    Where each image is a unit of its own: Bonett & Price 2012 (Journal of Educational and Behavioral Statistics 37),
    the normal interval with an image more on which either alone is right. Else by the spread of the units'
    differences, NaN where these are all the same.
    """
    z = stats.norm.ppf((1 + confidence) / 2)
    n, n_units = len(right_a), len(np.unique(units))
    if n_units == n:
        a, b = (((x & ~y).sum() + 1) / (n + 2) for x, y in ((right_a, right_b), (right_b, right_a)))
        half = z * np.sqrt((a + b - (a - b) ** 2) / (n + 2))
        return max(-1.0, float(a - b - half)), min(1.0, float(a - b + half))
    difference = right_a.astype(float) - right_b
    gap = difference.mean()
    error = np.sqrt(small_sample_correction(n_units) * (np.bincount(units, difference - gap) ** 2).sum()) / n
    return (float(gap - z * error), float(gap + z * error)) if error > 1e-12 else (np.nan, np.nan)


def cochran_q(right: np.ndarray) -> tuple[float, float]:
    """Cochran's Q (1950, Biometrika 37) and its p, by chi-square with models - 1 degrees of freedom: whether some of
    the models of ``right``, bool ``(models, n)``, are right more often. NaN where all agree on every image."""
    if (right == right[0]).all():
        return np.nan, np.nan
    found = cochrans_q(right.T.astype(int))
    return float(found.statistic), float(found.pvalue)
