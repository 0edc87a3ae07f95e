"""Ratios and means in which what is not defined is NaN."""

import numpy as np


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b; NaN where b is not above 0."""
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=np.asarray(b) > 0)


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Means of the columns of ``values`` without their NaNs; NaN of a column that has nothing else."""
    known = np.isfinite(values)
    return ratio(np.where(known, values, 0).sum(axis=0), known.sum(axis=0))
