"""Gradients at many points of each image (steps of a path, noisy copies), made and summed on the device.

The host hands over images, end points or noise, and a few numbers for each batch; it waits once for the sums of a group
of images, while the next group runs. Sums are float64, so neither the number of points nor the batches show in them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from xaiutils.backend import tf
from xaiutils.graph.network import Network
from xaiutils.graph.passes import TARGETS, fetched, folded_logits, logit_and_gradient, logit_of_target
from xaiutils.graph.tiers import coming, tiered
from xaiutils.graph.xla import xla_pays
from xaiutils.progress import progress

Placed = tuple[tf.Tensor, tf.Tensor | None]


def straight(images: tf.Tensor, fields: tf.Tensor, scales: tf.Tensor) -> Placed:
    """At f + s (x - f), on the way x - f from f to x."""
    way = images - fields
    return fields + scales * way, way


def shifted(images: tf.Tensor, fields: tf.Tensor, scales: tf.Tensor) -> Placed:
    """At x + s f, on no way."""
    return images + scales * fields, None


@dataclass(frozen=True)
class Points:
    """Where gradients are taken: at each of the points, for every image x of a group.

    ``fields(points, images)``, for slices of both, returns float32 arrays f that broadcast to ``(points, images,
    height, width, C)``; ``scales`` are float32 ``(n_points, n or 1)``, a number s for each, or ``(n_points, n or 1,
    k)``, k numbers. ``place(x, f, s)`` tells where the points lie, ``(points, images, height, width, C)``, and what way
    each of them stands for. What is summed, weighted by ``weights`` ``(n_points,)``, is

    - the way times the gradient; where there is no way, the gradient as ``reading`` (`xaiutils.map_reading`) has it,
      and with ``squares`` its square too;
    - with ``rises`` what the logit gains to the next point, of the last one to x, shared out by the squared gradient.

    ``advance``: the path is found on the way. The s of `place` are then the values' own, ``(images, height, width,
    C)``, 0 at first, and ``advance(s, gradient, way, scales of the point)`` returns those of the next point; the way
    that a point stands for is that to the next.

    The functions are of a module, not made on the spot: what is compiled is found again by them.
    """

    weights: np.ndarray
    scales: np.ndarray
    fields: Callable[[slice, slice], np.ndarray]
    place: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Placed] = straight
    reading: str = "signed"
    squares: bool = False
    rises: bool = False
    advance: Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor] | None = None

    @property
    def in_order(self) -> bool:
        """Whether a point may need the one after it, so that none without weight can be added."""
        return self.rises or self.place not in (straight, shifted)


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
    all_scales = points.scales.reshape(*points.scales.shape[:2], 1, 1, -1)
    most = 1 if points.advance else batch_size
    for group, at_once, at in progress(list(_grid(len(images), n_points, batch_size, most)), title=title):
        if not at.start:
            of_images, of_targets = sent(images[group]), tf.constant(targets[group])
            state = tuple(_begin(points, of_images))
        scales = all_scales[at] if all_scales.shape[1] == 1 else all_scales[at, group]
        given: tuple[np.ndarray, ...] = points.fields(at, group), scales, points.weights[at]
        if xla and at_once > len(scales) and not points.in_order:
            # It compiles for each shape: points without weight fill the last batch.
            given = tuple(x if len(x) == 1 < len(scales) else _filled(x, at_once) for x in given)
        fields, scales, weights = given
        fields, scales = tf.constant(fields, tf.float32), tf.constant(scales, tf.float32)
        with coming(len(images) * n_points):
            state = step(of_images, of_targets, fields, scales, tf.constant(weights), *state)
        if at.stop == n_points:
            yield _last_rise(network)(of_images, of_targets, *state[:3]) if points.rises else state[0]


def _filled(values: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([values, np.zeros((n - len(values), *values.shape[1:]), values.dtype)])


def sent(images: np.ndarray) -> tf.Tensor:
    """Float32 images on the device; whole numbers from 0 to 255 travel in a quarter of the bytes."""
    with np.errstate(invalid="ignore"):  # others wrap around, and then differ
        whole = images.astype(np.uint8)
    return tf.cast(tf.constant(whole), tf.float32) if (whole == images).all() else tf.constant(images, tf.float32)


def _grid(n: int, n_points: int, batch_size: int, most: int) -> Iterator[tuple[slice, int, slice]]:
    """Groups of images, how many points of each fit into a batch (at ``most``), and those of one."""
    for start in range(0, n, batch_size):
        group = slice(start, min(start + batch_size, n))
        at_once = min(batch_size // (group.stop - group.start), most)
        for point in range(0, n_points, at_once):
            yield group, at_once, slice(point, min(point + at_once, n_points))


def _state_specs(points: Points, image: tf.TensorSpec) -> list[tf.TensorSpec]:
    """What a step is handed by the one before: the sums; for rises the last point's shares, and its logit; and
    where the path is found on the way, how far each value is."""
    specs = [tf.TensorSpec([1 + points.squares, *image.shape], tf.float64)]
    if points.rises:
        specs += [image, tf.TensorSpec([None], tf.float64)]
    if points.advance:
        specs.append(image)
    return specs


def _begin(points: Points, images: tf.Tensor) -> list[tf.Tensor]:
    """The state before the first point: zeros, of which the rise to it is no share."""
    specs = _state_specs(points, tf.TensorSpec(images.shape, tf.float32))
    return [tf.zeros([n or len(images) for n in spec.shape], spec.dtype) for spec in specs]


def _step(network: Network, points: Points, xla: bool) -> Callable[..., tuple[tf.Tensor, ...]]:
    """The compiled function that adds what some points of a group contribute to its state."""
    place, advance, reading = points.place, points.advance, points.reading
    squares, rises, k = points.squares, points.rises, points.scales[0, 0].size

    def build():
        image = network.image_spec
        field = tf.TensorSpec([None] * 4 + [network.channels], tf.float32)
        scale, weight = tf.TensorSpec([None, None, 1, 1, k], tf.float32), tf.TensorSpec([None], tf.float64)
        signature = [image, TARGETS, field, scale, weight, *_state_specs(points, image)]

        def step(images, targets, fields, scales, weights, sums, *held):
            at, way = place(images, fields, held[-1][None] if advance else scales)
            shape = tf.shape(at)
            copies = tf.ensure_shape(tf.reshape(at, tf.concat([[-1], shape[2:]], 0)), image.shape)
            score, found = logit_and_gradient(network, copies, tf.tile(targets, shape[:1]))
            found = tf.reshape(found, shape)
            reached: list[tf.Tensor] = []
            if advance and way is not None:
                reached.append(advance(held[-1], found[0], way[0], scales[0]))
                way *= reached[0] - held[-1]
            if rises:
                gained, shares, score = _rises(tf.reshape(score, shape[:2]), found, *held[:2])
                return sums + gained, shares, score, *reached
            found = tf.cast(_read(found, reading) if way is None else way * found, tf.float64)
            terms = (found, found * found) if squares else (found,)
            weights = weights[:, None, None, None, None]
            return sums + tf.stack([tf.reduce_sum(weights * x, axis=0) for x in terms]), *reached

        if xla:
            return tf.function(step, signature, autograph=False, jit_compile=True)
        return tiered(network, step, signature)

    return network.compiled(("gradient sums", place, advance, reading, squares, rises, k, xla), build)


def _rises(
    scores: tf.Tensor, found: tf.Tensor, shares_before: tf.Tensor, score_before: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """What the points before each of these give each value, ``(1, images, height, width, C)``; and of the last point
    its shares of a rise, which are squared gradients, and its score."""
    scores, axes = tf.cast(scores, tf.float64), (2, 3, 4)
    squares = tf.math.divide_no_nan(found, tf.reduce_max(tf.abs(found), axes, keepdims=True)) ** 2
    shares = tf.math.divide_no_nan(squares, tf.reduce_sum(squares, axes, keepdims=True))
    rise = (scores - tf.concat([score_before[None], scores[:-1]], axis=0))[..., None, None, None]
    gained = rise[0] * tf.cast(shares_before, tf.float64)
    gained += tf.reduce_sum(rise[1:] * tf.cast(shares[:-1], tf.float64), axis=0)
    return gained[None], shares[-1], scores[-1]


def _last_rise(network: Network) -> Callable[..., tf.Tensor]:
    """Adds to sums of `_rises` that from the last point to the image."""

    def build():
        image = network.image_spec
        sums, score = tf.TensorSpec([1, *image.shape], tf.float64), tf.TensorSpec([None], tf.float64)
        signature = [image, TARGETS, sums, image, score]

        def run(images, targets, sums, shares, before):
            found = logit_of_target(network, folded_logits(network, images), targets)
            return sums + (tf.cast(found, tf.float64) - before)[:, None, None, None] * tf.cast(shares, tf.float64)

        return tiered(network, run, signature)

    return network.compiled("last rise", build)


def _read(values: tf.Tensor, reading: str) -> tf.Tensor:
    """`xaiutils.map_reading.read_maps` of a tensor."""
    return {"signed": tf.identity, "positive": tf.nn.relu, "magnitude": tf.abs}[reading](values)
