"""Where the evidence of an image is: masks, boxes, outlines and run lengths, all held to one check.

Coordinates must be finite, lie in the picture and enclose something. What cannot be right is no evidence of absence: it
raises, and the image's evidence is *unknown*.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from xaiutils.datasets.reading.frames import read_mask_file
from xaiutils.file_limits import check_pixels, explain
from xaiutils.images import boxes_to_mask

TOLERANCE = 3.0  # pixels that an outline may reach over its picture's edge: hand-drawn ones do by one or two
_MAX_CROSSINGS = 20_000_000  # of an outline with the rows of its frame


@dataclass(frozen=True)
class DrawnMask:
    """A bool mask ``(height, width)``, and how many outlines had to be cut off at the picture's edge."""

    mask: np.ndarray
    clipped: int = 0


class Evidence(Protocol):
    """Something that says where the evidence is."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What it reads."""

    def draw(self, shape: tuple[int, int]) -> DrawnMask:
        """The evidence in pixels of the picture's file, of ``shape`` (height, width).

        Raises ValueError or OSError where it cannot be read or cannot be right.
        """


def draw_all(evidence: Sequence[Evidence], shape: tuple[int, int]) -> DrawnMask:
    """The union of all evidence. Raises ValueError or OSError where any of it does: the rest would pass for the
    whole."""
    mask, clipped = np.zeros(shape, bool), 0
    for one in evidence:
        drawn = one.draw(shape)
        mask |= drawn.mask
        clipped += drawn.clipped
    return DrawnMask(mask, clipped)


