"""What modified backward passes share: what each step of a graph does, and how its backward pass is replaced.

Guided backpropagation, DeepLIFT and layer-wise relevance propagation run the network forward as it is, and backward
with a rule of their own for each kind of step (`kind_of`). A step with a rule becomes a `relay`: its forward result,
with a backward function in place of its gradient. What arrives at a tensor that several steps read is summed by the
gradient tape.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xaiutils.attribution.log_probability import LogProbability
from xaiutils.attribution.network import ModelError, Network, Rule, Step
from xaiutils.backend import keras, tf
from xaiutils.models.vit import SelfAttention

layers, ops = keras.layers, keras.ops

# Kinds of steps.
LINEAR = "linear"  # a learned linear layer, with or without a fused activation
BATCH_NORM = "batch norm"
LAYER_NORM = "layer norm"
ATTENTION = "attention"
ACTIVATION = "activation"  # elementwise
SOFTMAX = "softmax"
MAX_POOL = "max pooling"
SELECT = "select"  # copies, moves or leaves out values
AFFINE = "affine"  # any other linear function of its inputs, plus a constant
PRODUCT = "product"
MATMUL = "matmul"
LOG_PROBABILITY = "log probability"  # the step that makes scores of a head of probabilities

_SELECT = {
    "ActivityRegularization",
    "AlphaDropout",
    "Cast",
    "ClassToken",
    "Concatenate",
    "Copy",
    "Cropping1D",
    "Cropping2D",
    "Cropping3D",
    "Dropout",
    "ExpandDims",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "GetItem",
    "Identity",
    "InputLayer",
    "Moveaxis",
    "Pad",
    "Permute",
    "RepeatVector",
    "Reshape",
    "ReverseChannels",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "Split",
    "Squeeze",
    "Stack",
    "Swapaxes",
    "TakeClassToken",
    "Transpose",
    "ZeroPadding1D",
    "ZeroPadding2D",
    "ZeroPadding3D",
}
_AFFINE = {
    "Average",
    "AveragePooling1D",
    "AveragePooling2D",
    "AveragePooling3D",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalAveragePooling3D",
    "LayerScale",
    "Normalization",
    "PositionEmbedding",
    "Rescaling",
}
_SUMS = ("Add", "Subtract")
_MAX_POOL = {
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
    "MaxPool",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GlobalMaxPooling3D",
    "Max",
}
_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU)


def kind_of(network: Network, step: Step) -> str | None:
    """What a step does, one of this module's kinds; None where that cannot be told.

    Operations with one input and no weights that are not known by name (``Lambda``, most of ``keras.ops``) are tried
    with random numbers: they may be affine or elementwise.
    """
    operation, name = step.operation, type(step.operation).__name__
    several = len(network.producers(step)) > 1
    if isinstance(operation, LogProbability):
        return LOG_PROBABILITY
    if linear_parts(operation) is not None:
        return LINEAR
    if isinstance(operation, SelfAttention) or type(operation) is layers.MultiHeadAttention:
        return ATTENTION
    if isinstance(operation, layers.BatchNormalization):
        return BATCH_NORM
    if isinstance(operation, layers.LayerNormalization):
        return LAYER_NORM
    if isinstance(operation, layers.Softmax) or name == "Softmax":
        return SOFTMAX
    if isinstance(operation, _ACTIVATIONS):
        function = applied_activation(network, step)
        if function is None:
            return SELECT
        return ACTIVATION if is_elementwise(function) else SOFTMAX if _is_softmax(function) else None
    if name in _MAX_POOL:
        return MAX_POOL
    if name in _SELECT:
        return SELECT
    if name in _AFFINE or (name in _SUMS and several):
        return AFFINE
    if name == "Multiply" and several:
        return PRODUCT
    if name == "Matmul" and several:
        return MATMUL
    return None if several or getattr(operation, "weights", None) else _tried(network, step)


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


def _tried(network: Network, step: Step) -> str | None:
    """AFFINE, ACTIVATION or None, from what the step does to random numbers."""
    (shape,) = network.input_shapes(step)
    rng = np.random.default_rng(0)
    sizes = [n or 1 for n in shape[1:]]
    a, b = rng.normal(size=(2, 2, *sizes))

    def run(x):
        return _at(lambda v: step.call(step.operation, dict.fromkeys(step.inputs.values(), v))[0], x)

    try:
        constant = run(0 * a)
        # A cap that is reached by large values alone is no affine function.
        trials = [[run(scale * x) for x in (a, b, 2 * a - b)] for scale in (1, 30, 1000)]
    except (TypeError, ValueError, tf.errors.OpError):
        return None
    if not all(np.isfinite(v).all() for v in (constant, *(v for trial in trials for v in trial))):
        return None
    if all(_is_affine(constant, *trial) for trial in trials):
        return AFFINE
    order = rng.permutation(int(np.prod(sizes)))
    first = trials[0][0]
    if first.shape == a.shape:
        moved = run(a.reshape(2, -1)[:, order].reshape(a.shape))
        if np.allclose(moved.reshape(2, -1), first.reshape(2, -1)[:, order], rtol=1e-4, atol=1e-5):
            return ACTIVATION
    return None


def _is_affine(constant: np.ndarray, first: np.ndarray, second: np.ndarray, together: np.ndarray) -> bool:
    """Whether f(2a - b) - c = 2 (f(a) - c) - (f(b) - c), c = f(0)."""
    wanted = 2 * (first - constant) - (second - constant)
    return np.allclose(together - constant, wanted, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(wanted).max()))


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


def is_elementwise(function: Callable[[Any], Any]) -> bool:
    """Whether a function treats each value alone, tried with random numbers."""
    if isinstance(function, layers.PReLU):
        return True  # with slopes of its own for each place
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    return bool(np.allclose(_at(function, np.roll(x, 1, axis=1)), np.roll(_at(function, x), 1, axis=1), atol=1e-5))


def _at(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """The function's numbers, even while a graph is traced."""
    with tf.init_scope():
        return tf.cast(function(tf.constant(x, tf.float32)), tf.float32).numpy()


