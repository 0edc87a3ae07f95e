"""Normalisation by statistics of the very values that are normalised: LayerNorm and its kin, taken apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xaiutils.backend import tf


@dataclass(frozen=True)
class Norm:
    """``y = gamma * c * r + beta`` with c = x, less its mean where it is ``centred``.

    ``average`` replaces each value by the mean of those that are normalised together. r = rsqrt(v + ``epsilon``), v the
    mean square of x, less its mean where ``by_deviation``; where ``epsilon`` is None, r is whatever y shows it to be.
    """

    average: Callable[[Any], Any]
    centred: bool
    by_deviation: bool
    epsilon: float | None = None
    gamma: Any = 1.0
    beta: Any = 0.0

    def centre(self, x: Any) -> Any:
        """c."""
        return x - self.average(x) if self.centred else x

    def deviation(self, x: Any) -> Any:
        """What v is the mean square of."""
        return x - self.average(x) if self.by_deviation else x

    def rate(self, x: Any, y: Any) -> Any:
        """r, at every value."""
        if self.epsilon is not None:
            return tf.math.rsqrt(self.average(self.deviation(x) ** 2) + self.epsilon)
        c = self.centre(x)
        return tf.math.divide_no_nan(self.average((y - self.beta) * c), self.average(c * c))


def layer_norm(layer: Any, shape: Sequence[int | None]) -> Norm:
    """``LayerNormalization`` of inputs of a shape (the batch first), with or without ``rms_scaling``."""
    axes = _axes(layer.axis, len(shape))
    gamma, beta = (_along(w, axes, shape, default) for w, default in ((layer.gamma, 1.0), (layer.beta, 0.0)))
    rms = getattr(layer, "rms_scaling", False)
    return Norm(over(axes), not rms, True, layer.epsilon, gamma, 0.0 if rms else beta)


def rms_norm(layer: Any, shape: Sequence[int | None]) -> Norm:
    """``RMSNormalization``."""
    axes = _axes(layer.axis, len(shape))
    return Norm(over(axes), False, False, layer.epsilon, _along(layer.scale, axes, shape, 1.0))


def group_norm(layer: Any, shape: Sequence[int | None]) -> Norm:
    """``GroupNormalization``, of which instance normalisation is a case."""
    (axis,) = _axes(layer.axis, len(shape))
    gamma = _along(layer.gamma if layer.scale else None, [axis], shape, 1.0)
    beta = _along(layer.beta if layer.center else None, [axis], shape, 0.0)
    return Norm(_in_groups(axis, layer.groups, shape), True, True, layer.epsilon, gamma, beta)


def unit_norm(layer: Any, shape: Sequence[int | None]) -> Norm:
    """``UnitNormalization``: to length 1."""
    return Norm(over(_axes(layer.axis, len(shape))), False, False)


def found_norm(run: Callable[[np.ndarray], np.ndarray], shape: Sequence[int]) -> Norm | None:
    """The parts of a function of ``(n, *shape)`` that scales each image, channel or token by a statistic of its own,
    such as ``tf.image.per_image_standardization``; None where it does something else. Tried on numbers of the shape."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, *shape)) * np.array([1, 1, 30, 30, 300, 300]).reshape(-1, *[1] * len(shape))
    x[::2] += 0.5 * np.abs(x[::2]).max(axis=tuple(range(1, x.ndim)), keepdims=True)
    y = run(x)
    if y.shape != x.shape or not np.isfinite(y).all() or not np.allclose(run(20 * x), y, rtol=1e-3, atol=1e-4):
        return None
    axes = range(1, x.ndim)
    groups = [tuple(axes), *([(1, 2)] if x.ndim == 4 else []), *((axis,) for axis in axes)]
    x, y = tf.constant(x, tf.float64), tf.constant(y, tf.float64)
    for group in groups:
        if np.prod([x.shape[axis] for axis in group]) < 2:
            continue
        for centred in (True, False):
            offset = float(over(group)(y).numpy().flat[0]) if centred else 0.0
            norm = Norm(over(group), centred, centred, beta=offset)
            if np.allclose(norm.centre(x) * norm.rate(x, y) + offset, y, rtol=1e-3, atol=1e-4):
                return norm
    return None


def over(axes: Sequence[int]) -> Callable[[Any], Any]:
    """The mean over axes, at every value."""
    return lambda v: tf.reduce_mean(v, axis=list(axes), keepdims=True) + tf.zeros_like(v)


def _in_groups(axis: int, groups: int, shape: Sequence[int | None]) -> Callable[[Any], Any]:
    channels = shape[axis] or 1
    groups = channels if groups == -1 else groups

    def average(v: Any) -> Any:
        grouped = tf.reshape(v, [-1, *shape[1:axis], groups, channels // groups, *shape[axis + 1 :]])
        rest = [i for i in range(1, len(grouped.shape)) if i != axis]
        return tf.reshape(over(rest)(grouped), tf.shape(v))

    return average


def _axes(axis: Any, rank: int) -> list[int]:
    return sorted(a % rank for a in (axis if isinstance(axis, list | tuple) else [axis]))


def _along(weights: Any, axes: list[int], shape: Sequence[int | None], default: float) -> Any:
    """A norm's weights, in the shape that they have along its axes."""
    if weights is None:
        return default
    return tf.reshape(tf.cast(weights, tf.float32), [shape[i] if i in axes else 1 for i in range(len(shape))])
