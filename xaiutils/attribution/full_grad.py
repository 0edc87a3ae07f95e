"""FullGrad: the logit as the gradient's share of the input plus its shares of all biases.

S = <x, dS/dx> + sum over steps of <b, dS/dy>, where a step of the network computes y = F(inputs) and b = y - J inputs
is its bias, J being F's derivative at these inputs (Srinivas & Fleuret 2019, arXiv:1905.00780). The sum telescopes, so
this is exact for any network. For a convolution b is its bias; for batch norm beta - mean * gamma / sqrt(var + eps);
for an activation phi the implicit bias phi(z) - phi'(z) z, 0 for ReLU; for a product a * c it is -a * c; and so on,
with no list of layer types: J inputs is computed by differentiating the vector-Jacobian product.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from xaiutils.attribution.method import Method
from xaiutils.backend import keras, tf
from xaiutils.graph.network import ModelError, Network, Step
from xaiutils.graph.passes import batches, class_scores, convolution_with_norm, foldable_norms
from xaiutils.graph.places import enlarged
from xaiutils.registry import Parameter

layers = keras.layers
_LINEAR = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv2DTranspose,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
    layers.Dense,
)
# F(c x) = c F(x) for c > 0, so that F(x) = J x: no bias. Known beforehand to save their J x, nothing else.
_HOMOGENEOUS = (
    layers.Add,
    layers.AveragePooling2D,
    layers.Concatenate,
    layers.Cropping2D,
    layers.Dropout,
    layers.Flatten,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling2D,
    layers.Identity,
    layers.LeakyReLU,
    layers.MaxPooling2D,
    layers.Permute,
    layers.Reshape,
    layers.ZeroPadding2D,
)
_ELEMENTWISE = (
    keras.activations.celu,
    keras.activations.elu,
    keras.activations.exponential,
    keras.activations.gelu,
    keras.activations.hard_sigmoid,
    keras.activations.hard_silu,
    keras.activations.leaky_relu,
    keras.activations.mish,
    keras.activations.relu6,
    keras.activations.selu,
    keras.activations.sigmoid,
    keras.activations.silu,
    keras.activations.softplus,
    keras.activations.softsign,
    keras.activations.tanh,
)
_NOISE = 1e-5  # a bias this much smaller than its step's output is rounding


def full_grad(network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, biases: str) -> np.ndarray:
    """psi(x * dS/dx) + sum over steps with a grid of psi(b * dS/dy), summed over channels, enlarged bilinearly.

    psi takes the absolute value, then min-max to [0, 1] over all positions and channels of a step for each image, as
    the authors do. Steps without a grid (Dense layers behind the pooling) count for completeness only; of tokens, the
    patch tokens are drawn. ``biases`` is "all", or "explicit" for the biases that layers hold (convolutions, Dense,
    batch norm): the same for a ReLU network whose input is not rescaled inside. A layer with a fused activation is one
    step.
    """

    def build():
        @tf.function(input_signature=[network.image_spec, tf.TensorSpec([None], tf.int32)], autograph=False)
        def run(batch, target):
            _, of_input, found = _decompose(network, batch, target, biases)
            by_place: dict[tuple, tf.Tensor] = {}
            for step, output, share in found:
                field = network.field_of(step) if output == 0 else None
                if field is not None:
                    part, at = _psi(field.to_grid(share)), (field.grid, field.place)
                    by_place[at] = by_place[at] + part if at in by_place else part
            parts = [enlarged(part, images.shape[1:3], place) for (_, place), part in by_place.items()]
            return tf.add_n([_psi(of_input), *parts])

        return run

    run = network.compiled(("full grad", biases, images.shape[1:3]), build)
    return np.concatenate([run(images[b], targets[b]).numpy() for b in batches(len(images), batch_size, "FullGrad")])


def full_grad_terms(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int = 32
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The target's logit ``(n,)``, and the terms that add up to it: "input" and each step's path, ``(n,)`` each."""

    def build():
        names: list[str] = []

        @tf.function(input_signature=[network.image_spec, tf.TensorSpec([None], tf.int32)], autograph=False)
        def run(batch, target):
            scores, of_input, found = _decompose(network, batch, target, "all")
            names[:] = ["input", *(step.path + (f" ({output})" if output else "") for step, output, _ in found)]
            shares = [of_input, *(share for _, _, share in found)]
            return scores, tf.stack([tf.reduce_sum(share, axis=range(1, len(share.shape))) for share in shares])

        return run, names

    run, names = network.compiled(("full grad terms", images.shape[1:3]), build)
    parts = [run(images[b], targets[b]) for b in batches(len(images), batch_size, "FullGrad")]
    scores = np.concatenate([part[0].numpy() for part in parts])
    return scores, dict(zip(names, np.concatenate([part[1].numpy() for part in parts], axis=1), strict=True))


