"""Overlap of a whole set: the sum of the images' intersections over that of their unions ("micro"), beside the mean of
their ratios ("macro"), which `xaiutils.evaluation.summarise` gives of a table of scores.

Large evidence counts more in the pooled one. The XRelevance-CAM thesis' code has that; its text does not say which.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.thresholds import THRESHOLD, binary_map
from xaiutils.images import check_maps
from xaiutils.registry import check_choice, check_parameters
from xaiutils.statistics.bootstrap import draw_units, percentile_interval


def pooled_overlap(
    ds: ImageDataset,
    maps: Mapping[str, np.ndarray],
    measure: str = "iou",
    threshold: Mapping[str, Any] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Pooled IoU or Dice of maps and masks, with 95 % bootstrap intervals over patients, else images.

    Args:
        ds: images with masks; those of empty masks are left out.
        maps: by name, ``(n, height, width)``, thresholded as they are: read them before (`xaiutils.map_reading`).
        measure: "iou": sum of intersections / sum of unions. "dice": twice that sum / sum of both areas.
        threshold: ``threshold``, ``level`` and ``area`` as of `binary_map`; by default mean + 1 standard deviation.
        n_resamples, seed: of the bootstrap, the same draws for all maps.

    Returns:
        A row for each name: method, mean (the pooled ratio), low, high, n.

    Raises:
        ValueError: no mask that is not empty, or maps of another shape.
    """
    check_choice("measure", measure, ("iou", "dice"))
    known = np.flatnonzero(ds.masks.any(axis=(1, 2))) if ds.masks is not None else np.array([], int)
    if ds.masks is None or not len(known):
        raise ValueError("no image has a mask that is not empty: there is nothing to overlap with.")
    how = check_parameters("threshold", THRESHOLD, dict(threshold or {}))
    owners = ds.ids if ds.patients is None else ds.patients
    _, units = np.unique(np.asarray(owners)[known], return_inverse=True)
    drawn = draw_units(units.max() + 1, n_resamples, seed)[:, units]
    rows = []
    for name, given in maps.items():
        found = check_maps(given, ds.pixels.shape[:3])
        pairs = [(binary_map(found[i], **how), ds.masks[i]) for i in known]
        both = np.array([(a & b).sum() for a, b in pairs])
        areas = np.array([a.sum() + b.sum() for a, b in pairs])
        over, under = (both, areas - both) if measure == "iou" else (2 * both, areas)
        low, high = percentile_interval((drawn @ over) / (drawn @ under), 0.95)
        rows.append((name, over.sum() / under.sum(), low, high, len(known)))
    return pd.DataFrame(rows, columns=["method", "mean", "low", "high", "n"])
