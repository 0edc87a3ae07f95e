"""Images, masks and maps of different patients brought into one frame, by their landmarks.

A point is (row, column) in pixels, the middle of the first pixel (0, 0). Landmarks may be given (`landmarks_in`), found
(`xaiutils.datasets.reading.breast_region.breast_landmarks`) or known, as those of the phantom are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import map_coordinates

from xaiutils.registry import check_choice

# Kinds of warps, and how many landmarks each takes at least.
KINDS = {"translation": 1, "similarity": 2, "affine": 3, "tps": 3}
CONSERVE = ("value", "mass")


@dataclass(frozen=True)
class Registration:
    """The warps of n images into one frame of their own size; `register` makes it.

    ``landmarks`` float64 ``(n, k, 2)`` in the images; those ``mirrored``, bool ``(n,)``, are mirrored left to right
    first. ``frame`` float64 ``(k, 2)``: where landmarks lie in the frame (exactly with "tps", else by least squares).
    ``shape`` is height and width.
    """

    landmarks: np.ndarray
    frame: np.ndarray
    kind: str
    shape: tuple[int, int]
    mirrored: np.ndarray

    def places(self, i: int, points: np.ndarray) -> np.ndarray:
        """Where ``points`` ``(m, 2)`` of the frame lie in image ``i``: float64 ``(m, 2)``."""
        seen = _mirror(self.landmarks[i], self.shape[1]) if self.mirrored[i] else self.landmarks[i]
        if self.kind == "tps":
            found = RBFInterpolator(self.frame, seen, kernel="thin_plate_spline")(points)
        else:
            matrix, offset = _fit(self.kind, seen, self.frame)
            found = (points - offset) @ np.linalg.inv(matrix)
        return _mirror(found, self.shape[1]) if self.mirrored[i] else found

    def apply(self, stack: np.ndarray, conserve: str = "value") -> np.ndarray:
        """Images ``(n, height, width, C)``, masks or maps ``(n, height, width)`` in the frame: float32, bilinear, NaN
        where the frame looks beyond the image. Of a mask this is the share of each pixel that it covers.

        ``conserve`` "value" keeps a pixel's value, "mass" the sum over what stays within the frame: values are
        multiplied by the area that a pixel of the frame has in the image.
        """
        check_choice("conserve", conserve, CONSERVE)
        stack = np.asarray(stack)
        if stack.shape[:3] != (len(self.landmarks), *self.shape) or stack.ndim > 4:
            raise ValueError(f"stack has shape {stack.shape}; expected ({len(self.landmarks)}, *{self.shape}).")
        grid = np.indices(self.shape).reshape(2, -1).T.astype(np.float64)
        warped = np.empty(stack.shape, np.float32)
        for i, one in enumerate(stack):
            at = np.round(self.places(i, grid), 6).T  # so that whole pixels are met exactly
            planes = one.reshape(*self.shape, -1).astype(np.float64)
            read = [map_coordinates(p, at, order=1, cval=np.nan) for p in np.moveaxis(planes, -1, 0)]
            values = np.stack(read, axis=-1)
            if conserve == "mass":
                values *= self._areas(i, grid)[:, None]
            warped[i] = values.reshape(one.shape)
        return warped

    def _areas(self, i: int, grid: np.ndarray) -> np.ndarray:
        """How many pixels of the image a pixel of the frame stands for."""
        down, along = (self.places(i, grid + step) - self.places(i, grid - step) for step in ([0.5, 0], [0, 0.5]))
        return np.abs(down[:, 0] * along[:, 1] - down[:, 1] * along[:, 0])

    def errors(self, points: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Root mean square distance in pixels, float64 ``(n,)``, between where the warps find ``points`` ``(m, 2)`` of
        the frame and where they are in each image, ``truth`` ``(n, m, 2)``."""
        found = np.stack([self.places(i, points) for i in range(len(self.landmarks))])
        return np.sqrt(((found - truth) ** 2).sum(axis=-1).mean(axis=-1))