def _is_softmax(function: Callable) -> bool:
    return getattr(function, "__name__", "") in ("softmax", "softmax_v2")


def rectifier(function: Callable[[Any], Any]) -> str:
    """What an elementwise function is: "relu" (the ReLU exactly, capped or not), "smooth" (it rises without end, and
    less to the left: SiLU, GELU, ELU, leaky ReLU, softplus) or "" (sigmoid, tanh, ...)."""
    if isinstance(function, layers.PReLU):
        return "smooth"
    x = np.linspace(-8, 8, 129)
    y, ends = _at(function, x), _at(function, np.array([-60.0, -50.0, 50.0, 60.0]))
    cap = ends[3] if ends[3] < 59 else np.inf
    if np.abs(y - np.clip(x, 0, cap)).max() < 1e-3:
        return "relu"
    left, right = (ends[1] - ends[0]) / 10, (ends[3] - ends[2]) / 10
    return "smooth" if right > 0.1 and left < 0.99 * right else ""


def is_nonnegative(function: Callable[[Any], Any]) -> bool:
    """Whether an elementwise function has no negative values."""
    return not isinstance(function, layers.PReLU) and bool((_at(function, np.linspace(-8, 8, 129)) >= 0).all())


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
    function = applied_activation(network, step)
    if function is None:
        return False
    return not is_elementwise(function) or not rectifier(function)


# Replacing a backward pass ------------------------------------------------------------------------------------------


