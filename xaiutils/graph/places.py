"""Where the grid of a layer lies in the image, how it is stored, and maps enlarged to that place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xaiutils.backend import tf


@dataclass(frozen=True)
class Place:
    """Where a grid lies: the pixel of its first cell's centre and the pixels from a cell to the next, by axis."""

    rows: tuple[float, float]
    columns: tuple[float, float]

    def covers(self, grid: Sequence[int], size: Sequence[int]) -> bool:
        """Whether the grid is stretched over the whole image of this size."""
        pairs = zip((self.rows, self.columns), grid, size, strict=True)
        return all(np.allclose((s, d), (n / m / 2 - 0.5, n / m), atol=1e-3, rtol=1e-6) for (s, d), m, n in pairs)


@dataclass(frozen=True, eq=False)
class Field:
    """A layer's grid ``(rows, columns)``, its place (``stretched``: by the convention that it fills what it reads,
    though windows without padding lose a border), and how it is stored: the tensor's ``shape`` without the batch,
    which of its axes holds the channels, and the elements of the grid, row by row, among all that the others hold."""

    grid: tuple[int, int]
    place: Place
    stretched: Place
    shape: tuple[int, ...]
    channels: int
    order: np.ndarray

    @property
    def stored(self) -> tuple:
        """What a compiled function that reads the layer depends on."""
        return self.grid, self.shape, self.channels, self.order.tobytes()

    @property
    def is_plain(self) -> bool:
        """Whether it is stored as rows, columns, channels, or as tokens, the patches last."""
        elements = int(np.prod(self.shape[:-1]))
        plain = np.array_equal(self.order, np.arange(elements - len(self.order), elements))
        return plain and self.channels == len(self.shape) - 1

    def to_grid(self, tensor: Any) -> Any:
        """``(n, rows, columns, channels)``."""
        axes = [a for a in range(len(self.shape)) if a != self.channels]
        if self.channels + 1 != len(self.shape):
            tensor = tf.transpose(tensor, [0, *(a + 1 for a in axes), self.channels + 1])
        sizes, depth = [self.shape[a] for a in axes], tensor.shape[-1] or self.shape[self.channels]
        start, cells = int(self.order[0]), len(self.order)
        in_order = np.array_equal(self.order, np.arange(start, start + cells))
        if in_order and tuple(sizes) == self.grid:
            is_open = None in tensor.shape[1:]  # in a trace of a model that takes any size
            return tf.ensure_shape(tensor, [None, *self.grid, None]) if is_open else tensor
        tensor = tf.reshape(tensor, [-1, int(np.prod(sizes)), depth])
        tensor = tensor[:, start : start + cells] if in_order else tf.gather(tensor, self.order, axis=1)
        return tf.reshape(tensor, [-1, *self.grid, depth])

    @property
    def mask(self) -> np.ndarray:
        """Which elements of the tensor belong to the grid: it broadcasts to `shape`."""
        sizes = [1 if a == self.channels else n for a, n in enumerate(self.shape)]
        inside = np.zeros(int(np.prod(sizes)), bool)
        inside[self.order] = True
        return inside.reshape(sizes)


# Enlarging --------------------------------------------------------------------------------------------------------


def enlarged(maps: Any, size: Any, place: Place | None = None) -> Any:
    """``(n, rows, columns)`` at its place in an image of ``size``, bilinear between the cells' centres and constant
    in the outer halves of the outer cells: a tensor float32, 0 where the grid does not reach.

    Without ``place``, or where the grid covers the image, that is `tf.image.resize`.
    """
    maps = tf.cast(maps, tf.float32)
    if place is None or place.covers(tuple(maps.shape[1:]), tuple(int(n) for n in size)):
        return tf.image.resize(maps[..., None], size)[..., 0]
    whole, inside = extended(maps, size, place)
    return whole * inside


def extended(maps: Any, size: Sequence[int], place: Place) -> tuple[Any, np.ndarray]:
    """As `enlarged`, with the outer cells' values going on beyond the grid, and where the grid lies, 0 or 1."""
    pairs = [(place.rows, maps.shape[1], size[0]), (place.columns, maps.shape[2], size[1])]
    (rows, row_inside), (columns, column_inside) = (_weights(*pair) for pair in pairs)
    return tf.einsum("yr,nrc,xc->nyx", rows, maps, columns), np.outer(row_inside, column_inside).astype(np.float32)


def _weights(place: tuple[float, float], cells: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Share ``(pixels, cells)`` of each cell in each pixel, and which pixels lie within the cells."""
    offset, step = place
    at = (np.arange(pixels) - offset) / step
    inside = (at > -0.5 - 1e-6) & (at < cells - 0.5 + 1e-6)
    at = at.clip(0, cells - 1)
    low = np.minimum(np.floor(at).astype(int), max(cells - 2, 0))
    weights = np.zeros((pixels, cells), np.float32)
    weights[np.arange(pixels), low] = 1 - (at - low)
    weights[np.arange(pixels), np.minimum(low + 1, cells - 1)] += at - low
    return weights, inside
