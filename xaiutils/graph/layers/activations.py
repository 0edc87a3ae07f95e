"""Activations: softmax, sigmoid and what else a step applies to values, and what kind of function it is."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.graph.flat_graph import FlatGraph, Step
from xaiutils.graph.layers.table import ACTIVATION, SOFTMAX, layer_type, linear_parts
from xaiutils.graph.layers.trials import numbers, treats_each_alone
from xaiutils.models.vit import gelu_tanh

layers, ops = keras.layers, keras.ops
TRIALS = 48  # rows of `trial_logits`
_FUNCTIONS = {
    keras.activations.linear: "linear",
    keras.activations.softmax: "softmax",
    keras.activations.log_softmax: "log_softmax",
    keras.activations.sigmoid: "sigmoid",
    ops.softmax: "softmax",
    ops.log_softmax: "log_softmax",
    ops.sigmoid: "sigmoid",
    tf.nn.softmax: "softmax",
    tf.nn.log_softmax: "log_softmax",
    tf.nn.sigmoid: "sigmoid",
    None: "linear",
}
_ELEMENTWISE = {
    getattr(keras.activations, name)
    for name in (
        *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu"),
        *("linear", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus"),
        *("softsign", "squareplus", "tanh", "tanh_shrink", "threshold"),
    )
} | {gelu_tanh}


def activation_of(graph: FlatGraph, step: Step) -> tuple[str | None, Any]:
    """What a step does if it is nothing but an activation: "softmax", "log_softmax", "sigmoid" or "linear", None for
    anything else; and the axis, -1 for the last."""
    operation, name = step.operation, type(step.operation).__name__
    if len(step.reads) != 1:
        return None, -1
    rank = len(graph.shapes[step.reads[0]])
    is_op = not isinstance(operation, keras.Layer)
    if layer_type(operation).kind == SOFTMAX or (is_op and name in ("Softmax", "LogSoftmax")):
        axis = operation.axis
        axis = axis if isinstance(axis, int) else axis[0] if len(axis) == 1 else tuple(axis)
        axis = -1 if axis == rank - 1 else axis
        return ("log_softmax" if name == "LogSoftmax" else "softmax"), axis
    if is_op and name == "Sigmoid":
        return "sigmoid", -1
    if type(operation) is layers.Activation:
        return function_kind(operation.activation, graph.shapes[step.reads[0]][-1]), -1
    if type(operation) is layers.Lambda and graph.shapes[step.reads[0]] == graph.shapes[step.outputs[0]] and rank == 2:
        (key,) = step.reads
        return function_kind(lambda x: step.call(operation, {key: x})[0], graph.shapes[key][-1]), -1
    return None, -1


def function_kind(function: Any, units: int | None) -> str | None:
    """ "softmax", "log_softmax", "sigmoid" or "linear" if that is what a function of ``(n, units)`` is: known as
    such, or giving the same for logits of every size, alone and against each other."""
    try:
        if function in _FUNCTIONS:
            return _FUNCTIONS[function]
    except TypeError:  # not hashable
        pass
    if _is_one_of(function, _ELEMENTWISE):
        return None
    z = tf.constant(trial_logits((units or 4,)))
    try:
        with tf.init_scope():
            found = np.asarray(tf.cast(function(z), tf.float32))
    except Exception:  # whatever a user's function raises on two axes
        return None
    if found.shape != z.shape:
        return None
    for name in ("linear", "sigmoid", *(("softmax", "log_softmax") if z.shape[1] > 1 else ())):
        expected = z if name == "linear" else getattr(tf.nn, name)(z)
        if np.allclose(found, expected, rtol=1e-5, atol=1e-6):
            return name
    return None


def trial_logits(shape: Sequence[int]) -> np.ndarray:
    """Float32 ``(TRIALS, *shape)``: numbers of every size, equal ones, and single ones far from the rest."""
    rng = np.random.default_rng(0)
    size = np.repeat([0.1, 1, 10, 100], -(-TRIALS // 4))[:TRIALS].reshape(-1, *[1] * len(shape))
    z = rng.normal(size=(TRIALS, *shape)) * size
    flat = z.reshape(TRIALS, -1)
    flat[0], flat[12], flat[24] = 0, 5, -5
    for row in range(4):
        flat[1 + row] = 0
        flat[1 + row, row % flat.shape[1]] = 40 if row % 2 else -40
    return z.astype(np.float32)


def applied_activation(graph: FlatGraph, step: Step) -> Callable[[Any], Any] | None:
    """The function that a step applies to each value, fused or alone; None where there is none, or it is the head's."""
    operation = step.operation
    if isinstance(operation, layers.Activation) or linear_parts(operation) is not None:
        function = getattr(operation, "activation", None)
        linear = function in (None, keras.activations.linear) or graph.is_head(step)
        return None if linear else function
    if isinstance(operation, keras.Layer) and not isinstance(operation, layers.Lambda):
        return operation
    return lambda x: step.call(operation, dict.fromkeys(step.inputs.values(), x))[0]


