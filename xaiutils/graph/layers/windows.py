"""The windows of convolutions, poolings and upsamplings: what each output cell reads, by axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xaiutils.backend import keras

layers = keras.layers


@dataclass(frozen=True)
class Window:
    """On one axis of a tensor without the batch: the ``extent`` of the window in input cells, dilation included, its
    ``stride``, and the number of cells before and after; ``padded`` as the layer's padding "same" does, or not;
    ``transposed`` where the stride counts output cells (transposed convolution, upsampling)."""

    axis: int
    extent: int
    stride: int
    before: int
    after: int
    padded: bool
    transposed: bool

    def centres(self) -> np.ndarray:
        """The centre of each output cell's window, in input cells."""
        cells = np.arange(self.after)
        if self.padded:
            return (cells + 0.5) * self.before / self.after - 0.5
        reach = (self.extent - 1) / 2
        return (cells - reach) / self.stride if self.transposed else cells * self.stride + reach


def windows(operation: Any, shape: Sequence[int], made: Sequence[int]) -> list[Window]:
    """The window of each spatial axis, of an input and output of these shapes without the batch.

    Empty for other operations, and for subclasses whose output has another size than these numbers say.
    """
    up = isinstance(operation, layers.UpSampling1D | layers.UpSampling2D)
    size = getattr(operation, "size" if up else "kernel_size", None) or getattr(operation, "pool_size", None)
    strides = getattr(operation, "size" if up else "strides", None)
    n_axes = len(shape) - 1
    same_rank = isinstance(operation, keras.Layer) and len(shape) == len(made)
    if not same_rank or size is None or strides is None or (isinstance(size, int) and not up):
        return []
    if len(_each(size, 1)) != n_axes:
        return []
    first = 1 if getattr(operation, "data_format", None) == "channels_first" else 0
    padding, transposed = getattr(operation, "padding", ""), up or type(operation).__name__.endswith("Transpose")
    dilations = _each(getattr(operation, "dilation_rate", None) or 1, n_axes)
    found = []
    for i, (width, stride, dilation) in enumerate(zip(_each(size, 1), _each(strides, 1), dilations, strict=True)):
        extent, before, after = (width - 1) * dilation + 1, shape[first + i], made[first + i]
        expected = -(-before // stride) if padding in ("same", "causal") else (before - extent) // stride + 1
        if not transposed and expected != after:
            return []
        found.append(Window(first + i, extent, stride, before, after, padding != "valid", transposed))
    return found


def _each(value: Any, n: int) -> tuple[int, ...]:
    return (value,) * n if isinstance(value, int) else tuple(value)
