"""Size and form of the known evidence, on which `xaiutils.statistics.regression.regress` regresses a map's metrics."""

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.measure import regionprops

from xaiutils.datasets import ImageDataset

SHAPE = ("log_area", "elongation", "solidity", "parts")


def evidence_shape(ds: ImageDataset) -> pd.DataFrame:
    """Size and form of each image's evidence, a row an image; NaN (and 0 parts) where the mask is empty.

    Columns: image_id; area_share, the fraction of the image that is mask; log_area, its decimal logarithm; parts, the
    connected pieces (8 neighbours); and of the largest piece elongation, 1 - minor / major axis of the ellipse with
    its second moments (0: round, 1: a line), and solidity, its area over that of its convex hull (1: convex).
    (CheXlocalize fits a rectangle instead of the ellipse and of the hull.) Raises ValueError without masks.
    """
    if ds.masks is None:
        raise ValueError("this data set has no masks: its evidence has no size and no form.")
    rows = []
    for image_id, mask in zip(ds.ids, ds.masks, strict=True):
        pieces, n = ndimage.label(mask, np.ones((3, 3)))
        if n == 0:
            rows.append((image_id, 0.0, np.nan, 0, np.nan, np.nan))
            continue
        piece = max(regionprops(pieces), key=lambda p: p.area)
        major = piece.axis_major_length
        elongation = 1 - piece.axis_minor_length / major if major > 0 else 0.0  # a single pixel is round
        share = float(mask.mean())
        rows.append((image_id, share, np.log10(share), n, elongation, float(piece.solidity)))
    return pd.DataFrame(rows, columns=["image_id", "area_share", "log_area", "parts", "elongation", "solidity"])
