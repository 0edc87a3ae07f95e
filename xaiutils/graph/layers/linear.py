"""Learned linear layers taken apart: ``z = apply(x, kernel) + bias``.

Each function takes a Keras layer and returns the linear operations that it does one after the other, as makers, because
weights are read when a pass runs; None where it does something else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xaiutils.backend import keras, tf
from xaiutils.models.grouped_convolution import grouped_convolution

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
    """``z = apply(x, kernel) + bias``; ``spread`` shapes one number for each output channel to the kernel, ``sums``
    says that the kernel's last axis but one is that of the input's channels, which are summed, and ``pull``, where it
    is known, is `back`: a tape would run ``apply`` once more to get it."""

    apply: Callable[[Any, Any], Any]
    kernel: Any
    bias: Any | None
    spread: Callable[[Any], Any] | None
    sums: bool = False
    pull: Callable[[Any, Any, Any], Any] | None = None

    def __call__(self, x: Any) -> Any:
        z = self.apply(x, self.kernel)
        return z if self.bias is None else with_bias(z, self.bias)

    def scaled_kernel(self, scale: Any) -> Any:
        """The kernel times one number for each output channel."""
        if self.spread is None:
            raise TypeError("the kernel of this operation has no axis of output channels alone.")
        return self.kernel * self.spread(scale)

    def back(self, x: Any, kernel: Any, signal: Any) -> Any:
        """``signal`` carried back to ``x`` through ``kernel``."""
        if self.pull is not None:
            return self.pull(x, kernel, signal)
        return back(lambda v: self.apply(v, kernel), [x], signal)[0]


Parts = list[Callable[[], Linear]]


def with_bias(z: Any, bias: Any) -> Any:
    """z + bias, of which TensorFlow makes one operation with the convolution that made z."""
    return tf.nn.bias_add(z, bias) if len(bias.shape) == 1 else z + bias


def _bias(layer: Any) -> Any | None:
    return None if layer.bias is None else tf.cast(layer.bias, tf.float32)


def _as_is(scale: Any) -> Any:
    return scale


def dense(layer: Any) -> Parts:
    """``keras.layers.Dense``."""

    return [lambda: Linear(ops.matmul, tf.cast(layer.kernel, tf.float32), _bias(layer), _as_is)]


def einsum_dense(layer: Any) -> Parts:
    """``keras.layers.EinsumDense``."""

    def apply(x, kernel):
        return ops.einsum(layer.equation, x, kernel)

    return [lambda: Linear(apply, tf.cast(layer.kernel, tf.float32), _bias(layer), None)]


def convolution(layer: Any) -> Parts | None:
    """``Conv1D``, ``Conv2D``; not causal ones."""

    if layer.padding == "causal":
        return None

    def apply(x, kernel):
        if layer.groups > 1 and len(layer.kernel_size) == 2:
            return grouped_convolution(x, kernel, layer.strides, layer.padding, layer.dilation_rate)
        return ops.conv(x, kernel, list(layer.strides), layer.padding, "channels_last", layer.dilation_rate)

    pull = _pull(layer)
    apply = _lean(apply, pull)
    return [lambda: Linear(apply, tf.cast(layer.kernel, tf.float32), _bias(layer), _as_is, layer.groups == 1, pull)]


def _per_filter(kernel: Any) -> Callable[[Any], Any]:
    """Output channels of a depthwise kernel (..., channels, multiplier) in their order."""
    return lambda scale: tf.reshape(scale, kernel.shape[-2:])


def _depthwise(layer: Any, kernel: Any, bias: Any) -> Linear:
    def apply(x, kernel):
        return ops.depthwise_conv(x, kernel, layer.strides, layer.padding, "channels_last", layer.dilation_rate)

    pull, kernel = _pull(layer), tf.cast(kernel, tf.float32)
    return Linear(_lean(apply, pull), kernel, bias, _per_filter(kernel), pull=pull)


def _pull(layer: Any) -> Callable[[Any, Any, Any], Any] | None:
    """How a convolution in two dimensions carries a signal back, ``(x, kernel, signal)`` -> the signal of x."""
    if len(layer.kernel_size) != 2 or {*layer.dilation_rate} != {1} or getattr(layer, "groups", 1) != 1:
        return None
    strides, padding = [1, *layer.strides, 1], layer.padding.upper()
    if isinstance(layer, layers.Conv2D):
        return lambda x, kernel, signal: tf.nn.conv2d_transpose(signal, kernel, tf.shape(x), strides, padding)
    return lambda x, kernel, signal: tf.nn.depthwise_conv2d_backprop_input(
        tf.shape(x), kernel, signal, strides, padding
    )


def _lean(apply: Callable[[Any, Any], Any], pull: Callable | None) -> Callable[[Any, Any], Any]:
    """A convolution's ``apply`` with a gradient by x alone where it runs eagerly: a tape would take that by the kernel
    too, a third of its time for nothing. A graph drops it by itself."""
    if pull is None:
        return apply

    def lean(x, kernel):
        return tf.custom_gradient(lambda x: (apply(x, kernel), lambda signal: pull(x, kernel, signal)))(x)

    return lambda x, kernel: lean(x, kernel) if tf.executing_eagerly() else apply(x, kernel)


def depthwise_convolution(layer: Any) -> Parts:
    """``DepthwiseConv2D``."""

    return [lambda: _depthwise(layer, layer.kernel, _bias(layer))]


def separable_convolution(layer: Any) -> Parts:
    """``SeparableConv2D``: a depthwise convolution and one of 1 x 1."""

    def depthwise():
        return _depthwise(layer, layer.depthwise_kernel, None)

    def pointwise():
        kernel = tf.cast(layer.pointwise_kernel, tf.float32)
        return Linear(lambda x, k: ops.conv(x, k, data_format="channels_last"), kernel, _bias(layer), _as_is, True)

    return [depthwise, pointwise]


def transposed_convolution(layer: Any) -> Parts:
    """``Conv2DTranspose``."""

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
