"""Size and form of the known evidence, on which `xaiutils.statistics.regression.regress` regresses a map's metrics."""

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from skimage.measure import regionprops

from xaiutils.datasets import ImageDataset

SHAPE = ("log_area", "elongation", "solidity", "parts")
_EIGHT = np.ones((3, 3))  # neighbours of a pixel


def evidence_shape(ds: ImageDataset) -> pd.DataFrame:
    """Size and form of each image's evidence, a row an image; NaN (and 0 parts) where the mask is empty.

    Columns: image_id; area_share, the fraction of the image that is mask; log_area, its decimal logarithm; parts, the
    connected pieces (8 neighbours); and of the largest piece elongation, 1 - minor / major axis of the ellipse with
    its second moments (0: round, 1: a line), and solidity, its area over that of its convex hull (1: convex).
    (CheXlocalize fits a rectangle instead of the ellipse and of the hull: `fitted_rectangle`.) Raises ValueError
    without masks.
    """
    if ds.masks is None:
        raise ValueError("this data set has no masks: its evidence has no size and no form.")
    rows = []
    for image_id, mask in zip(ds.ids, ds.masks, strict=True):
        pieces, n = ndimage.label(mask, _EIGHT)
        if n == 0:
            rows.append((image_id, 0.0, np.nan, 0, np.nan, np.nan))
            continue
        piece = max(regionprops(pieces), key=lambda p: p.area)
        major = piece.axis_major_length
        elongation = 1 - piece.axis_minor_length / major if major > 0 else 0.0  # a single pixel is round
        share = float(mask.mean())
        rows.append((image_id, share, np.log10(share), n, elongation, float(piece.solidity)))
    return pd.DataFrame(rows, columns=["image_id", "area_share", "log_area", "parts", "elongation", "solidity"])


def count_parts(mask: np.ndarray) -> int:
    """The connected pieces of a bool mask (8 neighbours)."""
    return int(ndimage.label(mask, _EIGHT)[1])


def fitted_rectangle(mask: np.ndarray) -> tuple[float, float]:
    """Of the smallest rectangle, turned as may be, around the part of a bool mask with the longest outline: longer over
    shorter side (1 or more), and the fraction of it that the part fills, in [0, 1].

    As CheXlocalize measures both (Saporta et al. 2022): between the centres of pixels, holes filled. NaN for a part
    that is a pixel or a line, and for an empty mask.
    """
    pieces, n = ndimage.label(mask, _EIGHT)
    filled = [ndimage.binary_fill_holes(pieces == k + 1) for k in range(n)]
    edges = [int((piece & ~ndimage.binary_erosion(piece)).sum()) for piece in filled]
    if not n:
        return np.nan, np.nan
    piece, edge = filled[int(np.argmax(edges))], max(edges)
    points = np.argwhere(piece).astype(float)
    try:
        corners = points[ConvexHull(points).vertices]
    except QhullError:
        return np.nan, np.nan
    along = np.diff(corners, axis=0, append=corners[:1])  # the smallest rectangle shares a side with the hull
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    sides = np.stack([np.ptp(corners @ along.T, axis=0), np.ptp(corners @ (along @ [[0, 1], [-1, 0]]).T, axis=0)])
    long, short = sorted(sides[:, np.prod(sides, axis=0).argmin()], reverse=True)
    # Pick's theorem: the area within the outline through the centres of its outermost pixels.
    return long / short, (len(points) - edge / 2 - 1) / (long * short)
