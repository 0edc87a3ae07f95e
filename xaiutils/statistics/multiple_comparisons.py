"""Many tests at once: Holm's correction, and Nemenyi's critical difference of mean ranks."""

import numpy as np
from scipy import stats


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's (1979, Scandinavian Journal of Statistics 6) adjusted p-values; NaN stays NaN and counts for nothing."""
    # Not by statsmodels, which collects all garbage at each call: a second where TensorFlow is loaded.
    p = np.asarray(p, float)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN is sorted last
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return adjusted


def nemenyi_critical_difference(n_methods: int, n_units: int, alpha: float = 0.05) -> float:
    """By how much the mean ranks of two of ``n_methods`` over ``n_units`` must differ (Demsar 2006, JMLR 7)."""
    q = stats.studentized_range.ppf(1 - alpha, n_methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(n_methods * (n_methods + 1) / (6 * n_units)))
