"""Learned linear layers taken apart: ``z = apply(x, kernel) + bias``, and what batch norm adds to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xaiutils.backend import keras, tf

layers, ops = keras.layers, keras.ops


def back(function: Callable[..., Any], inputs: Sequence[Any], signal: Any) -> list[Any]:
    """The gradients of ``function(*inputs)`` by its inputs, weighted by ``signal``."""
    inputs = [tf.identity(x) for x in inputs]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        result = function(*inputs)
    return tape.gradient(result, inputs, output_gradients=signal, unconnected_gradients="zero")


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
        taken = isinstance(operation, known) and type(operation).call is known.call
        # A quantised layer rounds its input too, and its kernel is one of integers.
        if taken and _channels_last(operation) and getattr(operation, "quantization_mode", None) is None:
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
