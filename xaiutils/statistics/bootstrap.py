"""The bootstrap over units: patients where they are known, else images (Efron 1979, Annals of Statistics 7).

A unit is drawn with all its rows, so that images of one patient are never taken for independent. Everything that is
resampled in this package, of models and of maps, is drawn by `draw_units`: the same seed gives the same draws.
"""

from collections.abc import Iterator

import numpy as np

_LARGEST_BLOCK = 4_000_000  # entries of a block of weights: 16 MB
_LEAST_DEFINED = 0.9  # fraction of the replicates that must have a value


def draw_units(n_units: int, n_resamples: int, rng: np.random.Generator | int) -> np.ndarray:
    """How often each unit is drawn when ``n_units`` are drawn with replacement: int64 ``(n_resamples, n_units)``.

    ``rng`` is a seed or a generator; drawing in blocks from one generator gives the same as drawing at once.
    """
    return np.random.default_rng(rng).multinomial(n_units, np.full(n_units, 1 / n_units), size=n_resamples)


def replicates(units: np.ndarray, n_resamples: int, seed: int, cells_per_replicate: int = 0) -> Iterator[np.ndarray]:
    """Yield `draw_units` for each row of the data, in blocks of replicates: int32 ``(n, block)``, ``n_resamples``
    columns in all.

    ``units`` ``(n,)`` numbers each row's unit from 0 without gaps. ``cells_per_replicate``: how many entries the
    caller's own arrays have for each replicate, so that blocks stay small enough for those as well.
    """
    rng = np.random.default_rng(seed)
    n_units = int(units.max()) + 1
    block = max(1, _LARGEST_BLOCK // max(len(units), cells_per_replicate))
    for start in range(0, n_resamples, block):
        drawn = draw_units(n_units, min(block, n_resamples - start), rng)
        yield np.ascontiguousarray(drawn.T, np.int32)[units]


def bootstrap_means(values: np.ndarray, units: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Means of the columns of ``values`` ``(n, k)`` in each replicate: float64 ``(n_resamples, k)``.

    ``units`` ``(n,)`` names each row's unit. All columns see the same draws.
    """
    _, number = np.unique(units, return_inverse=True)
    n_units = number.max() + 1
    sums = np.zeros((n_units, values.shape[1]))
    np.add.at(sums, number, values)
    drawn = draw_units(n_units, n_resamples, seed)
    return (drawn @ sums) / (drawn @ np.bincount(number))[:, None]


def bootstrap_medians(values: np.ndarray, units: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Medians of the columns of ``values`` ``(n, k)`` in each replicate, as `bootstrap_means` has their means."""
    _, number = np.unique(units, return_inverse=True)
    found = []
    for weights in replicates(number, n_resamples, seed):
        medians = []
        for column in values.T:
            order = np.argsort(column, kind="stable")
            total = np.cumsum(weights[order], axis=0)
            middle = [(2 * total >= total[-1]).argmax(axis=0), (2 * total > total[-1]).argmax(axis=0)]
            medians.append(column[order][middle].mean(axis=0))
        found.append(np.stack(medians, axis=1))
    return np.concatenate(found)


def percentiles(samples: np.ndarray, confidence: float) -> np.ndarray:
    """The ends of the percentile interval of ``samples`` ``(n_resamples, ...)``, without their NaNs: ``(2, ...)``."""
    return np.nanquantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)


def percentile_interval(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    """`percentiles` of ``samples`` ``(n_resamples,)``; NaN where over a tenth of them have no value, as happens with
    fewer than three units of a class, or where the ends agree: that is not certainty."""
    found = samples[np.isfinite(samples)]
    if len(found) < _LEAST_DEFINED * len(samples) or not len(found):
        return np.nan, np.nan
    low, high = percentiles(found, confidence)
    return (float(low), float(high)) if high - low >= 1e-12 else (np.nan, np.nan)
