"""What modified backward passes share: what each step of a graph does, and how its backward pass is replaced.

Guided backpropagation, DeepLIFT and layer-wise relevance propagation run the network forward as it is, and backward
with a rule of their own for each kind of step (`kind_of`). A step with a rule becomes a `relay`: its forward result,
with a backward function in place of its gradient. What arrives at a tensor that several steps read is summed by the
gradient tape.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.graph.layers.kinds import (
    ACTIVATION,
    AFFINE,
    ATTENTION,
    BATCH_NORM,
    LARGEST,
    LAYER_NORM,
    LINEAR,
    LOG_PROBABILITY,
    MATMUL,
    MAX_POOL,
    PRODUCT,
    SELECT,
    SMALLEST,
    SOFTMAX,
    applied_activation,
    folded_source,
    is_elementwise,
    is_gate,
    is_learned_before,
    is_nonnegative,
    kind_of,
    kinds,
    no_rule,
    norm_of,
    rectifier,
    softmax_axis,
)
from xaiutils.graph.layers.linear import Linear, back, batch_norm_affine, linear_parts, with_batch_norm, with_bias
from xaiutils.graph.network import ModelError, Network, Rule, Step
from xaiutils.models.vit import SelfAttention

__all__ = [
    "ACTIVATION",
    "AFFINE",
    "ATTENTION",
    "BATCH_NORM",
    "LARGEST",
    "LAYER_NORM",
    "LINEAR",
    "LOG_PROBABILITY",
    "MATMUL",
    "MAX_POOL",
    "PRODUCT",
    "SELECT",
    "SMALLEST",
    "SOFTMAX",
    "TARGETS",
    "AttentionParts",
    "Linear",
    "applied_activation",
    "attention",
    "back",
    "batch_norm_affine",
    "folded_source",
    "input_signal",
    "is_elementwise",
    "is_gate",
    "is_learned_before",
    "is_nonnegative",
    "kind_of",
    "kinds",
    "linear_parts",
    "narrow",
    "no_rule",
    "norm_of",
    "rectifier",
    "relay",
    "softmax_axis",
    "target_logit",
    "with_batch_norm",
    "with_bias",
]
layers, ops = keras.layers, keras.ops

# Replacing a backward pass ------------------------------------------------------------------------------------------


def narrow(compute: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], list[Any]]:
    """What ``compute`` gives, in float32: a layer of float64 casts what it is given itself."""
    return lambda inputs: [tf.cast(y, tf.float32) for y in compute(inputs)]


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
    return Linear(ops.matmul, kernel, bias, lambda scale: scale, sums=True)


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
