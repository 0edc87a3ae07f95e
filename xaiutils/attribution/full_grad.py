"""FullGrad: the logit as the gradient's share of the input plus its shares of all biases.

S = <x, dS/dx> + sum over steps of <b, dS/dy>, where a step of the network computes y = F(inputs) and b = y - J inputs
is its bias, J being F's derivative at these inputs (Srinivas & Fleuret 2019, arXiv:1905.00780). The sum telescopes, so
this is exact for any network. For a convolution b is its bias; for batch norm beta - mean * gamma / sqrt(var + eps);
for an activation phi the implicit bias phi(z) - phi'(z) z, 0 for ReLU; for a product a * c it is -a * c; and so on,
and where a layer's kind does not say it, J inputs is computed by differentiating the vector-Jacobian product.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from xaiutils.attribution.libra import BALANCED, balanced_network
from xaiutils.attribution.method import Method
from xaiutils.backend import tf
from xaiutils.graph.layers.activations import applied_activation, is_elementwise
from xaiutils.graph.layers.attention_parts import AttentionParts, attention
from xaiutils.graph.layers.batch_norm import convolution_with_norm, foldable_norms
from xaiutils.graph.layers.linear import back
from xaiutils.graph.layers.step_kinds import held_steps, is_homogeneous, kind_of, norm_of
from xaiutils.graph.layers.table import (
    ACTIVATION,
    AFFINE,
    ATTENTION,
    BATCH_NORM,
    HELD,
    LAYER_NORM,
    LINEAR,
    MATMUL,
    PRODUCT,
    SELECT,
    linear_parts,
)
from xaiutils.graph.network import ModelError, Network, Step
from xaiutils.graph.passes import NO_GRADIENT, batches, class_scores
from xaiutils.graph.places import enlarged
from xaiutils.graph.tiers import tiered
from xaiutils.registry import Parameter

# How a step is computed: (step, inputs, compute) -> its outputs, and what makes the bias of each, of a shape that
# broadcasts to it; None for no bias. Biases are made behind the pass, where no tape records them.
_Biases = Callable[[], list[Any]] | None
_BiasRule = Callable[[Step, list[Any], Callable[[list[Any]], list[Any]]], tuple[list[Any], _Biases]]
_NOISE = 1e-5  # a bias this much smaller than its step's output is rounding


def full_grad(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, biases: str, balanced: bool
) -> np.ndarray:
    """psi(x * dS/dx) + sum over steps with a grid of psi(b * dS/dy), summed over channels, enlarged bilinearly.

    psi takes the absolute value, then min-max to [0, 1] over all positions and channels of a step for each image, as
    the authors do. Steps without a grid (Dense layers after the pooling) count for completeness only; of tokens, the
    patch tokens are drawn. ``biases`` is "all", or "explicit" for the biases that layers hold (convolutions, Dense,
    batch norm): the same for a ReLU network whose input is not rescaled inside. A layer with a fused activation is one
    step. ``balanced`` takes the gradients of `xaiutils.attribution.libra`, under which attention, products and gated
    activations have no bias of their own.
    """
    network = balanced_network(network) if balanced else network

    def build():
        rules = _bias_rules(network, biases)

        def run(batch, target):
            _, of_input, found = _decompose(network, batch, target, rules)
            by_place: dict[tuple, tf.Tensor] = {}
            for step, output, share in found:
                field = network.field_of(step) if output == 0 else None
                if field is not None:
                    part, at = _psi(field.to_grid(share)), (field.grid, field.place)
                    by_place[at] = by_place[at] + part if at in by_place else part
            parts = [enlarged(part, images.shape[1:3], place) for (_, place), part in by_place.items()]
            return tf.add_n([_psi(of_input), *parts])

        return tiered(network, run, [network.image_spec, tf.TensorSpec([None], tf.int32)])

    run = network.compiled(("full grad", biases, images.shape[1:3]), build)
    return np.concatenate([run(images[b], targets[b]).numpy() for b in batches(len(images), batch_size, "FullGrad")])


def full_grad_terms(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int = 32
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The target's logit ``(n,)``, and the terms that add up to it: "input" and each step's path, ``(n,)`` each."""

    def build():
        names: list[str] = []
        rules = _bias_rules(network, "all")

        def run(batch, target):
            scores, of_input, found = _decompose(network, batch, target, rules)
            names[:] = ["input", *(step.path + (f" ({output})" if output else "") for step, output, _ in found)]
            shares = [of_input, *(share for _, _, share in found)]
            flat = [tf.reshape(share, (tf.shape(batch)[0], -1)) for share in shares]  # rows may be windows of images
            return scores, tf.stack([tf.reduce_sum(share, axis=1) for share in flat])

        return tiered(network, run, [network.image_spec, tf.TensorSpec([None], tf.int32)]), names

    run, names = network.compiled(("full grad terms", images.shape[1:3]), build)
    parts = [run(images[b], targets[b]) for b in batches(len(images), batch_size, "FullGrad")]
    scores = np.concatenate([part[0].numpy() for part in parts])
    return scores, dict(zip(names, np.concatenate([part[1].numpy() for part in parts], axis=1), strict=True))


