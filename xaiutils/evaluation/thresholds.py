"""From a map to the pixels that count as found."""

from collections.abc import Sequence

import numpy as np
from skimage.filters import threshold_otsu

from xaiutils.registry import Parameter

THRESHOLD = (
    Parameter(
        "threshold", str, "mean_std", "which pixels count as found", choices=("mean_std", "otsu", "fixed", "top_area")
    ),
    Parameter("level", float, 0.5, "fixed: part of the way from the map's smallest to its largest value", 0.0, 1.0),
    Parameter("area", float, 0.1, "top_area: part of the image that is kept", 0.0, 1.0),
)

LEVELS = tuple(k / 20 for k in range(4, 17))  # from 0.2 to 0.8


def binary_map(attribution: np.ndarray, threshold: str, level: float = 0.5, area: float = 0.1) -> np.ndarray:
    """Pixels of one map ``(height, width)`` that count as found, bool.

    ``threshold`` is "mean_std": over mean + 1 standard deviation (the XRelevance-CAM thesis, eq. 5.1); "otsu": over
    Otsu's threshold (as CheXlocalize does, Saporta et al. 2022); "fixed": over ``level`` of the way from the smallest
    to the largest value; "top_area": the top ``area`` of the image, ties by position. A constant map finds nothing,
    except with "top_area".
    """
    if threshold == "top_area":
        return top_pixels(attribution, round(area * attribution.size))
    low, high = float(attribution.min()), float(attribution.max())
    if threshold == "mean_std":
        values = attribution.astype(np.float64)  # squares of tiny float32 are 0
        limit = values.mean() + values.std()
    elif threshold == "otsu":
        limit = threshold_otsu(attribution) if high > low else high
    elif threshold == "fixed":
        limit = low + level * (high - low)
    else:
        raise ValueError(f"threshold={threshold!r} is unknown; choose one of {', '.join(THRESHOLD[0].choices)}.")
    return attribution > limit


def top_pixels(attribution: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` largest pixels of one map, bool; ties by position."""
    found = np.zeros(attribution.size, bool)
    found[np.argsort(-attribution, axis=None, kind="stable")[:count]] = True
    return found.reshape(attribution.shape)


def pixel_ranks(maps: np.ndarray) -> np.ndarray:
    """Each pixel's place when its map's values are put in order, highest first, from 0, ties by position; int32."""
    ranks = np.empty(maps.shape, np.int32)
    for rank, one in zip(ranks, maps, strict=True):
        rank.ravel()[np.argsort(-one, axis=None, kind="stable")] = np.arange(one.size)
    return ranks


def tune_level(maps: np.ndarray, masks: np.ndarray, levels: Sequence[float] = LEVELS) -> float:
    """The ``level`` of threshold "fixed" with the highest mean IoU on these maps, the lowest of equals.

    For maps of validation images, read as those of the test images will be, so that the test images do not choose their
    own threshold (Saporta et al. 2022 tune it from 0.2 to 0.8 for each class). Images with an empty mask are left out.
    Raises ValueError where none is left.
    """
    known = [i for i, mask in enumerate(masks) if mask.any()]
    if not known:
        raise ValueError("no image has a mask that is not empty: a threshold cannot be tuned.")

    def mean_iou(level: float) -> float:
        found = [(binary_map(maps[i], "fixed", level), masks[i]) for i in known]
        return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in found]))

    scores = [mean_iou(level) for level in levels]
    return float(levels[int(np.argmax(scores))])
