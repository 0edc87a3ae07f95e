"""Gradients at many points of each image (steps of a path, noisy copies), made and summed on the device.

The host hands over images, end points or noise, and a few numbers for each batch; it waits once for the sums of a group
of images, while the next group runs. Sums are float64, so neither the number of points nor the batches show in them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from xaiutils.backend import tf
from xaiutils.graph.network import Network
from xaiutils.graph.passes import TARGETS, fetched, input_gradient
from xaiutils.graph.tiers import coming, tiered
from xaiutils.graph.xla import xla_pays
from xaiutils.progress import progress


@dataclass(frozen=True)
class Points:
    """Where gradients are taken: at each of the points, for every image x of a group.

    ``fields(points, images)``, for slices of both, returns float32 arrays f that broadcast to ``(points, images,
    height, width, C)``; ``scales`` are float32 ``(n_points, n or 1)``, a number s for each.

    - ``along``: at f + s (x - f), and what is summed is (x - f) times the gradient there: the way from f to x.
    - otherwise: at x + s f, and what is summed is the gradient as ``reading`` (`xaiutils.map_reading`) has it; with
      ``squares`` its square too.

    The sums are weighted by ``weights`` ``(n_points,)``.
    """

    weights: np.ndarray
    scales: np.ndarray
    fields: Callable[[slice, slice], np.ndarray]
    along: bool
    reading: str = "signed"
    squares: bool = False


def gradient_sums(
    network: Network, images: np.ndarray, targets: np.ndarray, points: Points, batch_size: int, title: str
) -> list[np.ndarray]:
    """The weighted sum over ``points``, and that of the squares if they are asked for: ``(n, height, width, C)``
    float64 each. No pass has more than ``batch_size`` copies, of many points where there are few images."""
    return list(np.concatenate(list(fetched(_group_sums(network, images, targets, points, batch_size, title))), axis=1))


def _group_sums(
    network: Network, images: np.ndarray, targets: np.ndarray, points: Points, batch_size: int, title: str
) -> Iterator[tf.Tensor]:
    """`gradient_sums` of one group of images after another, ``(1 or 2, group, height, width, C)`` on the device."""
    n_points = len(points.weights)
    xla = xla_pays(network, len(images) * n_points)
    step = _step(network, points, xla)
    for group, at_once, at in progress(list(_grid(len(images), n_points, batch_size)), title=title):
        if not at.start:
            of_images, of_targets = sent(images[group]), tf.constant(targets[group])
            sums = tf.zeros((1 + points.squares, *of_images.shape), tf.float64)
        scales = points.scales[at] if points.scales.shape[1] == 1 else points.scales[at, group]
        given: tuple[np.ndarray, ...] = points.fields(at, group), scales, points.weights[at]
        if xla and at_once > len(scales):  # which compiles for each shape: points without weight fill the last batch
            given = tuple(x if len(x) == 1 < len(scales) else _filled(x, at_once) for x in given)
        fields, scales, weights = given
        fields, scales = tf.constant(fields, tf.float32), tf.constant(scales, tf.float32)
        with coming(len(images) * n_points):
            sums = step(of_images, of_targets, fields, scales, tf.constant(weights), sums)
        if at.stop == n_points:
            yield sums


def _filled(values: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([values, np.zeros((n - len(values), *values.shape[1:]), values.dtype)])


def sent(images: np.ndarray) -> tf.Tensor:
    """Float32 images on the device; whole numbers from 0 to 255 travel in a quarter of the bytes."""
    with np.errstate(invalid="ignore"):  # others wrap around, and then differ
        whole = images.astype(np.uint8)
    return tf.cast(tf.constant(whole), tf.float32) if (whole == images).all() else tf.constant(images, tf.float32)


def _grid(n: int, n_points: int, batch_size: int) -> Iterator[tuple[slice, int, slice]]:
    """Groups of images, how many points of each fit into a batch, and those of one."""
    for start in range(0, n, batch_size):
        group = slice(start, min(start + batch_size, n))
        at_once = batch_size // (group.stop - group.start)
        for point in range(0, n_points, at_once):
            yield group, at_once, slice(point, min(point + at_once, n_points))


def _step(network: Network, points: Points, xla: bool) -> Callable[..., tf.Tensor]:
    """The compiled function that adds what some points of a group contribute to its sums."""
    along, reading, squares = points.along, points.reading, points.squares

    def build():
        channels = network.channels
        field = tf.TensorSpec([None] * 4 + [channels], tf.float32)
        scale, weight = tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None], tf.float64)
        sums = tf.TensorSpec([1 + squares, *network.image_spec.shape], tf.float64)
        signature = [network.image_spec, TARGETS, field, scale, weight, sums]

        def step(images, targets, fields, scales, weights, sums):
            scales, weights = scales[:, :, None, None, None], weights[:, None, None, None, None]
            way = images - fields  # (points or 1, images, height, width, C)
            moved = fields + scales * way if along else images + scales * fields
            shape = tf.shape(moved)
            copies = tf.ensure_shape(tf.reshape(moved, tf.concat([[-1], shape[2:]], 0)), network.image_spec.shape)
            found = input_gradient(network, copies, tf.tile(targets, shape[:1]))
            found = tf.reshape(found, shape)
            found = tf.cast(way * found if along else _read(found, reading), tf.float64)
            terms = (found, found * found) if squares else (found,)
            return sums + tf.stack([tf.reduce_sum(weights * x, axis=0) for x in terms])

        if xla:
            return tf.function(step, signature, autograph=False, jit_compile=True)
        return tiered(network, step, signature)

    return network.compiled(("gradient sums", along, reading, squares, xla), build)


def _read(values: tf.Tensor, reading: str) -> tf.Tensor:
    """`xaiutils.map_reading.read_maps` of a tensor."""
    return {"signed": tf.identity, "positive": tf.nn.relu, "magnitude": tf.abs}[reading](values)