def is_elementwise(function: Callable[[Any], Any], shape: Sequence[int | None]) -> bool:
    """Whether a function treats each value of tensors ``(n, *shape)`` alone."""
    if _is_activation_layer(function) or _is_one_of(function, _ELEMENTWISE):
        return True  # PReLU too, with slopes of its own for each place
    sizes = [n or 4 for n in shape]
    try:
        return treats_each_alone(lambda x: numbers(lambda: function(tf.constant(x, tf.float32))), sizes)
    except (TypeError, ValueError, tf.errors.OpError):
        return False


def _is_activation_layer(function: Any) -> bool:
    """Whether it is one of Keras' layers that are an elementwise function of their own: ReLU, PReLU, LeakyReLU, ..."""
    return layer_type(function).kind == ACTIVATION and not isinstance(function, layers.Activation)


def _is_one_of(function: Any, known: set[Any]) -> bool:
    try:
        return function in known
    except TypeError:  # not hashable
        return False


def values_at(function: Callable[[Any], Any], x: np.ndarray, shape: Sequence[int | None]) -> np.ndarray:
    """An elementwise function's values at numbers ``x``, asked in tensors ``(n, *shape)``."""
    sizes = [n or 4 for n in shape]
    size = int(np.prod(sizes))
    filled = np.resize(x, -(-len(x) // size) * size).reshape(-1, *sizes)
    return numbers(lambda: function(tf.constant(filled, tf.float32))).reshape(-1)[: len(x)]


def _known_once(ask: Callable[..., Any]) -> Callable[..., Any]:
    """``ask(function, shape)``, once for each of Keras' own elementwise functions, and in a small shape for its layers
    without weights: their values know no shape, and a whole image's takes long."""
    known = functools.cache(lambda function: ask(function, (8,)))

    @functools.wraps(ask)
    def asked(function: Callable[[Any], Any], shape: Sequence[int | None] = (8,)) -> Any:
        if _is_one_of(function, _ELEMENTWISE):
            return known(function)
        knows_no_shape = _is_activation_layer(function) and not getattr(function, "weights", None)
        return ask(function, (8,) if knows_no_shape else shape)

    return asked


@_known_once
def rectifier(function: Callable[[Any], Any], shape: Sequence[int | None] = (8,)) -> str:
    """What an elementwise function of ``(n, *shape)`` is: "relu" (the ReLU exactly, capped or not), "smooth" (it rises
    without end, and less to the left: SiLU, GELU, ELU, leaky ReLU, softplus) or "" (sigmoid, tanh, ...)."""
    if isinstance(function, layers.PReLU):
        return "smooth"
    x = np.linspace(-8, 8, 129)
    y, ends = values_at(function, x, shape), values_at(function, np.array([-60.0, -50.0, 50.0, 60.0]), shape)
    cap = ends[3] if ends[3] < 59 else np.inf
    if np.abs(y - np.clip(x, 0, cap)).max() < 1e-3:
        return "relu"
    left, right = (ends[1] - ends[0]) / 10, (ends[3] - ends[2]) / 10
    return "smooth" if right > 0.1 and left < 0.99 * right else ""


@_known_once
def is_nonnegative(function: Callable[[Any], Any], shape: Sequence[int | None] = (8,)) -> bool:
    """Whether an elementwise function of ``(n, *shape)`` has no negative values."""
    return not isinstance(function, layers.PReLU) and bool(
        (values_at(function, np.linspace(-8, 8, 129), shape) >= 0).all()
    )


@_known_once
def keeps_scale(function: Callable[[Any], Any], shape: Sequence[int | None] = (8,)) -> bool:
    """Whether an elementwise function phi of ``(n, *shape)`` has phi(c x) = c phi(x) for c > 0, as ReLU has."""
    x = np.concatenate([scale * np.linspace(-8, 8, 65) for scale in (1, 30, 1000, 100_000)])
    once, twice = (values_at(function, factor * x, shape) for factor in (1, 2))
    return np.allclose(twice, 2 * once, rtol=1e-6, atol=0)
