"""What each step of a graph does: `kind_of`, by its type where it is Keras' own, otherwise proved on numbers.

Operations without weights that are not known (``Lambda``, layers of the user's own, most of ``keras.ops``) are run on
numbers of every size in the very shapes that they have in the model: an elementwise function is one in which a change
of one value changes no other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.graph.head import activation_of
from xaiutils.graph.layers.linear import linear_parts
from xaiutils.graph.layers.norms import Norm, found_norm, norm_parts
from xaiutils.graph.log_probability import LogProbability
from xaiutils.graph.network import ModelError, Network, Step
from xaiutils.models.vit import SelfAttention

layers, ops = keras.layers, keras.ops

# Kinds of steps.
LINEAR = "linear"  # a learned linear layer, with or without a fused activation
BATCH_NORM = "batch norm"
LAYER_NORM = "layer norm"  # and its kin: see `norm_of`
ATTENTION = "attention"
ACTIVATION = "activation"  # elementwise
SOFTMAX = "softmax"
MAX_POOL = "max pooling"
LARGEST = "largest"  # of several tensors
SMALLEST = "smallest"  # of several tensors, or of one tensor's values
SELECT = "select"  # copies, moves or leaves out values
AFFINE = "affine"  # any other linear function of its inputs, plus a constant
PRODUCT = "product"
MATMUL = "matmul"  # or any other function that is linear in each of two tensors
LOG_PROBABILITY = "log probability"  # the step that makes scores of a head of probabilities

_BY_NAME = {
    SELECT: """ActivityRegularization AlphaDropout BroadcastTo Cast ClassToken Concatenate Copy Cropping1D Cropping2D
        Cropping3D Dropout ExpandDims Flatten Flip GaussianDropout GaussianNoise GetItem Identity InputLayer Moveaxis
        Pad Permute Repeat RepeatVector Reshape ReverseChannels Roll SpatialDropout1D SpatialDropout2D SpatialDropout3D
        Split Squeeze Stack Swapaxes Take TakeClassToken Tile Transpose UpSampling1D UpSampling3D ZeroPadding1D
        ZeroPadding2D ZeroPadding3D""",
    AFFINE: """Average AveragePooling1D AveragePooling2D AveragePooling3D GlobalAveragePooling1D GlobalAveragePooling2D
        GlobalAveragePooling3D LayerScale Normalization PositionEmbedding Rescaling""",
    MAX_POOL: """MaxPooling1D MaxPooling2D MaxPooling3D MaxPool GlobalMaxPooling1D GlobalMaxPooling2D
        GlobalMaxPooling3D Max""",
    LARGEST: "Maximum",
    SMALLEST: "Minimum Min",
}
_KNOWN = {name: kind for kind, names in _BY_NAME.items() for name in names.split()}
_SEVERAL = {"Add": AFFINE, "Subtract": AFFINE, "Multiply": PRODUCT, "Matmul": MATMUL}
_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU)
_ELEMENTWISE = {
    getattr(keras.activations, name)
    for name in (
        *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu"),
        *("linear", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus"),
        *("softsign", "squareplus", "tanh", "tanh_shrink", "threshold"),
    )
}


def kind_of(network: Network, step: Step) -> str | None:
    """What a step does, one of this module's kinds; None where that cannot be told."""
    found = network.compiled("kinds of steps", dict)
    if step not in found:
        found[step] = _kind_of(network, step)
    return found[step]


def _kind_of(network: Network, step: Step) -> str | None:
    operation, name = step.operation, type(step.operation).__name__
    several = len(network.producers(step)) > 1
    if isinstance(operation, LogProbability):
        return LOG_PROBABILITY
    if linear_parts(operation) is not None:
        return LINEAR
    if isinstance(operation, SelfAttention) or type(operation) is layers.MultiHeadAttention:
        return ATTENTION
    if isinstance(operation, layers.BatchNormalization) and _is_known(operation):
        return BATCH_NORM
    if not several and norm_parts(operation, network.input_shapes(step)[0]) is not None:
        return LAYER_NORM
    if not several and activation_of(network, step)[0] == "softmax":
        return SOFTMAX
    if isinstance(operation, _ACTIVATIONS) and _is_known(operation):
        function = applied_activation(network, step)
        if function is None:
            return SELECT
        if is_elementwise(function, network.shapes[step.outputs[0]][1:]):
            return ACTIVATION
    elif _is_known(operation):
        if name == "UpSampling2D":
            return SELECT if operation.interpolation == "nearest" else AFFINE
        if name in _KNOWN:
            return _KNOWN[name]
        if several and name in _SEVERAL:
            return _SEVERAL[name]
    return None if getattr(operation, "weights", None) else _tried(network, step)


def _is_known(operation: Any) -> bool:
    """Whether an operation is Keras' or this package's, not a user's class of the same name."""
    return type(operation).__module__.split(".")[0] in ("keras", "xaiutils")