def relay(inputs: Sequence[Any], outputs: Sequence[Any], backward: Callable[..., Sequence[Any]]) -> list[Any]:
    """``outputs``, through which ``backward(*signals of the outputs) -> signals of the inputs`` goes in place of the
    gradient. A signal None stops there."""
    fixed = [tf.stop_gradient(y) for y in outputs]

    @tf.custom_gradient
    def forward(*xs):
        def gradient(*signals):
            found = list(backward(*signals))
            return found[0] if len(xs) == 1 else found

        return [tf.identity(y) for y in fixed], gradient

    return list(forward(*inputs))


def back(function: Callable[..., Any], inputs: Sequence[Any], signal: Any) -> list[Any]:
    """The gradients of ``function(*inputs)`` by its inputs, weighted by ``signal``."""
    inputs = [tf.identity(x) for x in inputs]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        result = function(*inputs)
    return tape.gradient(result, inputs, output_gradients=signal, unconnected_gradients="zero")


# Linear layers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linear:
    """``z = apply(x, kernel) + bias``; ``spread`` shapes one number for each output channel to the kernel, and
    ``sums`` says that the kernel's last axis but one is that of the input's channels, which are summed."""

    apply: Callable[[Any, Any], Any]
    kernel: Any
    bias: Any | None
    spread: Callable[[Any], Any] | None
    sums: bool = False

    def __call__(self, x: Any) -> Any:
        z = self.apply(x, self.kernel)
        return z if self.bias is None else with_bias(z, self.bias)

    def back(self, x: Any, kernel: Any, signal: Any) -> Any:
        """``signal`` carried back to ``x`` through ``kernel``."""
        return back(lambda v: self.apply(v, kernel), [x], signal)[0]


def with_bias(z: Any, bias: Any) -> Any:
    """z + bias, of which TensorFlow makes one operation with the convolution that made z."""
    return tf.nn.bias_add(z, bias) if len(bias.shape) == 1 else z + bias


def linear_parts(operation: Any) -> list[Callable[[], Linear]] | None:
    """The linear operations that a layer does one after the other (makers, because weights are read when a pass runs);
    None for a layer that is not a learned linear one."""
    for known, parts in _LINEAR_PARTS.items():
        if isinstance(operation, known) and type(operation).call is known.call and _channels_last(operation):
            return parts(operation)
    return None


def _channels_last(layer: Any) -> bool:
    return getattr(layer, "data_format", "channels_last") == "channels_last"


def _bias(layer: Any) -> Any | None:
    return None if layer.bias is None else tf.cast(layer.bias, tf.float32)


def _as_is(scale: Any) -> Any:
    return scale


def _dense(layer: Any) -> list[Callable[[], Linear]]:
    return [lambda: Linear(ops.matmul, tf.cast(layer.kernel, tf.float32), _bias(layer), _as_is, sums=True)]


def _einsum_dense(layer: Any) -> list[Callable[[], Linear]]:
    def apply(x, kernel):
        return ops.einsum(layer.equation, x, kernel)

    return [lambda: Linear(apply, tf.cast(layer.kernel, tf.float32), _bias(layer), None)]


def _conv(layer: Any) -> list[Callable[[], Linear]] | None:
    if layer.padding == "causal":
        return None

    def apply(x, kernel):
        return ops.conv(x, kernel, list(layer.strides), layer.padding, "channels_last", layer.dilation_rate)

    sums = layer.groups == 1
    return [lambda: Linear(apply, tf.cast(layer.kernel, tf.float32), _bias(layer), _as_is, sums)]


def _per_filter(kernel: Any) -> Callable[[Any], Any]:
    """Output channels of a depthwise kernel (..., channels, multiplier) in their order."""
    return lambda scale: tf.reshape(scale, kernel.shape[-2:])


def _apply_depthwise(layer: Any) -> Callable[[Any, Any], Any]:
    def apply(x, kernel):
        return ops.depthwise_conv(x, kernel, layer.strides, layer.padding, "channels_last", layer.dilation_rate)

    return apply


def _depthwise(layer: Any) -> list[Callable[[], Linear]]:
    def make():
        kernel = tf.cast(layer.kernel, tf.float32)
        return Linear(_apply_depthwise(layer), kernel, _bias(layer), _per_filter(kernel))

    return [make]


