"""What an operation without weights does, found by running it on numbers of every size.

It is given numbers in the very shapes that it has in the model: an elementwise function is one in which a change of one
value changes no other, an affine one keeps straight lines straight, and so on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xaiutils.backend import tf
from xaiutils.graph.flat_graph import FlatGraph, Step
from xaiutils.graph.layers.norms import Norm, found_norm
from xaiutils.graph.layers.table import ACTIVATION, AFFINE, LAYER_NORM, MATMUL, PRODUCT, SOFTMAX


def tried_kind(graph: FlatGraph, step: Step) -> tuple[str | None, Norm | int | None]:
    """The kind of an operation without weights, and what else is needed to know of it: the parts of a LAYER_NORM, the
    axis of a SOFTMAX. (None, None) where no trial shows it."""
    if len(step.outputs) != 1:
        return None, None
    shapes = input_shapes(graph, step)

    def run(*xs: np.ndarray) -> np.ndarray:
        return outputs_for(step, xs)[0]

    try:
        if _is_affine(run, shapes):
            return AFFINE, None
        if len(shapes) == 1:
            return _tried_alone(run, shapes[0])
        return (_tried_in_two(run, shapes) if len(set(step.reads)) == len(shapes) == 2 else None), None
    except (TypeError, ValueError, AttributeError, NotImplementedError, tf.errors.OpError):
        return None, None


def input_shapes(graph: FlatGraph, step: Step) -> list[list[int]]:
    """Shapes of a step's inputs without the batch; 1 where a size is open."""
    return [[n or 1 for n in shape[1:]] for shape in graph.input_shapes(step)]


def outputs_for(step: Step, xs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a step's operation for numbers ``xs``, even while a graph is traced."""
    with tf.init_scope():
        values = dict(zip(step.reads, (tf.constant(x, tf.float32) for x in xs), strict=True))
        return [tf.cast(y, tf.float64).numpy() for y in step.call(step.operation, values)]


def numbers(function: Callable[[], Any]) -> np.ndarray:
    """A function's numbers, even while a graph is traced."""
    with tf.init_scope():
        return tf.cast(function(), tf.float64).numpy()


def _draw(shapes: Sequence[Sequence[int]], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(2, *shape)) for shape in shapes]


def _is_affine(run: Callable[..., np.ndarray], shapes: Sequence[Sequence[int]]) -> bool:
    """Whether f(2a - b) - c = 2 (f(a) - c) - (f(b) - c), c = f(0), in all inputs together and at every size: a cap that
    is reached by large values alone is no affine function."""
    a, b = _draw(shapes, 0), _draw(shapes, 1)
    constant = run(*(0 * x for x in a))
    for scale in (1, 30, 1000):
        trials = (a, b, [2 * x - y for x, y in zip(a, b, strict=True)])
        first, second, together = (run(*(scale * x for x in xs)) - constant for xs in trials)
        wanted = 2 * first - second
        close = np.allclose(together, wanted, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(wanted).max()))
        if not np.isfinite(wanted).all() or not close:
            return False
    return True


def _tried_alone(run: Callable[..., np.ndarray], shape: Sequence[int]) -> tuple[str | None, Norm | int | None]:
    if treats_each_alone(run, shape):
        return ACTIVATION, None
    (x,) = _draw([shape], 2)
    y = run(x)
    for axis in range(1, x.ndim):
        tries = [x, 30 * x, x + 100]
        if y.shape == x.shape and all(np.allclose(run(v), _numpy_softmax(v, axis), atol=1e-5) for v in tries):
            return SOFTMAX, axis - x.ndim
    norm = found_norm(run, shape)
    return (None, None) if norm is None else (LAYER_NORM, norm)


def _numpy_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def treats_each_alone(run: Callable[[np.ndarray], np.ndarray], shape: Sequence[int]) -> bool:
    """Whether a change of one value changes no other value, wherever it is made, and all are treated alike."""
    rng = np.random.default_rng(3)
    size = int(np.prod(shape))
    x = np.abs(rng.normal(size=(1, size))) + 0.1  # a logarithm takes no negative numbers
    places = np.unique(np.concatenate([[0, size - 1], rng.integers(size, size=3)]))
    changed = np.repeat(x, 2 * len(places), axis=0)
    rows = np.arange(len(changed))
    changed[rows, np.tile(places, 2)] += np.repeat([1000.0, 0.5], len(places))
    for sign in (1, -1):
        found = run((sign * np.concatenate([x, changed])).reshape(-1, *shape))
        if found.shape != (len(changed) + 1, *shape):
            return False
        found = found.reshape(len(found), -1)
        change = np.abs(found[1:] - found[0])
        change[rows, np.tile(places, 2)] = 0  # which may overflow
        if not np.isfinite(found[0]).all():
            if sign < 0:  # it takes no negative numbers
                continue
            return False
        if not change.max() <= 1e-6 * max(1.0, np.abs(found[0]).max()):
            return False
        order = rng.permutation(size)
        moved = run((sign * x)[:, order].reshape(1, *shape)).reshape(-1)
        if not np.allclose(moved, found[0][order], rtol=1e-4, atol=1e-5):
            return False
    return True


def _tried_in_two(run: Callable[..., np.ndarray], shapes: Sequence[Sequence[int]]) -> str | None:
    """PRODUCT or MATMUL if the function is linear in each of its two inputs."""
    a, b = _draw(shapes, 4)
    if not _is_affine(lambda x: run(x, b), shapes[:1]) or not _is_affine(lambda x: run(a, x), shapes[1:]):
        return None
    if np.abs(run(0 * a, b)).max() > 0 or np.abs(run(a, 0 * b)).max() > 0:
        return None
    y = run(a, b)
    try:
        return PRODUCT if y.shape == (a * b).shape and np.allclose(y, a * b, rtol=1e-4, atol=1e-5) else MATMUL
    except ValueError:  # shapes that do not go together
        return MATMUL
