"""How much of the image a map names, and in how many pieces, whatever is there: a map of few pixels is easier to read,
not truer.

Only the size of the values counts, not their sign: all these metrics read maps by magnitude. A map of zeros has no
complexity: NaN.
"""

from collections.abc import Callable

import numpy as np

from xaiutils.evaluation.evidence_shape import count_parts
from xaiutils.evaluation.metrics.metric import Case, Metric
from xaiutils.evaluation.thresholds import THRESHOLD, binary_map
from xaiutils.registry import Parameter


def _of_values(score: Callable[[np.ndarray], float], case: Case) -> np.ndarray:
    """``score`` of each map's absolute values."""
    sizes = np.abs(case.maps.reshape(len(case.maps), -1)).astype(np.float64)
    return np.array([score(row) if row.any() else np.nan for row in sizes], np.float64)


def sparseness(case: Case) -> np.ndarray:
    """Gini index of the absolute values: 0 where all pixels are equal, near 1 where one pixel holds all."""

    def gini(values):
        n = len(values)
        place = 2 * np.arange(1, n + 1) - n - 1
        return (place * np.sort(values)).sum() / (n * values.sum())

    return _of_values(gini, case)


def entropy(case: Case) -> np.ndarray:
    """Entropy, in nats, of the absolute values as fractions of their sum: 0 for one pixel, ln(pixels) for equal
    ones."""

    def in_nats(values):
        share = values[values > 0] / values.sum()
        return max(0.0, -(share * np.log(share)).sum())

    return _of_values(in_nats, case)


def effective_complexity(case: Case, *, level: float) -> np.ndarray:
    """Fraction of the pixels whose absolute value is over ``level`` times the largest."""
    return _of_values(lambda values: (values > level * values.max()).mean(), case)


def fragments(case: Case, *, threshold: str, level: float, area: float) -> np.ndarray:
    """The connected pieces (8 neighbours) of the pixels that count as found; NaN where none does, and
    for a map of zeros."""
    parts = [one.any() * count_parts(binary_map(one, threshold, level, area)) for one in case.maps]
    return np.array([n or np.nan for n in parts], np.float64)


_CHALASANI = "Chalasani et al. 2020, Concise explanations of neural networks using adversarial training, "
_BHATT = "Bhatt, Weller & Moura 2020, Evaluating and aggregating feature-based model explanations, arXiv:2005.00631"
_NGUYEN = "after Nguyen & Rodriguez Martinez 2020, arXiv:2007.07584; a fixed level in place of their tolerated loss"
_LEVEL = Parameter("level", float, 0.1, "fraction of the largest value over which a pixel counts", 0.0, 1.0)

SPARSENESS = Metric(
    "sparseness", "Sparseness (Gini)", "maps", True, _CHALASANI + "arXiv:1810.06583", sparseness, reading="magnitude"
)
ENTROPY = Metric("entropy", "Entropy", "maps", False, _BHATT, entropy, reading="magnitude")
EFFECTIVE_COMPLEXITY = Metric(
    "effective_complexity",
    "Effective complexity",
    "maps",
    False,
    _NGUYEN,
    effective_complexity,
    (_LEVEL,),
    reading="magnitude",
)
FRAGMENTS = Metric(
    "fragments",
    "Fragments",
    "maps",
    False,
    "number of pieces of what a map names; threshold mean + 1 SD as in the XRelevance-CAM thesis",
    fragments,
    THRESHOLD,
    reading="magnitude",
)