def kinds(network: Network, method: str) -> dict[Step, str]:
    """The kind of every step that leads to the logits; ModelError for one that ``method`` has no rule for."""
    with network.in_float32():
        found = {step: kind_of(network, step) for step in network.steps_to_logits}
    for step, kind in found.items():
        if kind is None:
            raise no_rule(method, step)
    return found


def no_rule(method: str, step: Step, why: str = "") -> ModelError:
    """The error for a step that a method cannot pass."""
    return ModelError(
        f"{method} has no rule for {step.path!r} ({type(step.operation).__name__}){why}. Rebuild it from known layers "
        "(Dense, Conv, BatchNormalization, Activation, pooling, Add, Multiply, MultiHeadAttention, ...), or use a "
        "method on gradients, such as integrated_gradients."
    )


def norm_of(network: Network, step: Step) -> Norm:
    """The parts of a LAYER_NORM step."""
    known = norm_parts(step.operation, network.input_shapes(step)[0])
    return network.compiled("found norms", dict)[step] if known is None else known


def softmax_axis(network: Network, step: Step) -> Any:
    """The axis of a SOFTMAX step."""
    known = network.compiled("found softmaxes", dict)
    return known[step] if step in known else activation_of(network, step)[1]


def is_learned_before(network: Network, known: dict[Step, str], step: Step | None) -> bool:
    """Whether a learned layer stands between the image and a step: what comes before it prepares the pixels."""
    found = network.compiled("learned before", dict)
    if step is not None and step not in found:
        found[step] = any(
            producer is not None and (_is_learned(known, producer) or is_learned_before(network, known, producer))
            for producer in network.producers(step)
        )
    return step is not None and found[step]


def _is_learned(known: dict[Step, str], step: Step) -> bool:
    weights = bool(getattr(step.operation, "weights", None))
    return known.get(step) in (LINEAR, ATTENTION) or (weights and known.get(step) in (LAYER_NORM, None))


# What is not known is tried -----------------------------------------------------------------------------------------


def _tried(network: Network, step: Step) -> str | None:
    """The kind of an operation without weights, from what it does to numbers."""
    if len(step.outputs) != 1:
        return None
    shapes = _shapes(network, step)

    def run(*xs: np.ndarray) -> np.ndarray:
        return _run(step, xs)[0]

    try:
        if _is_affine(run, shapes):
            return AFFINE
        if len(shapes) == 1:
            return _tried_alone(network, step, run, shapes[0])
        return _tried_in_two(run, shapes) if len(set(step.reads)) == len(shapes) == 2 else None
    except (TypeError, ValueError, AttributeError, NotImplementedError, tf.errors.OpError):
        return None


def is_homogeneous(network: Network, step: Step) -> bool:
    """Whether a step without weights is known to have F(c x) = c F(x) for c > 0, so that F(x) = J x, J its derivative
    (Euler): it adds no constant and bends at 0 alone, as ReLU, pooling, sums and moves of values do."""
    found = network.compiled("homogeneous steps", dict)
    if step not in found:
        found[step] = not getattr(step.operation, "weights", None) and _is_homogeneous(network, step)
    return found[step]


def _is_homogeneous(network: Network, step: Step) -> bool:
    kind = kind_of(network, step)
    if kind in (AFFINE, SELECT):
        return not any(y.any() for y in _run(step, [np.zeros((1, *shape)) for shape in _shapes(network, step)]))
    if kind == ACTIVATION:
        function, shape = applied_activation(network, step), network.shapes[step.outputs[0]][1:]
        x = np.concatenate([scale * np.linspace(-8, 8, 65) for scale in (1, 30, 1000, 100_000)])
        once, twice = (_at(function, factor * x, shape) for factor in (1, 2))
        return np.allclose(twice, 2 * once, rtol=1e-6, atol=0)
    return kind in (MAX_POOL, LARGEST, SMALLEST)


def _shapes(network: Network, step: Step) -> list[list[int]]:
    return [[n or 1 for n in shape[1:]] for shape in network.input_shapes(step)]