def check_outline(points: np.ndarray, frame: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """Points ``(n, 2)`` as (x, y), cut off at the edges of ``frame`` (height, width), and whether they had to be.

    Raises ValueError: not finite, more than `TOLERANCE` pixels outside.
    """
    if not np.isfinite(points).all():
        raise ValueError("it has coordinates that are not finite")
    limits = np.array(frame[::-1], float)
    outside = np.flatnonzero(((points < -TOLERANCE) | (points > limits + TOLERANCE)).any(axis=1))
    if len(outside):
        x, y = points[outside[0]]
        raise ValueError(f"it has the point ({x:g}, {y:g}) outside its picture of {frame[0]} x {frame[1]} pixels")
    inside = np.clip(points, 0, limits)
    return inside, bool((inside != points).any())


def check_frame(height: Any, width: Any) -> tuple[int, int]:
    """The size that annotations state for their picture as integers. Raises ValueError."""
    try:
        frame = int(height), int(width)
        whole = frame == (height, width)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(f"its annotations are for {str(height)[:30]} x {str(width)[:30]} pixels")
    check_pixels(*frame)
    return frame


@dataclass(frozen=True)
class MaskFile:
    """A mask in a file of its own. ``values`` are the grey values that are evidence; empty: all but 0."""

    path: Path
    values: tuple[int, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def draw(self, shape: tuple[int, int]) -> DrawnMask:
        try:
            return DrawnMask(fit_to(read_mask_file(self.path, self.values), shape))
        except Exception as error:
            reason = getattr(error, "reason", "") or explain(error)
            raise ValueError(f"its mask {self.path.name}: {reason}") from error


@dataclass(frozen=True)
class Boxes:
    """Boxes (x, y, width, height) in pixels of a ``frame`` (height, width); without it, of the file."""

    boxes: tuple[tuple[float, ...], ...]
    files: tuple[Path, ...] = ()
    frame: tuple[int, int] | None = None

    def draw(self, shape: tuple[int, int]) -> DrawnMask:
        frame = check_frame(*(self.frame or shape))
        checked, clipped = [], 0
        for box in self.boxes:
            numbers = np.asarray(box, float)
            if numbers.shape != (4,) or not (np.isfinite(numbers).all() and min(numbers[2:]) > 0):
                raise ValueError(f"its box {_short(box)} is not x, y and a positive width and height")
            x, y, w, h = numbers
            corners, cut = check_outline(np.array([[x, y], [x + w, y + h]]), frame)
            sides = corners[1] - corners[0]
            if min(sides) <= 0:
                raise ValueError(f"its box {_short(box)} is outside its picture of {frame[0]} x {frame[1]} pixels")
            checked.append((*corners[0], *sides) if cut else (x, y, w, h))
            clipped += cut
        return DrawnMask(fit_to(boxes_to_mask(checked, *frame), shape), clipped)


@dataclass(frozen=True)
class Polygons:
    """Outlines (x1, y1, x2, y2, ...) in pixels of a ``frame`` (height, width); without it, of the file."""

    polygons: tuple[tuple[float, ...], ...]
    files: tuple[Path, ...] = ()
    frame: tuple[int, int] | None = None

    def draw(self, shape: tuple[int, int]) -> DrawnMask:
        mask = np.zeros(check_frame(*(self.frame or shape)), bool)
        clipped = 0
        for outline in self.polygons:
            if len(outline) < 6 or len(outline) % 2:
                raise ValueError(f"its outline has {len(outline)} coordinates, which are not three or more points")
            points, cut = check_outline(np.array(outline, float).reshape(-1, 2), mask.shape)
            fill_outline(mask, points)
            clipped += cut
        return DrawnMask(fit_to(mask, shape), clipped)


@dataclass(frozen=True)
class RunLengths:
    """COCO's run lengths: by turns of 0 and 1, column by column. ``size`` is (height, width)."""

    counts: tuple[int, ...]
    size: tuple[int, int]
    files: tuple[Path, ...] = ()
    frame: tuple[int, int] | None = None

    def draw(self, shape: tuple[int, int]) -> DrawnMask:
        size = check_frame(*self.size)
        if self.frame is not None and size != check_frame(*self.frame):
            raise ValueError(f"its run lengths are for {size[0]} x {size[1]} pixels, its picture is said to be "
                             f"{self.frame[0]} x {self.frame[1]}")  # fmt: skip
        if min(self.counts, default=0) < 0 or sum(self.counts) != size[0] * size[1]:
            raise ValueError(f"its run lengths do not fill {size[0]} x {size[1]} pixels")
        values = np.arange(len(self.counts)) % 2 == 1
        mask = np.repeat(values, self.counts).reshape(size[::-1]).T
        if not mask.any():
            raise ValueError("its run lengths enclose nothing")
        return DrawnMask(fit_to(mask, shape))


@dataclass(frozen=True)
class NoFinding:
    """An image of which it is known that there is nothing to mark: a healthy one, or one without an annotation."""

    files: tuple[Path, ...] = ()

    def draw(self, shape: tuple[int, int]) -> DrawnMask:
        return DrawnMask(np.zeros(shape, bool))


@dataclass(frozen=True)
class Unreadable:
    """Evidence of which it is known that it is there, and nothing else; ``reason`` says what is wrong with it."""

    reason: str
    files: tuple[Path, ...] = ()

    def draw(self, shape: tuple[int, int]) -> DrawnMask:
        raise ValueError(self.reason)


@dataclass(frozen=True)
class CutOut:
    """Evidence of a picture of ``size`` (height, width), of which the file is the part in ``box`` (top, bottom, left,
    right)."""

    whole: tuple[Evidence, ...]
    size: tuple[int, int]
    box: tuple[int, int, int, int]

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for one in self.whole for path in one.files)

    def draw(self, shape: tuple[int, int]) -> DrawnMask:
        drawn = draw_all(self.whole, self.size)
        top, bottom, left, right = self.box
        mask = drawn.mask[top:bottom, left:right]
        if not mask.any():
            raise ValueError("its evidence lies beyond the part that is cut out")
        return DrawnMask(fit_to(mask, shape), drawn.clipped)


def unpack_run_lengths(text: str) -> tuple[int, ...]:
    """COCO's compressed run lengths as numbers; not by pycocotools, whose C code reads beyond the end of a cut text.

    Each character is six bits from "0" on: five of a number, the lowest first, and one that says that more follow; a
    number's highest bit is its sign. From the fourth on, numbers are differences to the one before last.
    """
    counts: list[int] = []
    value = shift = 0
    for code in text.encode("ascii"):
        bits = code - 48
        if not 0 <= bits < 64 or shift > 40:
            raise ValueError("its compressed run lengths are damaged")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its compressed run lengths end too early")
    return tuple(counts)


def fill_outline(mask: np.ndarray, points: np.ndarray) -> None:
    """Set what a closed outline ``(n, 2)`` of (x, y) encloses (even-odd rule) or touches; at least one pixel.

    By rows, so that the time grows with points and pixels, not with their product. Raises ValueError for an outline on
    a line, and for one of too many points.
    """
    height, width = mask.shape
    x, y = points.T
    span = points - points[0]
    reach = np.abs(span).max(axis=0)
    far = span[np.argmax((span**2).sum(axis=1))]
    if min(reach) == 0 or np.abs(span @ (far[1], -far[0])).max() <= 1e-9 * (far @ far):
        raise ValueError("its outline encloses no area")
    to_x, to_y = np.roll(x, -1), np.roll(y, -1)
    first = np.clip(np.ceil(np.minimum(y, to_y)), 0, height).astype(int)
    last = np.clip(np.floor(np.maximum(y, to_y)), -1, height - 1).astype(int)
    n = np.maximum(last - first + 1, 0)
    if n.sum() > _MAX_CROSSINGS:
        raise ValueError(f"its outline of {len(points):,} points crosses the rows {n.sum():,} times")
    edge = np.repeat(np.arange(len(points)), n)
    row = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + first[edge]
    rise = to_y - y
    level = rise[edge] == 0
    at = x[edge] + (row - y[edge]) * np.where(level, 0, (to_x - x)[edge]) / np.where(level, 1, rise[edge])
    top, left = int(np.floor(y.min())), int(np.floor(x.min()))
    starts = np.zeros((int(y.max()) - top + 2, int(x.max()) - left + 3), np.int32)  # +1 where a run begins, -1 after it
    crosses = ~level & (row < np.maximum(y, to_y)[edge])  # half-open, so that a corner counts once
    order = np.lexsort((at[crosses], row[crosses]))
    ends = at[crosses][order].reshape(-1, 2)
    _add_runs(starts, row[crosses][order][::2] - top, np.ceil(ends[:, 0]) - left, np.floor(ends[:, 1]) - left)
    touched = ~level & (at == np.rint(at))
    _add_runs(starts, row[touched] - top, at[touched] - left, at[touched] - left)
    _add_runs(starts, row[level] - top, np.ceil(np.minimum(x, to_x))[edge][level] - left,
              np.floor(np.maximum(x, to_x))[edge][level] - left)  # fmt: skip
    inside = np.cumsum(starts, axis=1, out=starts)[:, :-1] > 0
    if not inside.any():
        middle = np.floor(points.mean(axis=0)).astype(int)
        inside[middle[1] - top, middle[0] - left] = True
    inside = inside[: height - top, : width - left]
    mask[top : top + inside.shape[0], left : left + inside.shape[1]] |= inside


def _add_runs(starts: np.ndarray, rows: np.ndarray, first: np.ndarray, last: np.ndarray) -> None:
    some = last >= first
    rows, first, last = rows[some].astype(int), first[some].astype(int), last[some].astype(int)
    np.add.at(starts, (rows, first), 1)
    np.add.at(starts, (rows, last + 1), -1)


def fit_to(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask resized (nearest neighbour) to its picture's ``shape`` where it has another one.

    Raises ValueError where its proportions differ by more than a twentieth: then it is of another picture, or turned.
    """
    if mask.shape == tuple(shape):
        return mask
    stretch = (mask.shape[0] / shape[0]) / (mask.shape[1] / shape[1])
    if not 0.95 < stretch < 1 / 0.95:
        raise ValueError(f"it has {mask.shape[0]} x {mask.shape[1]} pixels, its picture {shape[0]} x {shape[1]}")
    rows = (np.arange(shape[0]) + 0.5) * mask.shape[0] / shape[0]
    columns = (np.arange(shape[1]) + 0.5) * mask.shape[1] / shape[1]
    return mask[rows.astype(int)[:, None], columns.astype(int)[None]]


def _short(box: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in box[:5]) + ")"
