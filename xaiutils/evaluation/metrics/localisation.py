"""Maps against known evidence: masks of the lesion, the animal, the stroke.

``maps`` are float32 and ``masks`` bool, both ``(n, height, width)``. Large values mean evidence: maps that have a sign
are first read by `xaiutils.map_reading`, as `evaluate` does. An image with an empty mask gets NaN.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from xaiutils.evaluation.metrics.metric import METRICS, Metric
from xaiutils.evaluation.thresholds import THRESHOLD, binary_map, top_pixels
from xaiutils.registry import Parameter

_TOLERANCE = Parameter("tolerance", int, 0, "pixels around the mask that count as hit; the paper: 15", 0, 200)


def _per_image(score: Callable, maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    return np.array([score(m, k) if k.any() else np.nan for m, k in zip(maps, masks, strict=True)], np.float64)


def area_chance(masks: np.ndarray) -> np.ndarray:
    """Part of each image that is mask: what a map without knowledge scores where it spreads, or points, at random."""
    return _per_image(lambda _, mask: mask.mean(), masks, masks)


# Thresholded maps -------------------------------------------------------------------------------------------------


def _of_binary(score: Callable) -> Callable:
    """A metric of the thresholded map: ``score(found, mask)`` of each image."""

    def compute(maps, masks, *, threshold: str, level: float, area: float) -> np.ndarray:
        return _per_image(lambda m, mask: score(binary_map(m, threshold, level, area), mask), maps, masks)

    compute.__doc__ = score.__doc__
    return compute


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
    """Part of all pixels that are rightly found or rightly left out; a map that finds nothing scores high on small
    masks."""
    return (found == mask).mean()


def best_dice(maps, masks) -> np.ndarray:
    """The best Dice of the top 1 %, 2 %, ... 100 % of the pixels (ties by position)."""

    def score(attribution, mask):
        hits = np.cumsum(mask.ravel()[np.argsort(-attribution, axis=None, kind="stable")])
        counts = np.maximum(np.rint(np.arange(1, 101) / 100 * mask.size).astype(int), 1)
        return (2 * hits[counts - 1] / (counts + mask.sum())).max()

    return _per_image(score, maps, masks)


# Ranked pixels ----------------------------------------------------------------------------------------------------


def pixel_roc_auc(maps, masks) -> np.ndarray:
    """Probability that a pixel of the mask has a larger value than one outside (ties count half); NaN where the mask
    fills the image."""

    def score(attribution, mask):
        return np.nan if mask.all() else roc_auc_score(mask.ravel(), attribution.ravel())

    return _per_image(score, maps, masks)


def average_precision(maps, masks) -> np.ndarray:
    """Area under the precision-recall curve of pixels against the mask, as a sum of steps."""
    return _per_image(lambda m, mask: average_precision_score(mask.ravel(), m.ravel()), maps, masks)


def relevance_rank(maps, masks) -> np.ndarray:
    """Part of the K largest pixels that lie in the mask of K pixels (Arras et al. 2022); ties by position."""
    return _per_image(lambda m, mask: (top_pixels(m, mask.sum()) & mask).sum() / mask.sum(), maps, masks)


# Where the maximum and the mass lie -------------------------------------------------------------------------------


def pointing_game(maps, masks, *, tolerance: int) -> np.ndarray:
    """1 where the map's maximum lies in the mask, or within ``tolerance`` pixels of it (Zhang et al. 2018).

    Tied maxima share the hit: the value is the part of them that hits, so that a constant map scores chance.
    """

    def score(attribution, mask):
        return _widened(mask, tolerance)[attribution == attribution.max()].mean()

    return _per_image(score, maps, masks)


def pointing_chance(masks, *, tolerance: int) -> np.ndarray:
    """Part of the image in which a random point scores a hit."""
    return _per_image(lambda _, mask: _widened(mask, tolerance).mean(), masks, masks)


def _widened(mask: np.ndarray, tolerance: int) -> np.ndarray:
    return mask if tolerance == 0 else ndimage.distance_transform_edt(~mask) <= tolerance


def hit_rate(maps, masks) -> np.ndarray:
    """1 where the map's first maximum, in reading order, lies in the mask, else 0; the mean is the hit rate."""
    return _per_image(lambda m, mask: float(mask.ravel()[m.argmax()]), maps, masks)


def relevance_mass(maps, masks) -> np.ndarray:
    """Part of the map's positive sum that lies in the mask (Arras et al. 2022), or of its whole sum if maps are read by
    magnitude; NaN for a map without positive values."""

    def score(attribution, mask):
        positive = np.maximum(attribution, 0).astype(np.float64)
        return positive[mask].sum() / positive.sum() if positive.any() else np.nan

    return _per_image(score, maps, masks)


def energy_pointing_game(maps, masks) -> np.ndarray:
    """Part of the sum of the map, scaled to [0, 1], that lies in the mask (Wang et al. 2020). A constant map scores
    chance."""

    def score(attribution, mask):
        shifted = attribution.astype(np.float64) - attribution.min()
        return shifted[mask].sum() / shifted.sum() if shifted.any() else mask.mean()

    return _per_image(score, maps, masks)


def _declare(
    name: str, title: str, paper: str, compute: Callable, parameters: tuple = (), chance: Callable | None = None
) -> None:
    METRICS.add(Metric(name, title, "masks", True, paper, compute, parameters, chance))


_XRELEVANCE = "the XRelevance-CAM thesis (Imperial College 2022)"
_ARRAS = "Arras, Osman & Samek 2022, CLEVR-XAI, arXiv:2003.07258"
_declare("iou", "IoU", f"Jaccard 1912; threshold mean + 1 SD as in {_XRELEVANCE}", _of_binary(iou), THRESHOLD)
_declare(
    "intersection_over_sum",
    "Intersection over sum",
    f"{_XRELEVANCE}, eq. 2.22, named IoU there; at most 0.5",
    _of_binary(intersection_over_sum),
    THRESHOLD,
)
_declare("dice", "Dice", "Dice 1945, Ecology 26", _of_binary(dice), THRESHOLD)
_declare("best_dice", "Best Dice", "Dice over percentages of occluded pixels, its largest value", best_dice)
_declare("pixel_accuracy", "Pixel accuracy", "part of pixels rightly named", _of_binary(pixel_accuracy), THRESHOLD)
_declare(
    "pointing_game",
    "Pointing game",
    "Zhang et al. 2018, Top-down neural attention by excitation backprop, IJCV 126; there with 15 pixels of "
    "tolerance on images of about 500",
    pointing_game,
    (_TOLERANCE,),
    pointing_chance,
)
_declare(
    "hit_rate",
    "Hit rate",
    "Saporta et al. 2022, CheXlocalize, Nature Machine Intelligence 4",
    hit_rate,
    (),
    area_chance,
)
_declare("relevance_mass", "Relevance mass", _ARRAS, relevance_mass, (), area_chance)
_declare("relevance_rank", "Relevance rank", _ARRAS, relevance_rank, (), area_chance)
_declare(
    "energy_pointing_game",
    "Energy-based pointing game",
    "Wang et al. 2020, Score-CAM, arXiv:1910.01279, section 4.3",
    energy_pointing_game,
    (),
    area_chance,
)
_declare(
    "roc_auc",
    "Pixel ROC AUC",
    "area under the ROC curve of pixels against the mask",
    pixel_roc_auc,
    (),
    lambda masks: _per_image(lambda _, mask: 0.5, masks, masks),
)
_declare(
    "average_precision",
    "Pixel average precision",
    "area under the precision-recall curve of pixels against the mask",
    average_precision,
    (),
    area_chance,
)
