"""DeepLIFT: what the change from a baseline to the image adds, layer by layer."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xaiutils.attribution.backward_rules import TARGETS, narrow, relay, target_logit
from xaiutils.attribution.baselines import BASELINE, BASELINE_IMAGE, chosen_baselines, score_above_baseline
from xaiutils.attribution.method import SHARES, Method
from xaiutils.backend import tf
from xaiutils.graph.layers.activations import applied_activation, is_elementwise, rectifier
from xaiutils.graph.layers.attention_parts import AttentionParts, attention
from xaiutils.graph.layers.batch_norm import folded_source, folding, with_batch_norm
from xaiutils.graph.layers.linear import Linear, back
from xaiutils.graph.layers.norms import Norm
from xaiutils.graph.layers.step_kinds import kinds, norm_of, softmax_axis
from xaiutils.graph.layers.table import (
    ACTIVATION,
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
    SMALLEST,
    SOFTMAX,
    linear_parts,
)
from xaiutils.graph.network import ModelError, Network, Step
from xaiutils.graph.passes import NO_GRADIENT, batches, fetched, reduce_channels
from xaiutils.graph.tiers import tiered
from xaiutils.registry import Parameter


def deep_lift(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    rule: str,
    baseline: str,
    baseline_image: np.ndarray | None,
    reduction: str,
) -> np.ndarray:
    """Multipliers m times the difference x - x' to a baseline, summed over channels (Shrikumar et al. 2017,
    arXiv:1704.02685), or reduced as ``reduction`` says.

    Maps so summed sum to S(x) - S(x') (summation to delta), S the logit. With D for a difference between image and
    baseline:

    - Linear operations (dense, convolution, batch norm, average pooling, addition, ...): the gradient.
    - ``rule="rescale"``: elementwise activations have m = Dy / Dz, and their derivative where Dy is but rounding.
    - ``rule="reveal_cancel"``: where the activation follows a linear layer (or a batch norm folded into it), Dz is the
      sum Dz+ of that layer's positive contributions w_i Dx_i and Dz- of its negative ones. Each gets its own
      multiplier Dy+ / Dz+ and Dy- / Dz-, where Dy+ is the mean effect of adding Dz+ before and after Dz-, and Dy- the
      rest. Activations after anything else (an addition) are rescaled.
    - Products (gates, attention): both factors at the mean of image and baseline, so D(ab) = Da mean(b) + mean(a) Db
      (Shapley values of two factors).
    - Softmax p_i = exp(s_i - log sum exp(s)) and LayerNorm (x - mean) * rsqrt(var + epsilon): rescale rule and
      product rule on what they are made of, in closed form.
    - The logarithm of a probability that several members make, and the caller's own score of the logits: their
      derivatives' mean on the straight path.
    - Max pooling: a rise goes to the largest value of the image, a fall to that of the baseline, from every window.
      captum 0.9 passes the gradient where a ReLU stands right before the pooling, and keeps one of overlapping windows
      elsewhere: on ResNet-50 its maps miss up to a third of the difference, those here 5e-6; with both mended
      its maps are these to 3e-4 (benchmarks/methods.md).

    ``baseline`` and ``baseline_image`` are as in integrated_gradients. Cost: a forward pass of the baseline (once for
    "black" and "white", or one given image), and one forward and backward pass of the image.
    """
    start = chosen_baselines(images, baseline, baseline_image)
    shared = np.ptp(start, axis=0).max() == 0  # one baseline for all images
    run = _shares(network, rule)
    stream = batches(len(images), batch_size, "DeepLIFT")
    shares = fetched(run(images[b], start[:1] if shared else start[b], targets[b]) for b in stream)
    return np.concatenate([reduce_channels(found, reduction) for found in shares])


def _shares(network: Network, rule: str) -> Callable[[np.ndarray, np.ndarray, np.ndarray], tf.Tensor]:
    """Function (images, baselines (n or 1), targets) -> differences times multipliers, of the images' shape."""

    def build():
        known = kinds(network, "deep_lift")

        def run(images, baselines, targets):
            with network.in_float32():
                reference = _Reference(network, known)
                reveal = rule == "reveal_cancel"  # which looks into the batch norm itself
                fold = (lambda r: r) if reveal else (lambda r: folding(network, r))
                network.forward(baselines, [], rule=fold(reference))
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(images)
                    lift = _DeepLift(network, known, reference, reveal)
                    scores, _ = network.forward(images, [], rule=fold(lift))
                found = tape.gradient(scores, images, output_gradients=target_logit(scores, targets))
            if found is None:
                raise ModelError(NO_GRADIENT)
            return (images - baselines) * found

        return tiered(network, run, [network.image_spec, network.image_spec, TARGETS])

    return network.compiled(("deep_lift", rule), build)


class _Reference:
    """A rule that remembers the baseline's inputs of every step, and the last linear operation of linear layers."""

    def __init__(self, network: Network, known: dict[Step, str]):
        self._network, self._known = network, known
        self.inputs: dict[Step, list[Any]] = {}
        self.linear: dict[Step, tuple[Any, Any]] = {}  # its input and its result

    def __call__(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        inputs, compute = [tf.cast(x, tf.float32) for x in inputs], narrow(compute)
        self.inputs[step] = inputs
        if self._known[step] != LINEAR:
            return compute(inputs)
        x, _, z = _last_linear(step, *inputs)
        self.linear[step] = x, z
        function = applied_activation(self._network, step)
        return [z if function is None else function(z)]


def _last_linear(step: Step, x: Any) -> tuple[Any, Linear, Any]:
    """The last linear operation of a layer: its input, itself and its result; ``x`` enters the layer."""
    *first, last = (make() for make in linear_parts(step.operation) or ())
    for part in first:
        x = part(x)
    return x, last, last(x)


class _DeepLift:
    """The rule of the image's pass; every tensor t of it has its baseline's t0 in ``reference``."""

    def __init__(self, network: Network, known: dict[Step, str], reference: _Reference, reveal: bool):
        self._network, self._known, self._reference, self._reveal = network, known, reference, reveal
        self._linear: dict[Step, tuple[Any, Any, Linear]] = {}  # input, its baseline's, operation

    def __call__(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        inputs, compute = [tf.cast(x, tf.float32) for x in inputs], narrow(compute)
        kind, references = self._known[step], self._reference.inputs[step]
        if kind == LINEAR:
            return [self._linear_layer(step, inputs[0])]
        if kind == ACTIVATION:
            function = applied_activation(self._network, step)
            assert function is not None  # an ACTIVATION step applies one
            return [self._activation(function, inputs[0], references[0], self._source(step))]
        if kind == SOFTMAX:
            return [_softmax(inputs[0], references[0], softmax_axis(self._network, step))]
        if kind == LAYER_NORM:
            norm = norm_of(self._network, step)
            return [_normalised(norm, inputs[0], references[0], lambda x: compute([x])[0])]
        if kind in (MAX_POOL, LARGEST, SMALLEST):
            return _extreme(compute, inputs, references, largest=kind != SMALLEST)
        if kind == MATMUL or (kind == PRODUCT and len(inputs) == 2):
            return [_product(lambda a, b: compute([a, b])[0], *inputs, *references)]
        if kind == PRODUCT:
            (y, y0), *others = zip(inputs, references, strict=True)
            for x, x0 in others:
                y, y0 = _product(tf.multiply, y, x, y0, x0), y0 * x0
            return [y]
        if kind == ATTENTION:
            pairs = list(zip(inputs, references, strict=True))
            return [y for y, _ in attention(step, pairs, _PAIRS, "deep_lift")]
        if kind in (LOG_PROBABILITY, SCORE):
            return relay(inputs, compute(inputs), lambda m: _mean_slope(step.operation, inputs, references, m))
        return compute(inputs)  # linear operations: the gradient

    def _linear_layer(self, step: Step, x: Any) -> Any:
        x, part, z = _last_linear(step, x)
        x0, z0 = self._reference.linear[step]
        self._linear[step] = x, x0, part
        function = applied_activation(self._network, step)
        if function is None:
            return z
        if not is_elementwise(function, z.shape[1:]):
            return _softmax(z, z0)
        return self._activation(function, z, z0, (x, x0, part))

    def _source(self, step: Step) -> tuple[Any, Any, Linear] | None:
        """The linear operation right before an activation, a batch norm between them folded in."""
        (producer,), norm = self._network.producers(step), None
        if self._reveal and producer is not None and self._known[producer] == BATCH_NORM:
            norm, producer = producer, folded_source(self._network, self._known, producer)
        if not self._reveal or producer not in self._linear:
            return None
        if applied_activation(self._network, producer) is not None:
            return None
        x, x0, part = self._linear[producer]
        return x, x0, part if norm is None else with_batch_norm(part, norm.operation)

    def _activation(self, applied: Callable, z: Any, z0: Any, source: tuple | None) -> Any:
        def function(x):
            return tf.cast(applied(x), tf.float32)

        if self._reveal and source is not None:
            return _reveal_cancel(function, z, z0, *source)
        y = function(z)
        if rectifier(applied, z.shape[1:]) == "relu":  # whose Dy is not rounded, however small Dz is
            return relay([z], [y], lambda m: [_through(m, y - function(z0), z - z0, function, z)])[0]
        return relay([z], [y], lambda m: [_rescaled(m, y, function(z0), z, z0, function)])[0]


_NEAR = 1e-6  # a difference between image and baseline that is none


def _rescaled(m: Any, y: Any, y0: Any, z: Any, z0: Any, function: Callable) -> Any:
    """m times Dy / Dz. Where Dz is small Dy is rounded off, so the derivative's mean is taken (Gauss' two points) where
    it agrees with the quotient to that rounding, as it does unless a kink lies between."""
    by = z - z0
    near, quotient = tf.abs(by) < _NEAR, m * (y - y0) / by
    middle, off = (z + z0) / 2, by / np.sqrt(12)
    mean = (back(function, [middle - off], m)[0] + back(function, [middle + off], m)[0]) / 2
    rounding = 4 * np.finfo(np.float32).eps * tf.abs(m) * (tf.abs(y) + tf.abs(y0))
    return tf.where(near | (tf.abs((quotient - mean) * by) <= rounding), mean, quotient)


def _through(m: Any, difference: Any, by: Any, function: Callable, z: Any) -> Any:
    """m times difference / by, the slope of an elementwise function; times its derivative where ``by`` vanishes."""
    # Where 0 is divided by 0 the derivative is chosen, and nothing differentiates this.
    return tf.where(tf.abs(by) < _NEAR, back(function, [z], m)[0], m * difference / by)


def _reveal_cancel(function: Callable, z: Any, z0: Any, x: Any, x0: Any, part: Linear) -> Any:
    """The activation, whose multipliers go straight to the input x of the linear operation before it."""

    def backward(m):
        positive, negative = tf.nn.relu(part.kernel), -tf.nn.relu(-part.kernel)
        dx = x - x0
        up, down = tf.nn.relu(dx), -tf.nn.relu(-dx)
        rise = part.apply(up, positive) + part.apply(down, negative)  # Dz+
        fall = part.apply(up, negative) + part.apply(down, positive)  # Dz-
        y0, y = function(z0), function(z0 + rise + fall)
        y_rise, y_fall = function(z0 + rise), function(z0 + fall)
        m_rise = _through(m, (y_rise - y0 + y - y_fall) / 2, rise, function, z)
        m_fall = _through(m, (y_fall - y0 + y - y_rise) / 2, fall, function, z)
        at_up = part.back(x, positive, m_rise) + part.back(x, negative, m_fall)
        at_down = part.back(x, negative, m_rise) + part.back(x, positive, m_fall)
        return [tf.where(dx > 0, at_up, tf.where(dx < 0, at_down, (at_up + at_down) / 2))]

    return relay([x], [function(z)], backward)[0]


def _product(function: Callable[[Any, Any], Any], a: Any, b: Any, a0: Any, b0: Any) -> Any:
    """A product of two factors, of any kind that is linear in each: D(ab) = Da mean(b) + mean(a) Db."""
    return relay([a, b], [function(a, b)], lambda m: back(function, [(a + a0) / 2, (b + b0) / 2], m))[0]


def _mean_slope(function: Callable[..., Any], inputs: Sequence[Any], references: Sequence[Any], m: Any) -> list[Any]:
    """The mean of m times the derivatives on the straight path from the references, by a fine quadrature."""
    points, weights = np.polynomial.legendre.leggauss(32)

    def along(x, scale):  # (n, ...) -> (points * n, ...)
        scale = tf.cast(tf.reshape(scale, (-1, *[1] * len(x.shape))), x.dtype)
        return tf.reshape(scale * x[None], tf.concat([[-1], tf.shape(x)[1:]], 0))

    at = []
    for x, x0 in zip(inputs, references, strict=True):
        at.append(along(x0 + tf.zeros_like(x), np.ones(32)) + along(x - x0, (points + 1) / 2))
    found = back(function, at, along(m, weights / 2))
    return [
        tf.reduce_sum(tf.reshape(g, tf.concat([[32], tf.shape(x)], 0)), axis=0)
        for g, x in zip(found, inputs, strict=True)
    ]


def _softmax(s: Any, s0: Any, axis: Any = -1) -> Any:
    """exp(s_i - L), L = log sum exp(s): the rescale rule at the two exponentials and the logarithm.

    Every slope is a logarithmic mean (u - v) / (log u - log v), which is taken in logarithms, so nothing overflows.
    """

    def log_mean(u, v):  # of exp(u) and exp(v)
        gap = tf.abs(u - v)
        near = gap < 1e-4
        ratio = -tf.math.expm1(-gap) / tf.where(near, tf.ones_like(gap), gap)
        return tf.maximum(u, v) + tf.where(near, -gap / 2, tf.math.log(tf.where(near, tf.ones_like(gap), ratio)))

    L, L0 = (tf.reduce_logsumexp(v, axis=axis, keepdims=True) for v in (s, s0))

    def backward(m):
        m_exp = m * tf.exp(log_mean(s - L, s0 - L0))
        share = tf.exp(log_mean(s, s0) - log_mean(L, L0))
        return [m_exp - share * tf.reduce_sum(m_exp, axis=axis, keepdims=True)]

    return relay([s], [tf.exp(s - L)], backward)[0]


def _normalised(norm: Norm, x: Any, x0: Any, function: Callable[[Any], Any]) -> Any:
    """gamma * c * r + beta, r a function of the mean square v: the product rule for c * r, and for the squares in v;
    the slope of r is Dr / Dv."""
    y = function(x)

    def backward(m):
        m = m * norm.gamma
        x0_ = x0 + tf.zeros_like(x)
        (c, d, r), (c0, d0, r0) = (
            (norm.centre(v), norm.deviation(v), norm.rate(v, w)) for v, w in ((x, y), (x0_, function(x0_)))
        )
        v, v0 = norm.average(d * d), norm.average(d0 * d0)
        if norm.epsilon is not None:
            slope = -((r * r0) ** 2) / (r + r0)  # of rsqrt(v + epsilon)
        else:
            near = tf.abs(v - v0) <= 1e-4 * (v + v0)
            slope = tf.math.divide_no_nan(tf.where(near, -r / 2, r - r0), tf.where(near, v, v - v0))
        of_spread = (d + d0) * slope * norm.average(m * (c + c0) / 2)
        m_c = m * (r + r0) / 2
        m_c = m_c - norm.average(m_c) if norm.centred else m_c
        return [m_c + (of_spread - norm.average(of_spread) if norm.by_deviation else of_spread)]

    return relay([x], [y], backward)[0]


def _extreme(compute: Callable, inputs: Sequence[Any], references: Sequence[Any], largest: bool) -> list[Any]:
    """The largest (smallest) of some values: a rise goes to the largest value of the image (the smallest of the
    baseline), a fall to that of the baseline (of the image)."""

    def function(*xs):
        return compute(list(xs))[0]

    y = function(*inputs)

    def backward(m):
        wide = [x0 + tf.zeros_like(x) for x, x0 in zip(inputs, references, strict=True)]
        dy = y - function(*wide)
        rise, fall = (inputs, wide) if largest else (wide, inputs)
        up, down = (
            back(function, rise, m * tf.nn.relu(dy)),
            back(function, fall, m * -tf.nn.relu(-dy)),
        )
        pairs = zip(up, down, inputs, wide, strict=True)
        return [tf.math.divide_no_nan(a + b, x - x0) for a, b, x, x0 in pairs]

    return relay(inputs, [y], backward)


def _pair(function: Callable[[Any], Any], pair: Sequence[Any]) -> tuple[Any, Any]:
    return function(pair[0]), function(pair[1])


# Attention on pairs (image's tensor, baseline's tensor).
_PAIRS = AttentionParts(
    linear=lambda pair, part: _pair(part, pair),
    matmul=lambda a, b: (_product(tf.matmul, a[0], b[0], a[1], b[1]), tf.matmul(a[1], b[1])),
    softmax=lambda s: (_softmax(*s), tf.nn.softmax(s[1])),
    scale=lambda factor, pair: _pair(lambda x: factor * x, pair),
    move=_pair,
    turn=_pair,
)

DEEP_LIFT = Method(
    name="deep_lift",
    title="DeepLIFT",
    family="backprop",
    paper="Shrikumar, Greenside & Kundaje 2017, arXiv:1704.02685",
    signed=True,
    cost="1 gradient, + 1 forward (reveal_cancel: about 3 gradients)",
    compute=deep_lift,
    needs="rules",
    check=lambda network: kinds(network, "deep_lift"),
    parameters=(
        Parameter(
            "rule",
            str,
            "rescale",
            "one multiplier for each activation, or one each for what raises and what lowers it",
            choices=("rescale", "reveal_cancel"),
        ),
        BASELINE,
        BASELINE_IMAGE,
        SHARES,
    ),
    total=score_above_baseline,
)
