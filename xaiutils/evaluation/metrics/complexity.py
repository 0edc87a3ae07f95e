"""How much of the image a map names, whatever is there: a map of few pixels is easier to read, not truer.

Only the size of the values counts, not their sign: all these metrics read maps by magnitude. A map of zeros has no
complexity: NaN.
"""

from collections.abc import Callable

import numpy as np

from xaiutils.evaluation.metrics.metric import METRICS, Metric
from xaiutils.registry import Parameter


def _per_image(score: Callable, maps: np.ndarray) -> np.ndarray:
    sizes = np.abs(maps.reshape(len(maps), -1)).astype(np.float64)
    return np.array([score(row) if row.any() else np.nan for row in sizes], np.float64)


def sparseness(maps) -> np.ndarray:
    """Gini index of the absolute values: 0 where all pixels are equal, near 1 where one pixel holds all."""

    def gini(values):
        n = len(values)
        place = 2 * np.arange(1, n + 1) - n - 1
        return (place * np.sort(values)).sum() / (n * values.sum())

    return _per_image(gini, maps)


def entropy(maps) -> np.ndarray:
    """Entropy, in nats, of the absolute values as parts of their sum: 0 for one pixel, ln(pixels) for equal ones."""

    def of(values):
        part = values[values > 0] / values.sum()
        return max(0.0, -(part * np.log(part)).sum())

    return _per_image(of, maps)


def effective_complexity(maps, *, level: float) -> np.ndarray:
    """Part of the pixels whose absolute value is over ``level`` times the largest."""
    return _per_image(lambda values: (values > level * values.max()).mean(), maps)


METRICS.add(
    Metric(
        "sparseness",
        "Sparseness (Gini)",
        "maps",
        True,
        "Chalasani et al. 2020, Concise explanations of neural networks using adversarial training, arXiv:1810.06583",
        sparseness,
        reading="magnitude",
    )
)
METRICS.add(
    Metric(
        "entropy",
        "Entropy",
        "maps",
        False,
        "Bhatt, Weller & Moura 2020, Evaluating and aggregating feature-based model explanations, arXiv:2005.00631",
        entropy,
        reading="magnitude",
    )
)
METRICS.add(
    Metric(
        "effective_complexity",
        "Effective complexity",
        "maps",
        False,
        "after Nguyen & Rodriguez Martinez 2020, arXiv:2007.07584; a fixed level in place of their tolerated loss",
        effective_complexity,
        (Parameter("level", float, 0.1, "part of the largest value over which a pixel counts", 0.0, 1.0),),
        reading="magnitude",
    )
)