def _decompose(
    network: Network, images: tf.Tensor, targets: tf.Tensor, rules: dict[Step, _BiasRule]
) -> tuple[tf.Tensor, tf.Tensor, list[tuple[Step, int, tf.Tensor]]]:
    """The target's logits, the input's share x * dS/dx, and for every step with a bias: the step, the number of its
    output, and the share b * dS/dy, in the output's shape."""
    found: list[tuple[Step, int, tf.Tensor]] = []
    made: dict[Step, Callable[[], list[Any]]] = {}
    # A convolution without a bias and the batch norm after it are one convolution with the norm's bias.
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
                made[step], outputs = lambda: [biases_of[step]], inputs
            else:
                outputs, biases = rules[step](step, inputs, compute)
                if biases is None:
                    return outputs
                made[step] = biases
            # So that no output's gradient goes through another of the step, nor through another image: what is the same
            # for all images, as an embedding of positions, has one row.
            several = images.shape[0] != 1
            outputs = [
                tf.repeat(y, tf.shape(images)[0], 0) if several and y.shape[0] == 1 else tf.identity(y) for y in outputs
            ]
            for number, y in enumerate(outputs):
                if y.dtype.is_floating:  # not positions that are looked up
                    tape.watch(y)
                    found.append((step, number, y))
            return outputs

        scores = class_scores(network, network.forward(images, [], rule=rule)[0], targets, "logit")
        total = tf.reduce_sum(scores)
    of_input, *gradients = tape.gradient(total, [images, *(y for _, _, y in found)])
    if of_input is None:  # the biases behind the cut share out the score, and the image has no part
        raise ModelError(NO_GRADIENT)
    shares, biases_of_step = [], functools.cache(lambda step: made[step]())
    for (step, number, _), g in zip(found, gradients, strict=True):
        bias = None if g is None else biases_of_step(step)[number]
        if bias is not None:
            shares.append((step, number, tf.cast(bias, tf.float32) * tf.cast(g, tf.float32)))
    return scores, images * of_input, shares


def _bias_rules(network: Network, biases: str) -> dict[Step, _BiasRule]:
    with network.in_float32():
        return {step: _bias_rule(network, step, biases) for step in network.steps_to_logits}


