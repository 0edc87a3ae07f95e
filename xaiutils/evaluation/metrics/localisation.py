"""Maps against known evidence: masks of the lesion, the animal, the stroke.

Each score takes one map, float32 ``(height, width)``, or the pixels that count as found in it, and the mask, bool.
Large values mean evidence: maps that have a sign are first read by `xaiutils.map_reading`, as `evaluate` does. An image
with an empty mask gets NaN.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score

from xaiutils.evaluation.metrics.metric import Case, Metric
from xaiutils.evaluation.thresholds import THRESHOLD, binary_map, top_pixels
from xaiutils.registry import Parameter


def _where_marked(values: Callable[[int], float], masks: np.ndarray) -> np.ndarray:
    return np.array([values(i) if mask.any() else np.nan for i, mask in enumerate(masks)], np.float64)


def each_map(score: Callable[..., float]) -> Callable[..., np.ndarray]:
    """The metric that is ``score(map, mask, **parameters)`` of each image."""

    def compute(case: Case, **parameters: Any) -> np.ndarray:
        return _where_marked(lambda i: score(case.maps[i], case.masks[i], **parameters), case.masks)

    return compute


def each_found(score: Callable[[np.ndarray, np.ndarray], float]) -> Callable[..., np.ndarray]:
    """The metric that is ``score(found, mask)`` of the thresholded map of each image."""

    def compute(case: Case, *, threshold: str, level: float, area: float) -> np.ndarray:
        return _where_marked(
            lambda i: score(binary_map(case.maps[i], threshold, level, area), case.masks[i]), case.masks
        )

    return compute


def area_chance(masks: np.ndarray) -> np.ndarray:
    """Fraction of each image that is mask: what an uninformed map scores where it spreads, or points, at random."""
    return _where_marked(lambda i: masks[i].mean(), masks)


def half_chance(masks: np.ndarray) -> np.ndarray:
    """The area under the ROC curve of an uninformed map."""
    return _where_marked(lambda i: 0.5, masks)


def pointing_chance(masks: np.ndarray, *, tolerance: int) -> np.ndarray:
    """Fraction of the image in which a random point scores a hit."""
    return _where_marked(lambda i: _widened(masks[i], tolerance).mean(), masks)


# Thresholded maps -------------------------------------------------------------------------------------------------


def iou(found: np.ndarray, mask: np.ndarray) -> float:
    """Intersection over union of the thresholded map and the mask, in [0, 1]."""
    return (found & mask).sum() / (found | mask).sum()


def intersection_over_sum(found: np.ndarray, mask: np.ndarray) -> float:
    """Intersection over the plain sum of both areas, in [0, 0.5]: IoU / (1 + IoU)."""
    return (found & mask).sum() / (found.sum() + mask.sum())


def dice(found: np.ndarray, mask: np.ndarray) -> float:
    """Twice the intersection over the sum of both areas, in [0, 1]."""
    return 2 * (found & mask).sum() / (found.sum() + mask.sum())


def pixel_accuracy(found: np.ndarray, mask: np.ndarray) -> float:
    """Fraction of all pixels that are rightly found or rightly left out; a map that finds nothing scores high on small
    masks."""
    return (found == mask).mean()


# Ranked pixels ----------------------------------------------------------------------------------------------------


def best_dice(attribution: np.ndarray, mask: np.ndarray) -> float:
    """The best Dice of the top 1 %, 2 %, ... 100 % of the pixels (ties by position)."""
    hits = np.cumsum(mask.ravel()[np.argsort(-attribution, axis=None, kind="stable")])
    counts = np.maximum(np.rint(np.arange(1, 101) / 100 * mask.size).astype(int), 1)
    return (2 * hits[counts - 1] / (counts + mask.sum())).max()


def pixel_roc_auc(attribution: np.ndarray, mask: np.ndarray) -> float:
    """Probability that a pixel of the mask has a larger value than one outside (ties count half); NaN where the mask
    fills the image."""
    if mask.all():
        return np.nan
    inside, outside = np.sort(attribution[mask]), np.sort(attribution[~mask])
    below, not_above = (np.searchsorted(outside, inside, side).sum() for side in ("left", "right"))
    return (below + not_above) / (2 * inside.size * outside.size)


def average_precision(attribution: np.ndarray, mask: np.ndarray) -> float:
    """Area under the precision-recall curve of pixels against the mask, as a sum of steps."""
    return average_precision_score(mask.ravel(), attribution.ravel())


def relevance_rank(attribution: np.ndarray, mask: np.ndarray) -> float:
    """Fraction of the K largest pixels that lie in the mask of K pixels (Arras et al. 2022); ties by position."""
    return (top_pixels(attribution, mask.sum()) & mask).sum() / mask.sum()


# Where the maximum and the mass lie -------------------------------------------------------------------------------


def pointing_game(attribution: np.ndarray, mask: np.ndarray, *, tolerance: int) -> float:
    """1 where the map's maximum lies in the mask, or within ``tolerance`` pixels of it (Zhang et al. 2018).

    Tied maxima share the hit: the value is the fraction of them that hits, so that a constant map scores chance.
    """
    return _widened(mask, tolerance)[attribution == attribution.max()].mean()


def _widened(mask: np.ndarray, tolerance: int) -> np.ndarray:
    return mask if tolerance == 0 else ndimage.distance_transform_edt(~mask) <= tolerance


def hit_rate(attribution: np.ndarray, mask: np.ndarray) -> float:
    """1 where the map's first maximum, in reading order, lies in the mask, else 0; the mean is the hit rate."""
    return float(mask.ravel()[attribution.argmax()])


