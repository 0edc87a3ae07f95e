"""Does a method locate large lesions better, or those of which the model is sure? Metrics of maps regressed on what is
known of each image, as CheXlocalize does (Saporta et al. 2022, Nature Machine Intelligence 4).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xaiutils.registry import suggest
from xaiutils.statistics.bootstrap import draw_units, percentiles
from xaiutils.statistics.summaries import UNIT, check_one_reading


def regress(
    table: pd.DataFrame,
    columns: Sequence[str],
    by: Sequence[str] | str = ("method", "metric"),
    joint: bool = False,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Least squares of ``value`` on ``columns`` in each group of ``by``, with bootstrap intervals.

    ``joint``: all columns in one regression, each with the others held; else one regression for each column, as in
    CheXlocalize. Rows with a NaN in value or column are left out. Coefficients are standardised: by how many of its
    standard deviations the metric changes when the column changes by one of its own. With a column ``patient_id``
    the bootstrap draws patients, each with all images. Raises ValueError where a group has the same maps by several
    readings.

    Returns a row for each group and column: ``by``, column, coefficient, low, high (percentile interval), slope (in
    the units of value and column), r2 (of the whole regression), n (images), units (patients or images). All numbers
    but the counts are NaN where the value or the column does not vary, or where there are fewer units than twice the
    columns of the regression plus two.
    """
    for column in columns:
        if column not in table:
            raise ValueError(f"column {column!r} is not in the table; {suggest(column, list(table))}")
    by = [by] if isinstance(by, str) else list(by)
    check_one_reading(table, by)
    rows = []
    for key, group in table.groupby(by, sort=False, observed=True, dropna=False):
        for chosen in [list(columns)] if joint else [[c] for c in columns]:
            known = group.dropna(subset=["value", *chosen])
            x, y = known[chosen].to_numpy(float), known["value"].to_numpy(float)
            units = pd.factorize(known[UNIT])[0] if UNIT in known else np.arange(len(known))
            found = _fit(x, y, units, n_resamples, confidence, seed)
            n_units = len(np.unique(units))
            rows += [(*key, name, *values, len(y), n_units) for name, values in zip(chosen, found, strict=True)]
    names = ["column", "coefficient", "low", "high", "slope", "r2", "n", "units"]
    return pd.DataFrame(rows, columns=[*by, *names])


def _fit(x, y, units, n_resamples: int, confidence: float, seed: int) -> list[tuple[float, float, float, float, float]]:
    """(coefficient, low, high, slope, r2) of each column of ``x`` ``(n, columns)``."""
    n_units, nothing = len(np.unique(units)), [(np.nan, np.nan, np.nan, np.nan, np.nan)] * x.shape[1]
    if n_units < 2 * x.shape[1] + 2:
        return nothing
    data = np.column_stack([x, y])
    whole = _standardised(data, np.ones((1, len(y))))[0]
    if not np.isfinite(whole).all():
        return nothing
    drawn = draw_units(n_units, n_resamples, seed)
    low, high = percentiles(_standardised(data, drawn[:, units].astype(float)), confidence)
    correlations = np.corrcoef(data, rowvar=False)[:-1, -1]
    slopes = whole * y.std() / x.std(axis=0)
    r2 = float(whole @ correlations)
    rows = zip(whole, low, high, slopes, strict=True)
    return [(float(c), float(lo), float(hi), float(slope), r2) for c, lo, hi, slope in rows]


def _standardised(data: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Standardised coefficients ``(draws, columns)`` of the last column of ``data`` ``(n, columns + 1)`` on the
    others, for ``weights`` ``(draws, n)``; NaN for a draw in which a column does not vary."""
    share = weights / weights.sum(axis=1, keepdims=True)
    means = share @ data
    centred = data[None] - means[:, None]
    covariance = np.einsum("rn,rni,rnj->rij", share, centred, centred)
    spread = np.sqrt(np.einsum("rii->ri", covariance))
    # Rounding leaves a little variance in a column that is constant.
    spread[spread <= 1e-9 * np.maximum(np.abs(data).max(axis=0), 1e-300)] = np.nan
    correlation = covariance / (spread[:, :, None] * spread[:, None, :])
    usable = np.isfinite(correlation).all(axis=(1, 2))
    found = np.full((len(weights), data.shape[1] - 1), np.nan)
    inverse = np.linalg.pinv(correlation[usable][:, :-1, :-1], rtol=1e-9, hermitian=True)
    found[usable] = np.einsum("rij,rj->ri", inverse, correlation[usable][:, :-1, -1])
    return found