def _bias_rule(network: Network, step: Step, biases: str) -> _BiasRule:
    kind = kind_of(network, step)
    if kind == HELD:
        return _as_bias if _is_read_beside_the_image(network, step) else _without_bias
    if is_homogeneous(network, step) or (biases == "explicit" and kind not in (LINEAR, BATCH_NORM)):
        return _without_bias
    function = applied_activation(network, step)
    if kind == LINEAR and function is None:
        return _with_layer_bias
    if kind in (BATCH_NORM, AFFINE, SELECT):
        return _with_constant
    if network.has_own_rule:  # J is the derivative of what the rule makes of the step
        return _with_implicit_biases
    if kind == LINEAR and function is not None and is_elementwise(function, network.shapes[step.outputs[0]][1:]):
        return functools.partial(_with_fused_bias, function)
    if kind in (PRODUCT, MATMUL):
        return _of_product
    if kind == LAYER_NORM and norm_of(network, step).epsilon is not None:
        return functools.partial(_with_norm_bias, network)
    if kind == ATTENTION:
        return _of_attention
    return _with_elementwise_bias if kind == ACTIVATION else _with_implicit_biases


def _without_bias(step: Step, inputs: list[Any], compute: Callable) -> tuple[list[Any], _Biases]:
    return compute(inputs), None


def _is_read_beside_the_image(network: Network, step: Step) -> bool:
    held = held_steps(network)
    return any(step in network.producers(reader) for reader in network.steps_to_logits if reader not in held)


def _as_bias(step: Step, inputs: list[Any], compute: Callable) -> tuple[list[Any], _Biases]:
    """What does not depend on the image is a bias as a whole."""
    outputs = compute(inputs)
    return outputs, lambda: outputs


def _with_layer_bias(step: Step, inputs: list[Any], compute: Callable) -> tuple[list[Any], _Biases]:
    return compute(inputs), lambda: [[make() for make in linear_parts(step.operation) or ()][-1].bias]


def _with_fused_bias(function: Callable, step: Step, inputs: list[Any], compute: Callable) -> tuple[list[Any], _Biases]:
    """phi(z) - phi'(z) (z - b) of a linear layer z with the bias b and an activation of each element."""
    (y,) = compute(inputs)

    def biases():
        z, part = tf.cast(inputs[0], tf.float32), None  # whatever the layer computes in, its parts are of float32
        for make in linear_parts(step.operation) or ():
            part = make()
            z = part(z)
        linear = z if part is None or part.bias is None else z - part.bias
        return [tf.cast(function(z), tf.float32) - back(function, [z], linear)[0]]

    return [y], biases


def _with_constant(step: Step, inputs: list[Any], compute: Callable) -> tuple[list[Any], _Biases]:
    """The bias of an affine step is what it makes of 0."""
    return compute(inputs), lambda: compute([tf.zeros_like(x) for x in inputs])


def _of_product(step: Step, inputs: list[Any], compute: Callable) -> tuple[list[Any], _Biases]:
    """A function y that is linear in each of n tensors has J inputs = n y (Euler), and the bias (1 - n) y."""
    outputs = compute(inputs)
    return outputs, lambda: [(1 - len(inputs)) * y for y in outputs]


def _with_elementwise_bias(step: Step, inputs: list[Any], compute: Callable) -> tuple[list[Any], _Biases]:
    """The bias phi(x) - phi'(x) x of a function of each element."""
    (x,), (y,) = inputs, compute(inputs)
    return [y], lambda: [y - back(lambda v: compute([v])[0], [x], x)[0]]


def _with_norm_bias(network: Network, step: Step, inputs: list[Any], compute: Callable) -> tuple[list[Any], _Biases]:
    """A norm y = gamma c r + beta, r = rsqrt(v + epsilon), has J x = gamma c r (1 - v r^2) = (y - beta) epsilon r^2,
    since c grows as x and v as its square."""
    (x,), (y,) = inputs, compute(inputs)

    def biases():
        norm, at, result = norm_of(network, step), tf.cast(x, tf.float32), tf.cast(y, tf.float32)
        return [result - (result - norm.beta) * norm.epsilon * norm.rate(at, result) ** 2]

    return [y], biases


