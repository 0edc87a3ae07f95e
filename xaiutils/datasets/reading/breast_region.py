"""Where the breast is in a mammogram: found by Otsu's threshold, cut out, laid with the chest wall on the left."""

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

_SEARCH_SIDE = 256  # pixels: the breast is searched for in a small copy
_FRAME = 0.01  # of each side: films have bright edges, which are not breast
_STRIP = 0.05  # of the longer side: what is thinner is an edge or a fold, and has no landmarks


def segment_breast(pixels: np.ndarray) -> np.ndarray:
    """Bool ``(height, width)``: the largest bright region, without holes, of a picture of any depth.

    Otsu's threshold of the logarithm (Otsu 1979): of the grey values themselves it would part dense from fatty tissue.
    Labels and the bright edges of a scanned film are smaller regions and fall away. All False for an even picture.
    """
    grey = pixels.mean(axis=-1) if pixels.ndim == 3 else pixels
    step = max(1, max(grey.shape) // _SEARCH_SIDE)
    small = np.asarray(grey[::step, ::step], np.float32)
    small = ndimage.gaussian_filter(small, 1.0)
    span = float(small.max() - small.min())
    if span <= 0:
        return np.zeros(grey.shape, bool)
    tone = np.log1p(255 * (small - small.min()) / span)
    bright = tone > threshold_otsu(tone)
    rim = max(1, round(_FRAME * max(small.shape)))
    inner = np.zeros_like(bright)
    inner[rim:-rim, rim:-rim] = bright[rim:-rim, rim:-rim]
    inner = ndimage.binary_opening(inner, iterations=2)
    parts, n = ndimage.label(inner)
    if n == 0:
        return np.zeros(grey.shape, bool)
    breast = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    breast = ndimage.binary_fill_holes(ndimage.binary_dilation(breast, iterations=rim + 1) & bright)
    rows = np.minimum(np.arange(grey.shape[0]) // step, small.shape[0] - 1)
    columns = np.minimum(np.arange(grey.shape[1]) // step, small.shape[1] - 1)
    return breast[rows[:, None], columns[None]]


def lies_right(breast: np.ndarray) -> bool:
    """Whether the chest wall is on the right: more of the breast is in the right half."""
    half = breast.shape[1] // 2
    return bool(breast[:, -half:].sum() > breast[:, :half].sum())


def breast_landmarks(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks found in mammograms ``(n, height, width[, C])``, and whether the chest wall is on the right.

    Landmarks float64 ``(n, 3, 2)``, (row, column): the nipple, taken for the point of the breast farthest from the
    chest wall, and the upper and lower end of the breast at the wall; NaN where no breast is found. Bool ``(n,)``:
    what `xaiutils.registration.register` takes as ``mirrored``.
    """
    landmarks, right = np.full((len(images), 3, 2), np.nan), np.zeros(len(images), bool)
    for i, image in enumerate(images):
        breast = segment_breast(image)
        if not breast.any():
            continue
        right[i] = lies_right(breast)
        breast = _without_strips(breast)
        seen = breast[:, ::-1] if right[i] else breast
        columns, last = np.flatnonzero(seen.any(axis=0)), seen.shape[1] - 1
        tip, wall = (np.flatnonzero(seen[:, column]) for column in (columns[-1], columns[0]))
        points = np.array([(tip.mean(), columns[-1]), (wall[0], columns[0]), (wall[-1], columns[0])], np.float64)
        landmarks[i] = points * [1, -1] + [0, last] if right[i] else points
    return landmarks, right


def _without_strips(breast: np.ndarray) -> np.ndarray:
    """A breast opened by a disc: bright strips along the film's edges, which hang together with it, fall away. As it is
    where nothing is as thick as the disc."""
    radius = _STRIP * max(breast.shape)
    core = ndimage.distance_transform_edt(np.pad(breast, 1, "edge")) > radius
    if not core.any():
        return breast
    parts, _ = ndimage.label(ndimage.distance_transform_edt(~core)[1:-1, 1:-1] <= radius)
    return parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) around a mask that is not empty; the ends are exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def square_around(mask: np.ndarray, margin: float) -> tuple[int, int, int, int]:
    """A square box about the middle of the mask's box, its side 1 + 2 ``margin`` times the longer one; it may reach
    over the picture's edges."""
    top, bottom, left, right = box_of(mask)
    side = max(2, round((1 + 2 * margin) * max(bottom - top, right - left)))
    first_row, first_column = (top + bottom - side) // 2, (left + right - side) // 2
    return first_row, first_row + side, first_column, first_column + side


def cut(array: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """``array[top:bottom, left:right]``, black (0, False) where the box reaches over the edges."""
    top, bottom, left, right = box
    height, width = array.shape[:2]
    inside = array[max(top, 0) : bottom, max(left, 0) : right]
    over = ((max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0)))
    if not any(n for pair in over for n in pair):
        return inside
    return np.pad(inside, [*over, (0, 0)][: array.ndim])
