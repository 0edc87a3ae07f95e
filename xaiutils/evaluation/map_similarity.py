"""How alike two maps of one image are, by rank, structure, or their strongest pixels.

Every similarity takes two stacks of maps ``(n, height, width)`` and optionally ``valid``, bool of the same shape: the
pixels that are compared. Returns float64 ``(n,)``: 1 for maps that agree; NaN where a map is constant, for then it has
no order, or where fewer than three pixels are valid.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from skimage.feature import hog
from skimage.metrics import structural_similarity

from xaiutils.map_reading import read_maps


def _each(score: Callable, a: np.ndarray, b: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(
            f"maps of shapes {a.shape} and {b.shape}; expected two stacks (n, height, width) of one shape."
        )
    valid = np.ones(a.shape, bool) if valid is None else valid
    found = np.full(len(a), np.nan)
    for i, (x, y, seen) in enumerate(zip(a, b, valid, strict=True)):
        if seen.sum() >= 3 and np.ptp(x[seen]) > 0 and np.ptp(y[seen]) > 0:
            found[i] = score(x, y, seen)
    return found


def spearman(a: np.ndarray, b: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Rank correlation of the pixels, in [-1, 1]."""
    return _each(lambda x, y, seen: stats.spearmanr(x[seen], y[seen]).statistic, a, b, valid)


def ssim(a: np.ndarray, b: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Mean structural similarity (Wang et al. 2004) of the maps, each scaled to [0, 1] over its valid pixels.

    Gaussian windows of sigma 1.5, as in the paper; ValueError for maps of less than 11 pixels a side, which are too
    small for them.
    """

    def score(x, y, seen):
        if min(x.shape) < 11:
            raise ValueError(f"ssim needs maps of at least 11 x 11 pixels, not {x.shape}; choose spearman.")
        scaled = [(m - m[seen].min()) / np.ptp(m[seen]) * seen for m in (x, y)]
        _, field = structural_similarity(
            *scaled, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )
        return field[seen].mean()

    return _each(score, a, b, valid)


def top_intersection(a: np.ndarray, b: np.ndarray, valid: np.ndarray | None = None, area: float = 0.1) -> np.ndarray:
    """Fraction of the strongest ``area`` of the valid pixels (ties by position) that both maps have in common."""

    def score(x, y, seen):
        count = max(1, round(area * seen.sum()))
        tops = [set(np.argsort(-m[seen], kind="stable")[:count]) for m in (x, y)]
        return len(tops[0] & tops[1]) / count

    return _each(score, a, b, valid)


def hog_correlation(a: np.ndarray, b: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Pearson correlation of the maps' histograms of oriented gradients (Adebayo et al. 2018, section 4)."""

    def score(x, y, seen):
        scaled = [(m - m[seen].min()) / np.ptp(m[seen]) * seen for m in (x, y)]
        cell = max(2, min(16, min(x.shape) // 6))
        features = [hog(m, pixels_per_cell=(cell, cell), cells_per_block=(3, 3)) for m in scaled]
        return stats.pearsonr(*features).statistic if all(np.ptp(f) > 0 for f in features) else np.nan

    return _each(score, a, b, valid)


SIMILARITIES: dict[str, Callable[..., np.ndarray]] = {
    "spearman": spearman,
    "ssim": ssim,
    "top_intersection": top_intersection,
    "hog": hog_correlation,
}


def similarity_table(
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    similarities: Iterable[str],
    readings: Mapping[str, str],
    **facts: Any,
) -> pd.DataFrame:
    """How alike the maps ``before`` and ``after`` ``(n, height, width)`` of each method are.

    Args:
        before, after: maps by method; those of ``after`` are compared.
        similarities: names in `SIMILARITIES`.
        readings: how each method's maps are read first (`xaiutils.map_reading`).
        facts: further columns, of one value or one for each image.

    Returns:
        A row for each method, similarity and image: method, ``facts``, similarity, reading, value.
    """
    tables = []
    for method, maps in after.items():
        reading = readings[method]
        a, b = read_maps(before[method], reading), read_maps(maps, reading)
        tables += [
            pd.DataFrame(
                {"method": method, **facts, "similarity": name, "reading": reading, "value": SIMILARITIES[name](a, b)}
            )
            for name in similarities
        ]
    return pd.concat(tables, ignore_index=True)


def method_agreement(maps: Mapping[str, np.ndarray], reading: str = "magnitude") -> pd.DataFrame:
    """How alike the maps ``(n, height, width)`` of every two methods are: rank correlation of their pixels, the mean
    over the images where neither is constant (NaN: none). Maps are read first (`xaiutils.map_reading`).
    """
    read = {method: read_maps(values, reading) for method, values in maps.items()}
    count = len(next(iter(read.values())))
    tables = [pd.DataFrame({m: v[i].ravel() for m, v in read.items()}).corr("spearman") for i in range(count)]
    return pd.concat(tables).groupby(level=0, sort=False).mean()