def _separable(layer: Any) -> list[Callable[[], Linear]]:
    def depthwise():
        kernel = tf.cast(layer.depthwise_kernel, tf.float32)
        return Linear(_apply_depthwise(layer), kernel, None, _per_filter(kernel))

    def pointwise():
        kernel = tf.cast(layer.pointwise_kernel, tf.float32)
        return Linear(lambda x, k: ops.conv(x, k, data_format="channels_last"), kernel, _bias(layer), _as_is, True)

    return [depthwise, pointwise]


def _transposed(layer: Any) -> list[Callable[[], Linear]]:
    def apply(x, kernel):
        return ops.conv_transpose(
            x,
            kernel,
            strides=list(layer.strides),
            padding=layer.padding,
            output_padding=layer.output_padding,
            data_format="channels_last",
            dilation_rate=layer.dilation_rate,
        )

    return [lambda: Linear(apply, tf.cast(layer.kernel, tf.float32), _bias(layer), lambda scale: scale[:, None])]


_LINEAR_PARTS: dict[type, Callable[[Any], list[Callable[[], Linear]] | None]] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.Conv1D: _conv,
    layers.Conv2D: _conv,
    layers.DepthwiseConv2D: _depthwise,
    layers.SeparableConv2D: _separable,
    layers.Conv2DTranspose: _transposed,
}


def batch_norm_affine(layer: Any) -> tuple[Any, Any]:
    """Scale and shift of a batch norm in inference: ``y = scale * x + shift`` on its axis."""
    scale = tf.math.rsqrt(tf.cast(layer.moving_variance, tf.float32) + layer.epsilon)
    scale = scale if layer.gamma is None else scale * tf.cast(layer.gamma, tf.float32)
    shift = -scale * tf.cast(layer.moving_mean, tf.float32)
    return scale, shift if layer.beta is None else shift + tf.cast(layer.beta, tf.float32)


def with_batch_norm(part: Linear, layer: Any) -> Linear:
    """A linear operation and the batch norm behind it as one linear operation."""
    scale, shift = batch_norm_affine(layer)
    bias = shift if part.bias is None else part.bias * scale + shift
    return replace(part, kernel=part.kernel * part.spread(scale), bias=bias)


def folded_source(network: Network, known: dict[Step, str], step: Step) -> Step | None:
    """The linear layer that a batch norm can be folded into: the one right before it, without activation."""
    (producer,) = network.producers(step)
    if producer is None or known.get(producer) != LINEAR or applied_activation(network, producer) is not None:
        return None
    axis, rank = step.operation.axis, len(network.shapes[step.outputs[0]])
    foldable = axis in (-1, rank - 1) and linear_parts(producer.operation)[-1]().spread is not None
    return producer if foldable and not network.is_head(producer) else None


# Attention ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttentionParts:
    """How a method computes what attention is made of. Values are what the method carries: a tensor, or several."""

    linear: Callable[[Any, Linear], Any]
    matmul: Callable[[Any, Any], Any]
    softmax: Callable[[Any], Any]
    scale: Callable[[float, Any], Any]
    move: Callable[[Callable[[Any], Any], Any], Any]  # applies a function that only moves values


