"""Layer-wise relevance propagation through a whole network: one forward pass, and one backward pass that carries
relevance in place of gradients.

What is not a learned linear layer has one rule, whatever rule the linear layers have:

- elementwise activations (ReLU, SiLU, GELU, ...): relevance passes unchanged, f(z) / z times what z contributes;
- batch norm directly after a linear layer: one linear operation with it; elsewhere an affine function;
- other affine functions (average pooling, addition, position embedding, LayerScale, ...): epsilon rule with a tiny
  epsilon; before the first learned layer (scaling of pixels) relevance passes, so a black pixel may have some;
- max pooling, the largest or smallest of several tensors: all to that input; reshaping, padding, cropping,
  concatenation: with the values;
- gates (squeeze and excitation: the smaller factor, or the one out of a sigmoid or softmax): constants, the other
  factor takes all; products of equals: half each, and gates too with ``gates="relevance"``;
- LayerNorm and its kin (groups, RMS, unit length, a Lambda that standardises images): the standard deviation taken as
  a constant, then epsilon rule (Ali et al. 2022, arXiv:2202.07304); before the first learned layer relevance passes;
- matrix products of attention, and other functions linear in each of two tensors: epsilon rule with half for each
  factor (rotary positions, which turn queries and keys before: epsilon rule), softmax p of s:
  R(s_i) = s_i (R(p_i) - p_i sum_k R(p_k)) (AttnLRP, Achtibat et al. 2024, arXiv:2402.05602);
- the logarithm of a probability that members make together: to the logits of the same class, by each member's share
  of the probability; their softmaxes' and sigmoids' normalisers are constants, so that one member's relevance is that
  of its logit;
- the caller's own score s of the logits z: z ds/dz for each logit. What inputs beside the image have is lost there.
"""

import dataclasses
from collections.abc import Callable, Set
from typing import Any

import numpy as np

from xaiutils.attribution.backward_rules import narrow, relay
from xaiutils.attribution.relevance.linear_rules import RULES, Settings, stabilised
from xaiutils.backend import keras, tf
from xaiutils.graph.layers.activations import applied_activation, is_elementwise, is_nonnegative
from xaiutils.graph.layers.attention_parts import AttentionParts, attention
from xaiutils.graph.layers.batch_norm import folded_source, with_batch_norm
from xaiutils.graph.layers.linear import Linear, back
from xaiutils.graph.layers.step_kinds import held_steps, is_gate, is_learned_before, norm_of, only_adds, softmax_axis
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
    SCORE,
    SELECT,
    SMALLEST,
    SOFTMAX,
    layer_type,
    linear_parts,
    no_rule,
)
from xaiutils.graph.network import Network, Step

# Rules of convolutions, of dense layers, and of the layer that reads the pixels ("": as the others).
COMPOSITES = {
    "epsilon": ("epsilon", "epsilon", ""),
    "z_plus": ("z_plus", "z_plus", ""),
    "alpha_beta": ("alpha_beta", "alpha_beta", ""),
    "gamma": ("gamma", "gamma", ""),
    "flat": ("flat", "flat", ""),
    "w2": ("w2", "w2", ""),
    "epsilon_plus": ("z_plus", "epsilon", ""),
    "epsilon_plus_flat": ("z_plus", "epsilon", "flat"),
    "epsilon_alpha_beta": ("alpha_beta", "epsilon", ""),
    "epsilon_alpha_beta_flat": ("alpha_beta", "epsilon", "flat"),
    "epsilon_gamma_box": ("gamma", "epsilon", "z_box"),
    "deep_taylor": ("z_plus", "z_plus", "z_box"),
}
_IGNORE_INPUT = ("flat", "w2")  # rules that give relevance to inputs that are 0


