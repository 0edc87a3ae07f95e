"""LibraGrad: gradients by a balanced backward pass (Mehri, Baghshah & Pilehvar 2025, CVPR, arXiv:2411.16760).

A step y = F(x) is FullGrad-complete where y = J x + what its own biases give, J its derivative; in a network of such
steps x * dS/dx and the biases' shares add up to the logit S, as they do in a ReLU network (`full_grad`). GELU,
LayerNorm and attention are not: J x is too much or too little. LibraGrad leaves the forward pass as it is, and prunes
and scales on the way back:

- a gated activation y = x g(x) takes g for a constant: g is Phi of GELU, the sigmoid of SiLU;
- attention takes its probabilities for constants, so that nothing goes back through queries and keys;
- LayerNorm and its kin (groups, RMS, unit length) take the rate 1 / deviation for a constant, but not the mean;
- each of the n factors of a product takes 1 / n of its gradient, as in a gated MLP.

These are the formulas of the authors' code. Ours, for networks that it does not have: any activation phi with
phi(0) = 0 is gated, by g = phi(x) / x; a factor that is a gate (squeeze and excitation, `is_gate`) or comes out of a
softmax is a constant, and the other factor takes all. An activation with phi(0) != 0 (sigmoid, softplus), a softmax
that is no factor, and scores made of logits keep their derivative. Nothing changes in a network of linear layers, ReLU
and pooling. The authors start from the softmax's probability, here every method starts from the logit.

Integrated gradients are complete by the true derivative along their path, so they do not take this one.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from xaiutils.attribution.method import SignalPass, Signals
from xaiutils.backend import tf
from xaiutils.graph.layers.activations import applied_activation, is_elementwise, keeps_scale, values_at
from xaiutils.graph.layers.attention_parts import AttentionParts, attention
from xaiutils.graph.layers.step_kinds import is_bounded, is_gate, kinds, norm_of
from xaiutils.graph.layers.table import ACTIVATION, ATTENTION, LAYER_NORM, LINEAR, MATMUL, PRODUCT, linear_parts
from xaiutils.graph.network import Network, Rule, Step
from xaiutils.graph.passes import activations_and_gradients
from xaiutils.registry import Parameter

_NAME = "balanced=True"
_NEAR_0 = 1e-4  # where phi(x) / x is taken at x = 0

BALANCED = Parameter(
    "balanced", bool, False, "LibraGrad's backward pass (arXiv:2411.16760): complete in transformers too"
)


def balanced_network(network: Network) -> Network:
    """The network with LibraGrad's backward pass: it computes the same, and has other gradients. ModelError in the name
    of the step that no rule is known of."""
    return network.compiled("balanced", lambda: network.with_rule(_balance(network)))


def gradients_by_balance(parameters: Mapping[str, Any]) -> SignalPass:
    """The pass of activations and gradients, balanced if ``parameters`` say so."""
    return _balanced_gradients if parameters["balanced"] else activations_and_gradients


def _balanced_gradients(network: Network, layers: Sequence[str]) -> Signals:
    return activations_and_gradients(balanced_network(network), layers)


def _balance(network: Network) -> Rule:
    known = kinds(network, _NAME)
    found = {step: _rule(network, known, step) for step in known}

    def rule(step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        own = found.get(step)
        return compute(inputs) if own is None else own(step, inputs, compute)

    return rule


def _rule(network: Network, known: dict[Step, str], step: Step) -> Rule | None:
    """How a step is computed; None for as it is."""
    kind = known[step]
    if kind == ATTENTION:
        return _of_attention
    if kind == LAYER_NORM:
        return partial(_of_norm, network)
    if kind == PRODUCT:
        return partial(_of_product, [is_gate(network, known, step, i) for i in range(len(step.reads))])
    if kind == MATMUL:
        bounded = [is_bounded(network, known, producer) for producer in network.producers(step)]
        return partial(_of_product, [False] * len(bounded) if all(bounded) else bounded)
    function = applied_activation(network, step) if kind in (ACTIVATION, LINEAR) else None
    shape = network.shapes[step.outputs[0]][1:]
    if function is None or not is_elementwise(function, shape) or keeps_scale(function, shape):
        return None
    if abs(values_at(function, np.zeros(1), shape)[0]) > 1e-6:
        return None
    return partial(_of_activation if kind == ACTIVATION else _of_fused_activation, function)


def _with_gradient_of(other: Any, y: Any) -> Any:
    """y, with the gradient of another tensor."""
    return tf.stop_gradient(y) + tf.cast(other - tf.stop_gradient(other), y.dtype)


def _gated(function: Callable[[Any], Any], x: Any) -> Any:
    """x g, g = phi(x) / x being a constant."""
    apart = tf.where(x == 0, tf.constant(_NEAR_0, x.dtype), x)
    return x * tf.stop_gradient(tf.cast(function(apart), x.dtype) / apart)


def _of_activation(function: Callable, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
    (y,) = compute(inputs)
    return [_with_gradient_of(_gated(function, tf.cast(inputs[0], tf.float32)), y)]


def _of_fused_activation(function: Callable, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
    z = tf.cast(inputs[0], tf.float32)  # as the parts are
    for make in linear_parts(step.operation) or ():
        z = make()(z)
    return [tf.cast(_with_gradient_of(_gated(function, z), function(z)), inputs[0].dtype)]


def _of_norm(network: Network, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
    (y,), norm, x = compute(inputs), norm_of(network, step), tf.cast(inputs[0], tf.float32)
    rate = tf.stop_gradient(norm.rate(x, tf.cast(y, tf.float32)))
    return [_with_gradient_of(norm.gamma * norm.centre(x) * rate + norm.beta, y)]


def _of_product(gates: list[bool], step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
    n = gates.count(False)
    outputs = compute([tf.stop_gradient(x) if gate else x for x, gate in zip(inputs, gates, strict=True)])
    return outputs if n < 2 else [_with_gradient_of(y / n, y) for y in outputs]


def _of_attention(step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
    found = attention(step, [tf.cast(x, tf.float32) for x in inputs], _PARTS, _NAME)
    return [tf.cast(y, inputs[0].dtype) for y in found]


_PARTS = AttentionParts(
    linear=lambda x, part: part(x),
    matmul=tf.matmul,
    softmax=lambda scores: tf.stop_gradient(tf.nn.softmax(scores)),
    scale=lambda factor, x: factor * x,
    move=lambda function, x: function(x),
    turn=lambda function, x: function(x),
)
