"""What modified backward passes share: what each step of a graph does, and how its backward pass is replaced.

Guided backpropagation, DeepLIFT and layer-wise relevance propagation run the network forward as it is, and backward
with a rule of their own for each kind of step (`xaiutils.graph.layers`). A step with a rule becomes a `relay`: its
forward result, with a backward function in place of its gradient. What arrives at a tensor that several steps read is
summed by the gradient tape.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xaiutils.backend import tf
from xaiutils.graph.layers.activations import applied_activation, is_elementwise, is_nonnegative, rectifier
from xaiutils.graph.layers.attention_parts import AttentionParts, attention
from xaiutils.graph.layers.batch_norm import folded_source, with_batch_norm
from xaiutils.graph.layers.linear import Linear, back, with_bias
from xaiutils.graph.layers.step_kinds import is_gate, is_learned_before, kind_of, kinds, norm_of, softmax_axis
from xaiutils.graph.layers.table import (
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
    layer_type,
    linear_parts,
    no_rule,
)
from xaiutils.graph.network import ModelError, Network, Rule

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
    "folded_source",
    "input_signal",
    "is_elementwise",
    "is_gate",
    "is_learned_before",
    "is_nonnegative",
    "kind_of",
    "kinds",
    "layer_type",
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