def register(
    landmarks: np.ndarray,
    shape: Sequence[int],
    kind: str = "similarity",
    to: np.ndarray | None = None,
    mirrored: np.ndarray | None = None,
) -> Registration:
    """Warps that bring images of ``shape`` (height, width) into one frame.

    Args:
        landmarks: ``(n, k, 2)``, the same k points of each image.
        kind: one of `KINDS`. "similarity" turns, scales and shifts; "affine" also shears; both by least squares. "tps"
            is the thin-plate spline, which meets every landmark.
        to: the landmarks' places in the frame, ``(k, 2)``; None: their `mean_shape`.
        mirrored: bool ``(n,)``, which images are mirrored left to right first, such as right breasts; None: none.

    Raises ValueError for landmarks that are missing (NaN), too few, or in one place or on one line.
    """
    check_choice("kind", kind, KINDS)
    points = np.asarray(landmarks, np.float64)
    if points.ndim != 3 or points.shape[2] != 2 or points.shape[1] < KINDS[kind]:
        raise ValueError(f"landmarks has shape {points.shape}; kind={kind!r} takes (n, {KINDS[kind]} or more, 2).")
    height, width = (int(side) for side in shape)
    flip = np.zeros(len(points), bool) if mirrored is None else np.asarray(mirrored, bool)
    if flip.shape != (len(points),):
        raise ValueError(f"mirrored has shape {flip.shape}; expected ({len(points)},).")
    seen = np.where(flip[:, None, None], _mirror(points, width), points)
    frame = mean_shape(seen) if to is None else np.asarray(to, np.float64)
    if frame.shape != points.shape[1:]:
        raise ValueError(f"to has shape {frame.shape}; expected {points.shape[1:]}.")
    if wrong := [i for i, one in enumerate(points) if not _spans(one, kind)]:
        raise ValueError(f"the landmarks of images {wrong[:8]} are missing, in one place or on one line.")
    if not _spans(frame, kind):
        raise ValueError("the frame's landmarks are missing, in one place or on one line.")
    return Registration(points, frame, kind, (height, width), flip)


def mean_shape(landmarks: np.ndarray) -> np.ndarray:
    """Generalised Procrustes mean (Gower 1975, Psychometrika 40) of ``(n, k, 2)``: float64 ``(k, 2)``, with the mean
    place and size (root mean square distance from the centroid) of the shapes, turned as their plain mean is."""
    shapes = np.asarray(landmarks, np.float64)
    place, reference = shapes.mean(axis=(0, 1)), shapes.mean(axis=0)
    size = np.mean([_size(one) for one in shapes])
    for _ in range(100 if size > 0 and _size(reference) > 0 else 0):
        fits = (_fit("similarity", one, reference) for one in shapes)
        mean = np.mean([one @ m + shift for one, (m, shift) in zip(shapes, fits, strict=True)], axis=0)
        mean = (mean - mean.mean(axis=0)) * size / _size(mean) + place
        moved, reference = np.abs(mean - reference).max(), mean
        if moved < 1e-9:
            break
    return reference


def landmarks_in(table: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Landmarks ``(n, k, 2)`` from the columns NAME_row and NAME_column of a table, such as a data set's metadata.

    Raises KeyError that names what is missing.
    """
    wanted = [f"{name}_{axis}" for name in names for axis in ("row", "column")]
    if missing := [name for name in wanted if name not in table]:
        raise KeyError(f"the table has no column {', '.join(missing)}; it has {', '.join(map(str, table))}.")
    return table[wanted].to_numpy(np.float64).reshape(len(table), len(names), 2)


def _mirror(points: np.ndarray, width: int) -> np.ndarray:
    return points * [1, -1] + [0, width - 1]


def _size(points: np.ndarray) -> float:
    return float(np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1).mean()))


def _spans(points: np.ndarray, kind: str) -> bool:
    """Whether landmarks fix a warp: two places for a similarity, three that are not on one line for more."""
    needed = {"translation": 0, "similarity": 1}.get(kind, 2)
    return bool(np.isfinite(points).all()) and np.linalg.matrix_rank(points - points.mean(axis=0), tol=1e-6) >= needed


def _fit(kind: str, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The matrix and offset with which ``source @ matrix + offset`` comes closest to ``target``."""
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    a, b = source - middle, target - goal
    matrix = np.eye(2)
    if kind == "similarity":  # a point as a complex number: turning and scaling is one multiplication
        z, w = a @ [1, 1j], b @ [1, 1j]
        factor = (z.conj() @ w) / (z.conj() @ z)
        matrix = np.array([[factor.real, factor.imag], [-factor.imag, factor.real]])
    elif kind == "affine":
        matrix = np.linalg.lstsq(a, b, rcond=None)[0]
    return matrix, goal - middle @ matrix