def _of_attention(step: Step, inputs: list[Any], compute: Callable) -> tuple[list[Any], _Biases]:
    """Attention carries the inputs along as its own change, which gives J inputs in one pass."""
    outputs = compute(inputs)

    def biases():
        pairs = [(x, x) for x in (tf.cast(x, tf.float32) for x in inputs)]
        try:
            carried = attention(step, pairs, _CHANGES, "FullGrad")
        except ModelError:  # one that cannot be taken apart
            return _implicit_biases(step, inputs, compute)
        return [_without_rounding(y - change, y) for y, change in carried]

    return outputs, biases


def _softmax_with_change(s: tuple[Any, Any]) -> tuple[Any, Any]:
    p = tf.nn.softmax(s[0])
    return p, p * (s[1] - tf.reduce_sum(p * s[1], axis=-1, keepdims=True))


# Attention on pairs (a tensor, its change when the inputs change).
_CHANGES = AttentionParts(
    linear=lambda pair, part: (part(pair[0]), part.apply(pair[1], part.kernel)),
    matmul=lambda a, b: (tf.matmul(a[0], b[0]), tf.matmul(a[1], b[0]) + tf.matmul(a[0], b[1])),
    softmax=_softmax_with_change,
    scale=lambda factor, pair: (factor * pair[0], factor * pair[1]),
    move=lambda function, pair: (function(pair[0]), function(pair[1])),
    turn=lambda function, pair: (function(pair[0]), function(pair[1])),
)


def _with_implicit_biases(step: Step, inputs: list[Any], compute: Callable) -> tuple[list[Any], _Biases]:
    """The bias y - J inputs of any step.

    u -> (the gradient of <y, u> by the inputs) is linear with the matrix J^T; so its own derivative, applied to the
    inputs, is J inputs.
    """
    return compute(inputs), lambda: _implicit_biases(step, inputs, compute)


def _implicit_biases(step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
    inputs = [tf.identity(x) for x in inputs]  # the tokens that are query and value are one tensor: each has its part
    with tf.GradientTape(watch_accessed_variables=False, persistent=True) as outer:
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as inner:
            inner.watch(inputs)
            outputs = compute(inputs)
        seeds = [tf.ones_like(y) for y in outputs]
        outer.watch(seeds)
        pulled = [inner.gradient(y, inputs, u) for y, u in zip(outputs, seeds, strict=True)]
    biases: list[tf.Tensor | None] = []
    for y, seed, signals in zip(outputs, seeds, pulled, strict=True):
        if not tf.as_dtype(y.dtype).is_floating:  # positions that are looked up
            biases.append(None)
            continue
        pairs = [(g, x) for g, x in zip(signals, inputs, strict=True) if g is not None]
        try:
            linear = outer.gradient([g for g, _ in pairs], seed, [x for _, x in pairs]) if pairs else None
        except LookupError as error:
            raise ModelError(
                f"the bias of layer {step.path!r} cannot be found, since TensorFlow has no second derivative of it "
                f"({error}); use biases='explicit', or another method."
            ) from error
        biases.append(y if linear is None else y - linear)
    return [None if b is None else _without_rounding(b, y) for b, y in zip(biases, outputs, strict=True)]


def _without_rounding(bias: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """0 for images whose bias is nothing but rounding, which min-max would blow up to a full map."""
    axes = range(1, len(y.shape))
    size, scale = (tf.reduce_max(tf.abs(x), axis=axes, keepdims=True) for x in (bias, y))
    return tf.where(size > _NOISE * scale, bias, tf.zeros_like(bias))


def _psi(share: tf.Tensor) -> tf.Tensor:
    """Sum over channels of the absolute values after min-max to [0, 1] over each image's whole tensor."""
    size = tf.abs(share)
    low, high = (tf.reshape(f(size, axis=(1, 2, 3)), [-1, 1, 1]) for f in (tf.reduce_min, tf.reduce_max))
    channels = tf.cast(tf.shape(share)[-1], tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(size, axis=-1) - channels * low, high - low)


FULL_GRAD = Method(
    name="full_grad",
    title="FullGrad",
    family="gradients",
    precision="float32",
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
        BALANCED,
    ),
)