def _run(step: Step, xs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a step's operation for numbers ``xs``."""
    with tf.init_scope():  # even while a graph is traced
        values = dict(zip(step.reads, (tf.constant(x, tf.float32) for x in xs), strict=True))
        return [tf.cast(y, tf.float64).numpy() for y in step.call(step.operation, values)]


def _numbers(function: Callable[[], Any]) -> np.ndarray:
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


def _tried_alone(network: Network, step: Step, run: Callable, shape: Sequence[int]) -> str | None:
    if _is_elementwise(run, shape):
        return ACTIVATION
    (x,) = _draw([shape], 2)
    y = run(x)
    for axis in range(1, x.ndim):
        tries = [x, 30 * x, x + 100]
        if y.shape == x.shape and all(np.allclose(run(v), _numpy_softmax(v, axis), atol=1e-5) for v in tries):
            network.compiled("found softmaxes", dict)[step] = axis - x.ndim
            return SOFTMAX
    norm = found_norm(run, shape)
    if norm is not None:
        network.compiled("found norms", dict)[step] = norm
        return LAYER_NORM
    return None


def _numpy_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _is_elementwise(run: Callable[[np.ndarray], np.ndarray], shape: Sequence[int]) -> bool:
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


# Activations --------------------------------------------------------------------------------------------------------


def applied_activation(network: Network, step: Step) -> Callable[[Any], Any] | None:
    """The function that a step applies to each value, fused or alone; None where there is none, or it is the head's."""
    operation = step.operation
    if isinstance(operation, layers.Activation) or linear_parts(operation) is not None:
        function = getattr(operation, "activation", None)
        linear = function in (None, keras.activations.linear) or network.is_head(step)
        return None if linear else function
    if isinstance(operation, keras.Layer) and not isinstance(operation, layers.Lambda):
        return operation
    return lambda x: step.call(operation, dict.fromkeys(step.inputs.values(), x))[0]


def is_elementwise(function: Callable[[Any], Any], shape: Sequence[int | None]) -> bool:
    """Whether a function treats each value of tensors ``(n, *shape)`` alone."""
    if isinstance(function, _ACTIVATIONS[1:]) or _is_one_of(function, _ELEMENTWISE):
        return True  # PReLU with slopes of its own for each place
    sizes = [n or 4 for n in shape]
    try:
        return _is_elementwise(lambda x: _numbers(lambda: function(tf.constant(x, tf.float32))), sizes)
    except (TypeError, ValueError, tf.errors.OpError):
        return False


def _is_one_of(function: Any, known: set[Any]) -> bool:
    try:
        return function in known
    except TypeError:  # not hashable
        return False


def _at(function: Callable[[Any], Any], x: np.ndarray, shape: Sequence[int | None]) -> np.ndarray:
    """An elementwise function's values at numbers ``x``, asked in tensors ``(n, *shape)``."""
    sizes = [n or 4 for n in shape]
    size = int(np.prod(sizes))
    filled = np.resize(x, -(-len(x) // size) * size).reshape(-1, *sizes)
    return _numbers(lambda: function(tf.constant(filled, tf.float32))).reshape(-1)[: len(x)]


def rectifier(function: Callable[[Any], Any], shape: Sequence[int | None] = (8,)) -> str:
    """What an elementwise function of ``(n, *shape)`` is: "relu" (the ReLU exactly, capped or not), "smooth" (it rises
    without end, and less to the left: SiLU, GELU, ELU, leaky ReLU, softplus) or "" (sigmoid, tanh, ...)."""
    if isinstance(function, layers.PReLU):
        return "smooth"
    x = np.linspace(-8, 8, 129)
    y, ends = _at(function, x, shape), _at(function, np.array([-60.0, -50.0, 50.0, 60.0]), shape)
    cap = ends[3] if ends[3] < 59 else np.inf
    if np.abs(y - np.clip(x, 0, cap)).max() < 1e-3:
        return "relu"
    left, right = (ends[1] - ends[0]) / 10, (ends[3] - ends[2]) / 10
    return "smooth" if right > 0.1 and left < 0.99 * right else ""


def is_nonnegative(function: Callable[[Any], Any], shape: Sequence[int | None] = (8,)) -> bool:
    """Whether an elementwise function of ``(n, *shape)`` has no negative values."""
    return not isinstance(function, layers.PReLU) and bool((_at(function, np.linspace(-8, 8, 129), shape) >= 0).all())


def is_gate(network: Network, known: dict[Step, str], step: Step, number: int) -> bool:
    """Whether an input of a product only scales the other: it is smaller, or comes out of a sigmoid or softmax."""
    shapes = network.input_shapes(step)
    sizes = [int(np.prod([n or 1 for n in shape[1:]])) for shape in shapes]
    if min(sizes) < max(sizes):
        return sizes[number] < max(sizes)
    bounded = [_is_bounded(network, known, producer) for producer in network.producers(step)]
    return bounded[number] and not all(bounded)


def _is_bounded(network: Network, known: dict[Step, str], step: Step | None) -> bool:
    while step is not None and known[step] == SELECT and len(network.producers(step)) == 1:
        (step,) = network.producers(step)
    if step is None or known[step] not in (LINEAR, ACTIVATION, SOFTMAX):
        return False
    if known[step] == SOFTMAX:
        return True
    function, shape = applied_activation(network, step), network.shapes[step.outputs[0]][1:]
    if function is None:
        return False
    return not is_elementwise(function, shape) or not rectifier(function, shape)


def folded_source(network: Network, known: dict[Step, str], step: Step) -> Step | None:
    """The linear layer that a batch norm can be folded into: the one right before it, without activation."""
    (producer,) = network.producers(step)
    if producer is None or known.get(producer) != LINEAR or applied_activation(network, producer) is not None:
        return None
    axis, rank = step.operation.axis, len(network.shapes[step.outputs[0]])
    foldable = axis in (-1, rank - 1) and linear_parts(producer.operation)[-1]().spread is not None
    return producer if foldable and not network.is_head(producer) else None
