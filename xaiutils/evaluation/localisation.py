"""Maps against known evidence: masks of the lesion, the animal, the stroke.

``maps`` are float32 and ``masks`` bool, both ``(n, height, width)``. Large values mean evidence for the target, so the
raw, signed map is ranked; an image with an empty mask gets NaN.
"""

import numpy as np
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from xaiutils.evaluation.metric import METRICS, Metric
from xaiutils.registry import Parameter


def _per_image(score, maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    return np.array([score(m, k) if k.any() else np.nan for m, k in zip(maps, masks, strict=True)], np.float64)


def binary_map(attribution: np.ndarray, threshold: str, area: float) -> np.ndarray:
    """Pixels of one map that count as found: over mean + 1 standard deviation (the XRelevance-CAM thesis, eq. 5.1),
    or the top ``area`` of the image (ties by position). A constant map finds nothing under the first rule."""
    if threshold == "mean_std":
        return attribution > attribution.mean() + attribution.std()
    found = np.zeros(attribution.size, bool)
    found[np.argsort(-attribution, axis=None, kind="stable")[: round(area * attribution.size)]] = True
    return found.reshape(attribution.shape)


def iou(maps, masks, *, threshold: str, area: float) -> np.ndarray:
    """Intersection over union of the thresholded map and the mask, in [0, 1]."""

    def score(attribution, mask):
        found = binary_map(attribution, threshold, area)
        return (found & mask).sum() / (found | mask).sum()

    return _per_image(score, maps, masks)


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


def relevance_mass(maps, masks) -> np.ndarray:
    """Part of the map's positive sum that lies in the mask (Arras et al. 2022); NaN for a map without positive
    values."""

    def score(attribution, mask):
        positive = np.maximum(attribution, 0).astype(np.float64)
        return positive[mask].sum() / positive.sum() if positive.any() else np.nan

    return _per_image(score, maps, masks)


def relevance_mass_chance(masks) -> np.ndarray:
    return _per_image(lambda _, mask: mask.mean(), masks, masks)


def pixel_roc_auc(maps, masks) -> np.ndarray:
    """Probability that a pixel of the mask has a larger value than one outside (ties count half)."""

    def score(attribution, mask):
        return np.nan if mask.all() else roc_auc_score(mask.ravel(), attribution.ravel())

    return _per_image(score, maps, masks)


METRICS.add(
    Metric(
        "iou",
        "IoU",
        "masks",
        True,
        "threshold mean + 1 SD as in the XRelevance-CAM thesis (Imperial College 2022), true intersection over union",
        iou,
        (
            Parameter("threshold", str, "mean_std", "which pixels count as found", choices=("mean_std", "top_area")),
            Parameter("area", float, 0.1, "part of the image kept by top_area", 0.0, 1.0),
        ),
    )
)
METRICS.add(
    Metric(
        "pointing_game",
        "Pointing game",
        "masks",
        True,
        "Zhang et al. 2018, Top-down neural attention by excitation backprop, IJCV 126; there with 15 pixels of "
        "tolerance on images of about 500",
        pointing_game,
        (Parameter("tolerance", int, 0, "pixels around the mask that count as hit", 0, 200),),
        pointing_chance,
    )
)
METRICS.add(
    Metric(
        "relevance_mass",
        "Relevance mass",
        "masks",
        True,
        "Arras, Osman & Samek 2022, CLEVR-XAI, arXiv:2003.07258 (also: energy-based pointing game)",
        relevance_mass,
        (),
        relevance_mass_chance,
    )
)
METRICS.add(
    Metric(
        "roc_auc",
        "Pixel ROC AUC",
        "masks",
        True,
        "area under the ROC curve of pixels against the mask",
        pixel_roc_auc,
        (),
        lambda masks: _per_image(lambda _, mask: 0.5, masks, masks),
    )
)