def _decompose(
    network: Network, images: tf.Tensor, targets: tf.Tensor, biases: str
) -> tuple[tf.Tensor, tf.Tensor, list[tuple[Step, int, tf.Tensor]]]:
    """The target's logits, the input's share x * dS/dx, and for every step with a bias: the step, the number of its
    output, and the share b * dS/dy, in the output's shape."""
    found: list[tuple[Step, int, tf.Tensor, tf.Tensor]] = []
    # A convolution without a bias and the batch norm behind it are one convolution with the norm's bias.
    norms = {a: b for a, b in foldable_norms(network).items() if not a.operation.use_bias}
    biases_of: dict[Step, tf.Tensor] = {}
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)

        def rule(step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
            if step in norms:
                norm = norms[step]
                y, biases_of[norm] = convolution_with_norm(step.operation, norm.operation, inputs[0])
                return [y]
            if step in biases_of:
                outputs, of_step = inputs, [biases_of[step]]
            else:
                outputs, of_step = _with_biases(step, inputs, compute, biases)
            outputs = [tf.identity(y) for y in outputs]  # so that no output's gradient goes through another of the step
            for number, (y, bias) in enumerate(zip(outputs, of_step, strict=True)):
                if bias is not None:
                    tape.watch(y)
                    found.append((step, number, y, bias))
            return outputs

        scores = class_scores(network, network.forward(images, [], rule=rule)[0], targets, "logit")
        total = tf.reduce_sum(scores)
    of_input, *gradients = tape.gradient(total, [images, *(y for _, _, y, _ in found)])
    shares = [
        (step, number, tf.cast(bias, tf.float32) * tf.cast(g, tf.float32))
        for (step, number, _, bias), g in zip(found, gradients, strict=True)
        if g is not None
    ]
    return scores, tf.zeros_like(images) if of_input is None else images * of_input, shares


def _with_biases(
    step: Step, inputs: list[Any], compute: Callable, biases: str
) -> tuple[list[Any], list[tf.Tensor | None]]:
    """The outputs of a step, and the bias of each, of a shape that broadcasts to it; None for no bias."""
    operation = step.operation
    holds_bias = type(operation) in _LINEAR or type(operation) is layers.BatchNormalization
    if _is_homogeneous(operation) or (biases == "explicit" and not holds_bias):
        outputs = compute(inputs)
        return outputs, [None] * len(outputs)
    if type(operation) in _LINEAR and _is_plain(operation):
        return compute(inputs), [operation.bias]
    if type(operation) is layers.BatchNormalization and operation.axis in (-1, len(inputs[0].shape) - 1):
        nothing = tf.zeros([1] * (len(inputs[0].shape) - 1) + [inputs[0].shape[-1]], inputs[0].dtype)
        return compute(inputs), compute([nothing])  # affine in each element: its bias is what it makes of 0
    ceiling = _ceiling(operation)
    if ceiling is not None:
        (y,) = compute(inputs)
        return [y], [tf.where(y >= ceiling, tf.cast(ceiling, y.dtype), tf.zeros([], y.dtype))]
    if _is_elementwise(operation):
        return _with_elementwise_bias(inputs[0], compute)
    return _with_implicit_biases(step, inputs, compute)


def _is_homogeneous(operation: Any) -> bool:
    if type(operation) is layers.ReLU:
        return operation.max_value is None and operation.threshold == 0
    if type(operation) is layers.Activation:
        return operation.activation in (keras.activations.relu, keras.activations.linear)
    return type(operation) in _HOMOGENEOUS


def _ceiling(operation: Any) -> float | None:
    """Where a ReLU is cut off above, as that of EfficientNet-Lite is: its bias is this value there, and 0 elsewhere."""
    if type(operation) is layers.ReLU and operation.threshold == 0:
        return operation.max_value
    is_relu6 = type(operation) is layers.Activation and operation.activation is keras.activations.relu6
    return 6.0 if is_relu6 else None


def _is_elementwise(operation: Any) -> bool:
    if type(operation) is layers.Activation:
        return operation.activation in _ELEMENTWISE
    return type(operation) is layers.ReLU


def _with_elementwise_bias(x: tf.Tensor, compute: Callable) -> tuple[list[Any], list[tf.Tensor | None]]:
    """The bias phi(x) - phi'(x) x of a function of each element."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        (y,) = compute([x])
    return [y], [y - tape.gradient(y, x, unconnected_gradients="zero") * x]


def _is_plain(operation: Any) -> bool:
    activation = getattr(operation, "activation", None) or keras.activations.linear
    channels_last = getattr(operation, "data_format", None) in (None, "channels_last")
    return activation is keras.activations.linear and channels_last


def _with_implicit_biases(step: Step, inputs: list[Any], compute: Callable) -> tuple[list[Any], list[tf.Tensor | None]]:
    """The bias y - J inputs of any step.

    u -> (the gradient of <y, u> by the inputs) is linear with the matrix J^T; so its own derivative, applied to the
    inputs, is J inputs.
    """
    with tf.GradientTape(watch_accessed_variables=False, persistent=True) as outer:
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as inner:
            inner.watch(inputs)
            outputs = compute(inputs)
        seeds = [tf.ones_like(y) for y in outputs]
        outer.watch(seeds)
        pulled = [inner.gradient(y, inputs, u) for y, u in zip(outputs, seeds, strict=True)]
    biases: list[tf.Tensor] = []
    for y, seed, back in zip(outputs, seeds, pulled, strict=True):
        pairs = [(g, x) for g, x in zip(back, inputs, strict=True) if g is not None]
        try:
            linear = outer.gradient([g for g, _ in pairs], seed, [x for _, x in pairs]) if pairs else None
        except LookupError as error:
            raise ModelError(
                f"the bias of layer {step.path!r} cannot be found, since TensorFlow has no second derivative of it "
                f"({error}); use biases='explicit', or another method."
            ) from error
        biases.append(y if linear is None else y - linear)
    return outputs, [_without_rounding(bias, y) for bias, y in zip(biases, outputs, strict=True)]


def _without_rounding(bias: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """0 for images whose bias is nothing but rounding, which min-max would blow up to a full map."""
    axes = range(1, len(y.shape))
    size, scale = (tf.reduce_max(tf.abs(x), axis=axes, keepdims=True) for x in (bias, y))
    return tf.where(size > _NOISE * scale, bias, tf.zeros_like(bias))


def _psi(share: tf.Tensor) -> tf.Tensor:
    """Sum over channels of the absolute values after min-max to [0, 1] over each image's whole tensor."""
    size = tf.abs(share)
    low, high = tf.reduce_min(size, axis=(1, 2, 3)), tf.reduce_max(size, axis=(1, 2, 3))
    low, high = low[:, None, None], high[:, None, None]
    channels = tf.cast(tf.shape(share)[-1], tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(size, axis=-1) - channels * low, high - low)


FULL_GRAD = Method(
    name="full_grad",
    title="FullGrad",
    family="gradients",
    paper="Srinivas & Fleuret 2019, arXiv:1905.00780",
    signed=False,
    cost="1 gradient",
    compute=full_grad,
    parameters=(
        Parameter(
            "biases",
            str,
            "all",
            "those of every operation, or only the ones that layers hold",
            choices=("all", "explicit"),
        ),
    ),
)