def relevance_mass(attribution: np.ndarray, mask: np.ndarray) -> float:
    """Fraction of the map's positive sum that lies in the mask (Arras et al. 2022), or of its whole sum if maps are
    read by magnitude; NaN for a map without positive values."""
    positive = np.maximum(attribution, 0).astype(np.float64)
    return positive[mask].sum() / positive.sum() if positive.any() else np.nan


def energy_pointing_game(attribution: np.ndarray, mask: np.ndarray) -> float:
    """Fraction of the sum of the map, scaled to [0, 1], that lies in the mask (Wang et al. 2020). A constant map scores
    chance."""
    shifted = attribution.astype(np.float64) - attribution.min()
    return shifted[mask].sum() / shifted.sum() if shifted.any() else mask.mean()


# Declarations -----------------------------------------------------------------------------------------------------


def _metric(
    name: str,
    title: str,
    paper: str,
    compute: Callable[..., np.ndarray],
    parameters: tuple[Parameter, ...] = (),
    chance: Callable[..., np.ndarray] | None = None,
) -> Metric:
    return Metric(name, title, "masks", True, paper, compute, parameters, chance)


_YOU = "the XRelevance-CAM thesis (Imperial College 2022)"
_ARRAS = "Arras, Osman & Samek 2022, CLEVR-XAI, arXiv:2003.07258"
_WANG = "Wang et al. 2020, Score-CAM, arXiv:1910.01279, section 4.3"
_SAPORTA = "Saporta et al. 2022, CheXlocalize, Nature Machine Intelligence 4"
_ZHANG = "Zhang et al. 2018, Top-down neural attention by excitation backprop, IJCV 126; there with 15 pixels of "
_TOLERANCE = Parameter("tolerance", int, 0, "pixels around the mask that count as hit; the paper: 15", 0, 200)

IOU = _metric("iou", "IoU", f"Jaccard 1912; threshold mean + 1 SD as in {_YOU}", each_found(iou), THRESHOLD)
INTERSECTION_OVER_SUM = _metric(
    "intersection_over_sum",
    "Intersection over sum",
    f"{_YOU}, eq. 2.22, named IoU there; at most 0.5",
    each_found(intersection_over_sum),
    THRESHOLD,
)
DICE = _metric("dice", "Dice", "Dice 1945, Ecology 26", each_found(dice), THRESHOLD)
BEST_DICE = _metric(
    "best_dice", "Best Dice", "Dice over percentages of occluded pixels, its largest value", each_map(best_dice)
)
PIXEL_ACCURACY = _metric(
    "pixel_accuracy", "Pixel accuracy", "part of pixels rightly named", each_found(pixel_accuracy), THRESHOLD
)
POINTING_GAME = _metric(
    "pointing_game",
    "Pointing game",
    _ZHANG + "tolerance on images of about 500",
    each_map(pointing_game),
    (_TOLERANCE,),
    pointing_chance,
)
HIT_RATE = _metric("hit_rate", "Hit rate", _SAPORTA, each_map(hit_rate), (), area_chance)
RELEVANCE_MASS = _metric("relevance_mass", "Relevance mass", _ARRAS, each_map(relevance_mass), (), area_chance)
RELEVANCE_RANK = _metric("relevance_rank", "Relevance rank", _ARRAS, each_map(relevance_rank), (), area_chance)
ENERGY_POINTING_GAME = _metric(
    "energy_pointing_game", "Energy-based pointing game", _WANG, each_map(energy_pointing_game), (), area_chance
)
PIXEL_ROC_AUC = _metric(
    "roc_auc",
    "Pixel ROC AUC",
    "area under the ROC curve of pixels against the mask",
    each_map(pixel_roc_auc),
    (),
    half_chance,
)
AVERAGE_PRECISION = _metric(
    "average_precision",
    "Pixel average precision",
    "area under the precision-recall curve of pixels against the mask",
    each_map(average_precision),
    (),
    area_chance,
)