class Propagation:
    """The rule of one pass over ``images``; a new one for each trace.

    ``composite`` names the linear layers' rules (`COMPOSITES`), ``first`` that of the layer that reads the pixels
    instead. ``kept`` are layers whose own relevance is asked for, so that nothing is folded over them.
    """

    starts_with_numbers = False  # at the logits, in place of the score

    def __init__(
        self,
        network: Network,
        known: dict[Step, str],
        images: Any,
        composite: str,
        first: str,
        settings: Settings,
        kept: Set[Step] = frozenset(),
    ):
        self._network, self._known, self._images, self._settings, self._kept = network, known, images, settings, kept
        self._conv, self._dense, self._first = COMPOSITES[composite]
        self._first = first or self._first
        self._foldable: dict[Step, tuple[Any, Linear, str, Settings]] = {}
        self._handlers = {
            LINEAR: self._linear_layer,
            BATCH_NORM: self._batch_norm,
            LAYER_NORM: self._layer_norm,
            ATTENTION: self._attention,
            ACTIVATION: self._activation,
            SOFTMAX: self._softmax_layer,
            AFFINE: self._affine,
            PRODUCT: self._product,
            MATMUL: self._matmul_layer,
            LOG_PROBABILITY: self._log_probability,
            SCORE: self._score,
        }

    def _softmax(self, s: Any, axis: Any = -1) -> Any:
        return softmax(s, axis)

    def __call__(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        inputs = [tf.cast(x, tf.float32) for x in inputs]
        handler = self._handlers.get(self._known[step])
        compute = narrow(compute)
        return compute(inputs) if handler is None else handler(step, inputs, compute)  # no handler: values move

    # Linear layers -------------------------------------------------------------------------------------------------

    def _linear_layer(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        dense = layer_type(step.operation).dense
        rule = self._dense if dense else self._conv
        if self._first and not self._is_learned_before(step):
            rule = self._first
        settings = dataclasses.replace(
            self._settings,
            nonnegative=self._is_nonnegative(self._network.producers(step)[0]),
            bounds=lambda x: self._bounds(step, x),
        )
        (z,) = inputs
        for number, make in enumerate(linear_parts(step.operation) or ()):
            part = make()
            if number:  # the second of two linear operations
                settings = dataclasses.replace(settings, nonnegative=False)
                rule = self._conv
            x, z = z, linear(part, z, rule, settings)
        function = applied_activation(self._network, step)
        if function is None:
            if step not in self._kept:
                self._foldable[step] = x, part, rule, settings
            return [z]
        return [passed(z, function(z)) if is_elementwise(function, z.shape[1:]) else self._softmax(z)]

    def _batch_norm(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        source = folded_source(self._network, self._known, step)
        if source not in self._foldable:
            return self._affine(step, inputs, compute)
        x, part, rule, settings = self._foldable[source]
        part = with_batch_norm(part, step.operation)
        if step not in self._kept:
            self._foldable[step] = x, part, rule, settings
        return [linear(part, x, rule, settings)]

    def _bounds(self, step: Step, x: Any) -> tuple[Any, Any]:
        """The smallest and largest values that the input x of a step can have: those of a black and of a white image,
        where these enclose what other images give; else each image's own, and 0."""
        if not self._network.compiled(("bounds", step), lambda: is_bounded_by_extremes(self._network, step)):
            axes = list(range(1, len(x.shape)))
            low, high = (f(x, axis=axes, keepdims=True) for f in (tf.reduce_min, tf.reduce_max))
            return tf.zeros_like(x) + tf.minimum(low, 0.0), tf.zeros_like(x) + tf.maximum(high, 0.0)
        black = tf.zeros_like(self._images[:1])
        ends = [tf.cast(self._network.inputs_at(step, image)[0], tf.float32) for image in (black, black + 255)]
        return tf.minimum(*ends), tf.maximum(*ends)

    def _is_learned_before(self, step: Step) -> bool:
        return is_learned_before(self._network, self._known, step)

    def _is_nonnegative(self, step: Step | None) -> bool:
        """Whether a step's result has no negative values, whatever the image."""
        if step is None:
            return True
        kind = self._known[step]
        if kind in (ACTIVATION, LINEAR):
            function = applied_activation(self._network, step)
            if function is None:
                return False
            shape = self._network.shapes[step.outputs[0]][1:]
            return not is_elementwise(function, shape) or is_nonnegative(function, shape)
        if kind in (SELECT, MAX_POOL, LARGEST, SMALLEST):
            keeps_signs = layer_type(step.operation).pads != "values"
        else:
            keeps_signs = only_adds(step)
        if keeps_signs:
            return all(self._is_nonnegative(producer) for producer in self._network.producers(step))
        return False

    # The rest --------------------------------------------------------------------------------------------------------

    def _activation(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        (source,) = self._network.producers(step)
        if source not in self._foldable:
            return [passed(inputs[0], compute(inputs)[0])]
        x, part, rule, settings = self._foldable[source]
        # In one piece with what it reads, so that TensorFlow can fuse the two.
        return [linear(part, x, rule, settings, lambda z: compute([z])[0])]

    def _affine(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        def function(*xs):
            return compute(list(xs))[0]

        y = function(*inputs)

        def backward(R):
            constant = None
            if self._shares_by_weights(step):
                return shared_by_weights(function, inputs, R)
            if not self._settings.bias:
                constant = function(*(tf.zeros_like(x) for x in inputs))
            s = R / stabilised(y if constant is None else y - constant)
            return [x * g for x, g in zip(inputs, back(function, inputs, s), strict=True)]

        return relay(inputs, [y], backward)

    def _shares_by_weights(self, step: Step) -> bool:
        """Whether an affine function shares relevance by its weights alone: the scaling of pixels before the first
        learned layer, and all of them under rules that do not look at inputs."""
        shapes = self._network.input_shapes(step)
        scales = len(shapes) == 1 and shapes[0][1:] == self._network.shapes[step.outputs[0]][1:]
        return self._conv in _IGNORE_INPUT or (scales and not self._is_learned_before(step))

    def _layer_norm(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        norm, (x,) = norm_of(self._network, step), inputs
        (y,) = compute(inputs)
        if not getattr(step.operation, "weights", None) and not self._is_learned_before(step):
            return [passed(x, y)]  # the scaling of pixels
        rate = norm.rate(x, y)

        def with_fixed_rate(v):
            return norm.gamma * rate * norm.centre(v)

        def backward(R):
            s = R / stabilised(y - (0.0 if self._settings.bias else norm.beta))
            return [x * back(with_fixed_rate, [x], s)[0]]

        return relay([x], [y], backward)

    def _product(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        gates = [is_gate(self._network, self._known, step, i) for i in range(len(inputs))]
        if self._settings.gates == "relevance" and any(gates):
            if self._conv in _IGNORE_INPUT:
                why = f" with gates='relevance', because the rule {self._conv!r} does not look at what a gate scales"
                raise no_rule("LRP", step, why)
            held = held_steps(self._network)
            gates = [producer in held for producer in self._network.producers(step)]
        factors, outputs = gates.count(False), compute(inputs)
        spread = any(x.shape[1:] != outputs[0].shape[1:] for x, gate in zip(inputs, gates, strict=True) if not gate)
        if spread and len(inputs) == 2:  # an outer product
            return self._matmul_layer(step, inputs, compute)
        return relay(inputs, outputs, lambda R: [None if gate else R / factors for gate in gates])

    def _matmul_layer(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        a, b = inputs
        return [matmul(a, b, lambda a, b: compute([a, b])[0])]

    def _softmax_layer(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        return [self._softmax(inputs[0], softmax_axis(self._network, step))]

    def _log_probability(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        return relay(inputs, compute(inputs), lambda R: back(step.operation.shares, inputs, R))

    def _score(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        """Each logit's own part z * ds/dz of the score s; ds/dz alone where relevance starts with a number."""
        (z,), (s,) = inputs, compute(inputs)
        if self.starts_with_numbers:
            return [s]
        return relay([z], [s], lambda R: [z * back(step.operation, [z], R / stabilised(s))[0]])

    def _attention(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        if self._dense in _IGNORE_INPUT:
            raise no_rule("LRP", step, f", because the rule {self._dense!r} does not look at what attention joins")
        parts = AttentionParts(
            linear=lambda x, part: linear(part, x, self._dense, self._settings),
            matmul=matmul,
            softmax=self._softmax,
            scale=lambda factor, x: passed(x, factor * x),
            move=lambda function, x: function(x),
            turn=turned,
        )
        return attention(step, inputs, parts, "LRP")


def is_bounded_by_extremes(network: Network, step: Step) -> bool:
    """Whether what ``step`` reads lies between what it reads of a black and of a white image, tried on noise: so where
    pixels are scaled by constants, but not where an image's own mean, maximum or deviation scales it."""
    shape = (*(n or 96 for n in network.size_traced), network.channels)
    rng = np.random.default_rng(0)
    noise = [rng.uniform(0, 255, shape), rng.choice([0.0, 255.0], shape)]
    extremes = [np.zeros(shape), np.full(shape, 255.0)]
    with tf.init_scope():  # numbers are needed now, also within the trace of a pass
        images = tf.constant(np.stack([*extremes, *noise]), tf.float32)
        black, white, *others = tf.cast(network.inputs_at(step, images)[0], tf.float32).numpy()
    low, high = np.minimum(black, white), np.maximum(black, white)
    allowed = 1e-3 * np.max(high - low)
    return all(((low - allowed <= y) & (y <= high + allowed)).all() for y in others)  # of NaN False


def linear(part: Linear, x: Any, rule: str, settings: Settings, then: Callable[[Any], Any] = lambda z: z) -> Any:
    """The linear operation ``part`` of x, by a rule of `RULES`; ``then`` is what is done to each value of the result,
    and relevance passes it unchanged."""
    z = part(x)
    return relay([x], [then(z)], lambda R: [RULES[rule](part, x, z, R, settings)])[0]


def shared_by_weights(function: Callable, inputs: list[Any], R: Any) -> list[Any]:
    """Relevance of the inputs of an affine function: R_j shared as the weights w_ij. Where the weights sum to 0, as in
    x - mean(x), none can be shared so; it passes to the value at the same place, if there is one."""
    zeros = function(*(tf.zeros_like(x) for x in inputs))
    total = function(*(tf.ones_like(x) for x in inputs)) - zeros
    if len(inputs) > 1 or inputs[0].shape[1:] != R.shape[1:]:
        return back(function, inputs, tf.math.divide_no_nan(R, total))
    signs = tf.sign(tf.random.stateless_uniform(tf.shape(inputs[0]), (0, 0), -1.0, 1.0))
    cancels = tf.abs(total) < 1e-4 * tf.reduce_max(tf.abs(function(signs) - zeros))
    shared = tf.math.divide_no_nan(tf.where(cancels, tf.zeros_like(R), R), total)
    return [back(function, inputs, shared)[0] + tf.where(cancels, R, tf.zeros_like(R))]


def passed(x: Any, y: Any) -> Any:
    """y, whose relevance is that of x."""
    return relay([x], [y], lambda R: [R])[0]


def matmul(a: Any, b: Any, function: Callable[[Any, Any], Any] = tf.matmul) -> Any:
    """A product, linear in each of ``a`` and ``b``: by the epsilon rule, half of the relevance to each."""
    y = function(a, b)

    def backward(R):
        by_a, by_b = back(function, [a, b], R / stabilised(2 * y))
        return [a * by_a, b * by_b]

    return relay([a, b], [y], backward)[0]


def turned(function: Callable[[Any], Any], x: Any) -> Any:
    """A linear function of x without weights, by the epsilon rule."""
    y = function(x)
    return relay([x], [y], lambda R: [x * back(function, [x], R / stabilised(y))[0]])[0]


def softmax(s: Any, axis: Any = -1) -> Any:
    """softmax(s) = p, by the rule R(s_i) = s_i (R(p_i) - p_i sum_k R(p_k))."""
    several = isinstance(axis, list | tuple)  # Keras' own function has no batches of any size then
    p = tf.exp(s - tf.reduce_logsumexp(s, axis, keepdims=True)) if several else keras.ops.softmax(s, axis=axis)
    return relay([s], [p], lambda R: [s * (R - p * tf.reduce_sum(R, axis=axis, keepdims=True))])[0]
