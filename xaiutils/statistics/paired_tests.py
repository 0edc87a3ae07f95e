"""Tests of paired values, such as of two methods' scores on the same images, over units (patients, else images)."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from xaiutils.statistics.bootstrap import bootstrap_means, percentiles


class PairedTest(NamedTuple):
    """Mean difference, its bootstrap interval over units, rank-biserial effect, p of Wilcoxon's test, and the units."""

    difference: float
    low: float
    high: float
    effect: float
    p: float
    n: int


def paired_test(
    differences: np.ndarray, units: np.ndarray, n_resamples: int, seed: int, confidence: float = 0.95
) -> PairedTest:
    """Of ``differences`` ``(n,)`` between paired values of images that belong to ``units`` ``(n,)``.

    The interval is the percentile bootstrap's over units, NaN without resamples; the test compares the units' means.
    """
    low, high = np.nan, np.nan
    if n_resamples:
        low, high = percentiles(bootstrap_means(differences[:, None], units, n_resamples, seed)[:, 0], confidence)
    _, number = np.unique(units, return_inverse=True)
    by_unit = np.bincount(number, differences) / np.bincount(number)
    p, effect = wilcoxon_signed_rank(by_unit)
    return PairedTest(float(differences.mean()), float(low), float(high), effect, p, len(by_unit))


def wilcoxon_signed_rank(differences: np.ndarray) -> tuple[float, float]:
    """p of Wilcoxon's (1945) signed-rank test of ``differences`` ``(n,)``, and their rank-biserial correlation (1: all
    are positive). Zeros are left out; no difference at all is p = 1. Exact for up to 50 without ties, else by the
    normal approximation with its correction for continuity."""
    moved = differences[differences != 0]
    if len(moved) == 0:
        return 1.0, 0.0
    ranks = stats.rankdata(np.abs(moved))
    effect = float((ranks * np.sign(moved)).sum() / ranks.sum())
    exact = len(moved) <= 50 and len(np.unique(np.abs(moved))) == len(moved)
    found = stats.wilcoxon(moved, method="exact" if exact else "asymptotic", correction=not exact)
    return float(found.pvalue), effect


def fewest_units(n_tests: int, alpha: float = 0.05) -> int:
    """On how many units Wilcoxon's test can reject at all, where Holm corrects it for ``n_tests``: the least p that n
    units can give is 2 / 2^n, when all their differences have one sign."""
    return math.floor(math.log2(2 * n_tests / alpha)) + 1


def friedman(ranks: np.ndarray) -> tuple[float, float]:
    """Friedman's (1937) test that all methods rank alike, from ``ranks`` ``(units, methods)``: statistic and p.

    Of two methods it is the sign test, and the statistic is the number of units on which the first ranks lower.
    Without any difference the statistic is 0 and p 1.
    """
    if (ranks == ranks[:, :1]).all():
        return 0.0, 1.0
    if ranks.shape[1] == 2:
        lower, decided = int((ranks[:, 0] < ranks[:, 1]).sum()), int((ranks[:, 0] != ranks[:, 1]).sum())
        return float(lower), float(stats.binomtest(lower, decided).pvalue)
    found = stats.friedmanchisquare(*ranks.T)
    return float(found.statistic), float(found.pvalue)


def hits_against_chance(hits: np.ndarray, chances: np.ndarray, units: np.ndarray) -> float:
    """Two-sided p of so many ``hits`` ``(n,)`` where each image has its own chance ``(n,)`` of one.

    Units with a hit are counted; under chance their number follows a Poisson-binomial distribution. However the images
    of a unit depend on each other, the chance that one of them is hit lies between the largest of their chances and
    the sum. A hit may be a fraction (of tied maxima): it counts against any claim.
    """
    each = pd.DataFrame({"hit": hits, "chance": chances}).groupby(units)
    total, chance = each["hit"].max().sum(), each["chance"]
    counts = np.arange(each.ngroups + 1)
    most = stats.poisson_binom(chance.sum().clip(upper=1).to_numpy()).pmf(counts)
    least = stats.poisson_binom(chance.max().to_numpy()).pmf(counts)
    upper, lower = most[int(np.floor(total + 1e-9)) :].sum(), least[: int(np.ceil(total - 1e-9)) + 1].sum()
    return min(1.0, 2 * float(min(upper, lower)))