def attention(step: Step, inputs: Sequence[Any], parts: AttentionParts, method: str) -> list[Any]:
    """Multi-head attention written out: the tokens, and the probabilities if the layer returns them.

    For `xaiutils.models.vit.SelfAttention` and ``keras.layers.MultiHeadAttention`` without masks, on tokens
    ``(n, tokens, width)``.
    """
    layer = step.operation
    if isinstance(layer, SelfAttention):
        query = key = value = inputs[0]
        projections = [linear_parts(dense)[0]() for dense in (layer.query, layer.key, layer.value, layer.out)]
        heads, with_scores = layer.heads, True
    else:
        query, value, key, with_scores = _attention_arguments(step, inputs, method)
        heads = layer.num_heads
        inwards = (layer._query_dense, layer._key_dense, layer._value_dense)
        projections = [_flat_projection(d, False) for d in inwards] + [_flat_projection(layer._output_dense, True)]

    def split(x):  # (n, tokens, heads * size) -> (n, heads, tokens, size)
        return tf.transpose(tf.reshape(x, (-1, x.shape[1], heads, x.shape[2] // heads)), (0, 2, 1, 3))

    def turn(x):
        return tf.transpose(x, (0, 1, 3, 2))

    def merge(x):
        return tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (-1, x.shape[2], x.shape[1] * x.shape[3]))

    size = projections[0].kernel.shape[-1] // heads
    query, key, value = (
        parts.move(split, parts.linear(x, projection))
        for x, projection in zip((query, key, value), projections, strict=False)
    )
    scores = parts.scale(size**-0.5, parts.matmul(query, parts.move(turn, key)))
    probabilities = parts.softmax(scores)
    tokens = parts.linear(parts.move(merge, parts.matmul(probabilities, value)), projections[3])
    return [tokens, probabilities] if with_scores else [tokens]


def _attention_arguments(step: Step, inputs: Sequence[Any], method: str) -> tuple[Any, Any, Any, bool]:
    """query, value, key, and whether probabilities are returned."""
    layer = step.operation
    given = iter(inputs)
    args, kwargs = step.arguments.convert(lambda x: next(given) if isinstance(x, keras.KerasTensor) else x)
    names = ("query", "value", "key", "query_mask", "value_mask", "key_mask", "attention_mask")
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    masked = any(named.get(name) is not None for name in names[3:]) or named.get("use_causal_mask")
    unusual = getattr(layer, "_use_gate", False) or getattr(layer, "_sliding_window", None) is not None
    if masked or unusual or tuple(layer._attention_axes) != (1,) or len(layer._query_dense.kernel.shape) != 3:
        raise no_rule(method, step, " with masks, gates or several attention axes")
    key = named.get("key")
    scores = bool(named.get("return_attention_scores"))
    return named["query"], named["value"], named["value"] if key is None else key, scores


def _flat_projection(dense: Any, outwards: bool) -> Linear:
    """A projection of MultiHeadAttention, (width, heads, size) or outwards (heads, size, width), as a Dense layer."""
    kernel = tf.cast(dense.kernel, tf.float32)
    kernel = tf.reshape(kernel, (-1, kernel.shape[-1]) if outwards else (kernel.shape[0], -1))
    bias = None if dense.bias is None else tf.reshape(tf.cast(dense.bias, tf.float32), (-1,))
    return Linear(ops.matmul, kernel, bias, _as_is, sums=True)


# A pass ---------------------------------------------------------------------------------------------------------------

TARGETS = tf.TensorSpec([None], tf.int32)


def input_signal(
    network: Network, key: Any, rule: Callable[[Any], Rule], seed: Callable[[Any, Any], Any]
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Function (images, targets) -> what arrives at the images, ``(n, height, width, 3)``.

    ``rule(images)`` makes the rule of one pass, and ``seed(logits, targets)`` what goes in at the logits. Compiled
    once under ``key``.
    """

    def build():
        @tf.function(input_signature=[network.image_spec, TARGETS], autograph=False)
        def run(images, targets):
            with network.in_float32():
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(images)
                    logits, _ = network.forward(images, [], rule=rule(images))
                found = tape.gradient(logits, images, output_gradients=seed(logits, targets))
            if found is None:
                raise ModelError("the model cuts the way back to its input (does it cast to integers?); use occlusion.")
            return found

        return lambda images, targets: run(images, targets).numpy()

    return network.compiled(key, build)


def target_logit(logits: Any, targets: Any) -> Any:
    """The seed of a gradient: 1 at the target's logit."""
    return tf.one_hot(targets, logits.shape[-1])
