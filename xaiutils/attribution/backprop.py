"""Modified backward passes: guided backpropagation, deconvolution, DeepLIFT."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xaiutils.attribution import rules
from xaiutils.attribution.gradients import BASELINES, baseline_total, start_images
from xaiutils.attribution.method import METHODS, REDUCTION, SHARES, Method
from xaiutils.attribution.network import ModelError, Network, Step
from xaiutils.attribution.passes import batches, folding, reduce_channels
from xaiutils.backend import tf
from xaiutils.registry import Parameter

# Guided backpropagation and deconvolution -----------------------------------------------------------------------------


def guided_backprop(network, images, targets, batch_size, *, activations: str, reduction: str) -> np.ndarray:
    """The gradient of S, cut at every ReLU where it is negative (Springenberg et al. 2015, arXiv:1412.6806).

    Backward through y = relu(z) the signal g becomes ``relu(g) * [z > 0]``; through a capped ReLU (ReLU6)
    ``relu(g) * [0 < z < cap]``: the gradient's own gate, and a ReLU on the signal. Other layers pass gradients.
    ``activations="all"`` uses ``relu(g) * phi'(z)`` at SiLU, GELU, ELU, leaky ReLU and other smooth rectifiers phi,
    for which the paper has no rule; without it a model with such activations is refused. Sigmoids, tanh and softmax
    are passed as gradients.
    """
    found = rectified_gradients(network, images, targets, batch_size, "guided", activations)
    return reduce_channels(found, reduction)


def deconvolution(network, images, targets, batch_size, *, activations: str, reduction: str) -> np.ndarray:
    """Guided backpropagation without the gate of the forward pass (Zeiler & Fergus 2014, arXiv:1311.2901).

    Backward through y = relu(z) the signal g becomes ``relu(g)``, through a capped ReLU too: neither the sign of z nor
    the cap counts. Max pooling sends the signal to the largest value (the paper's switches). ``activations="all"``
    does so at smooth rectifiers; see `guided_backprop`.
    """
    found = rectified_gradients(network, images, targets, batch_size, "deconvolution", activations)
    return reduce_channels(found, reduction)


def rectified_gradients(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, method: str, activations: str = "relu"
) -> np.ndarray:
    """The signal of `guided_backprop` (``method="guided"``) or `deconvolution` at the images, all channels
    ``(n, height, width, 3)``."""
    title = "guided backpropagation" if method == "guided" else "deconvolution"
    _check_rectifiers(network, title, activations)

    def rule(step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        function = _rectifier_of(network, step)
        if function is None:
            return compute(inputs)
        (z,) = inputs
        for part in rules.linear_parts(step.operation) or ():
            z = part()(z)

        def backward(g):
            g = tf.nn.relu(g)
            return rules.back(function, [z], g) if method == "guided" else [g]

        return rules.relay([z], [function(z)], backward)

    run = rules.input_signal(network, ("rectified", method), lambda _: folding(network, rule), rules.target_logit)
    return np.concatenate([run(images[b], targets[b]) for b in batches(len(images), batch_size, title)])


def _rectifier_of(network: Network, step: Step) -> Callable | None:
    if rules.kind_of(network, step) not in (rules.LINEAR, rules.ACTIVATION):
        return None
    function = rules.applied_activation(network, step)
    return function if function is not None and rules.rectifier(function) else None


def _check_rectifiers(network: Network, title: str, activations: str) -> None:
    """The rule is the paper's for ReLUs alone; layers that may hide activations are refused."""

    def check():
        rules.kinds(network, title)
        functions = [(s.path, _rectifier_of(network, s)) for s in network.steps_to_logits]
        return [path for path, function in functions if function is not None and rules.rectifier(function) == "smooth"]

    smooth = network.compiled(("smooth rectifiers",), check)
    if smooth and activations == "relu":
        raise ModelError(
            f"{title} is defined for ReLU networks, and {smooth[0]!r} and {len(smooth) - 1} other layers have another "
            'activation (SiLU, GELU, ...). Use activations="all" for its generalisation to them, or a method on '
            "gradients, such as smoothgrad."
        )


# DeepLIFT -------------------------------------------------------------------------------------------------------------


def deep_lift(
    network, images, targets, batch_size, *, rule: str, baseline: str, baseline_image, reduction: str
) -> np.ndarray:
    """Multipliers m times the difference x - x' to a baseline, summed over channels (Shrikumar et al. 2017,
    arXiv:1704.02685), or reduced as ``reduction`` says.

    Maps so summed sum to S(x) - S(x') (summation to delta), S the logit. With D for a difference between image and
    baseline:

    - Linear operations (dense, convolution, batch norm, average pooling, addition, ...): the gradient.
    - ``rule="rescale"``: elementwise activations have m = Dy / Dz, and their derivative where abs(Dz) < 1e-6.
    - ``rule="reveal_cancel"``: where the activation follows a linear layer (or a batch norm folded into it), Dz is the
      sum Dz+ of that layer's positive contributions w_i Dx_i and Dz- of its negative ones. Each gets its own
      multiplier Dy+ / Dz+ and Dy- / Dz-, where Dy+ is the mean effect of adding Dz+ before and after Dz-, and Dy- the
      rest. Activations behind anything else (an addition) are rescaled.
    - Products (gates, attention): both factors at the mean of image and baseline, so D(ab) = Da mean(b) + mean(a) Db
      (Shapley values of two factors).
    - Softmax p_i = exp(s_i - log sum exp(s)) and LayerNorm (x - mean) * rsqrt(var + epsilon): rescale rule and
      product rule on what they are made of, in closed form.
    - The logarithm of a probability that several members make: its derivatives' mean on the straight path.
    - Max pooling: a rise goes to the largest value of the image, a fall to that of the baseline.

    ``baseline`` and ``baseline_image`` are as in integrated_gradients. Cost: a forward pass of the baseline (once for
    "black" and "white", or one given image), and one forward and backward pass of the image.
    """
    start = start_images(images, baseline, baseline_image)
    shared = np.ptp(start, axis=0).max() == 0  # one baseline for all images
    run = _multipliers(network, rule)
    maps = []
    for b in batches(len(images), batch_size, "DeepLIFT"):
        reference = start[:1] if shared else start[b]
        shares = (images[b] - start[b]) * run(images[b], reference, targets[b])
        maps.append(reduce_channels(shares, reduction))
    return np.concatenate(maps)


def _multipliers(network: Network, rule: str) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Function (images, baselines (n or 1), targets) -> multipliers of the images, same shape."""

    def build():
        known = rules.kinds(network, "deep_lift")

        @tf.function(input_signature=[network.image_spec, network.image_spec, rules.TARGETS], autograph=False)
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
                found = tape.gradient(scores, images, output_gradients=rules.target_logit(scores, targets))
            return tf.zeros_like(images) if found is None else found

        return lambda *arguments: run(*arguments).numpy()

    return network.compiled(("deep_lift", rule), build)


class _Reference:
    """A rule that remembers the baseline's inputs of every step, and the last linear operation of linear layers."""

    def __init__(self, network: Network, known: dict[Step, str]):
        self._network, self._known = network, known
        self.inputs: dict[Step, list[Any]] = {}
        self.linear: dict[Step, tuple[Any, Any]] = {}  # its input and its result

    def __call__(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        self.inputs[step] = inputs
        if self._known[step] != rules.LINEAR:
            return compute(inputs)
        (z,) = inputs
        for part in rules.linear_parts(step.operation):
            x, z = z, part()(z)
        self.linear[step] = x, z
        function = rules.applied_activation(self._network, step)
        return [z if function is None else function(z)]


class _DeepLift:
    """The rule of the image's pass; every tensor t of it has its baseline's t0 in ``reference``."""

    def __init__(self, network: Network, known: dict[Step, str], reference: _Reference, reveal: bool):
        self._network, self._known, self._reference, self._reveal = network, known, reference, reveal
        self._linear: dict[Step, tuple[Any, Any, rules.Linear]] = {}  # input, its baseline's, operation

    def __call__(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        kind, references = self._known[step], self._reference.inputs[step]
        if kind == rules.LINEAR:
            return [self._linear_layer(step, inputs[0])]
        if kind == rules.ACTIVATION:
            function = rules.applied_activation(self._network, step)
            return [self._activation(function, inputs[0], references[0], self._source(step))]
        if kind == rules.SOFTMAX:
            if getattr(step.operation, "axis", -1) not in (-1, len(inputs[0].shape) - 1):
                raise rules.no_rule("deep_lift", step, " on an axis that is not the last")
            return [_softmax(inputs[0], references[0])]
        if kind == rules.LAYER_NORM:
            return [_layer_norm(step, inputs[0], references[0], compute)]
        if kind == rules.MAX_POOL:
            return [_max_pool(lambda x: compute([x])[0], inputs[0], references[0])]
        if kind == rules.MATMUL or (kind == rules.PRODUCT and len(inputs) == 2):
            return [_product(lambda a, b: compute([a, b])[0], *inputs, *references)]
        if kind == rules.PRODUCT:
            (y, y0), *others = zip(inputs, references, strict=True)
            for x, x0 in others:
                y, y0 = _product(tf.multiply, y, x, y0, x0), y0 * x0
            return [y]
        if kind == rules.ATTENTION:
            pairs = list(zip(inputs, references, strict=True))
            return [y for y, _ in rules.attention(step, pairs, _PAIRS, "deep_lift")]
        if kind == rules.LOG_PROBABILITY:
            return rules.relay(inputs, compute(inputs), lambda m: _mean_slope(step.operation, inputs, references, m))
        return compute(inputs)  # linear operations: the gradient

    def _linear_layer(self, step: Step, z: Any) -> Any:
        for make in rules.linear_parts(step.operation):
            part = make()
            x, z = z, part(z)
        x0, z0 = self._reference.linear[step]
        self._linear[step] = x, x0, part
        function = rules.applied_activation(self._network, step)
        if function is None:
            return z
        if not rules.is_elementwise(function):
            return _softmax(z, z0)
        return self._activation(function, z, z0, (x, x0, part))

    def _source(self, step: Step) -> tuple[Any, Any, rules.Linear] | None:
        """The linear operation right before an activation, a batch norm between them folded in."""
        (producer,), norm = self._network.producers(step), None
        if self._reveal and producer is not None and self._known[producer] == rules.BATCH_NORM:
            norm, producer = producer, rules.folded_source(self._network, self._known, producer)
        if not self._reveal or producer not in self._linear:
            return None
        if rules.applied_activation(self._network, producer) is not None:
            return None
        x, x0, part = self._linear[producer]
        return x, x0, part if norm is None else rules.with_batch_norm(part, norm.operation)

    def _activation(self, function: Callable, z: Any, z0: Any, source: tuple | None) -> Any:
        if self._reveal and source is not None:
            return _reveal_cancel(function, z, z0, *source)
        y = function(z)
        return rules.relay([z], [y], lambda m: [_through(m, y - function(z0), z - z0, function, z)])[0]


def _through(m: Any, difference: Any, by: Any, function: Callable, z: Any) -> Any:
    """m times difference / by, the slope of an elementwise function; times its derivative where ``by`` vanishes."""
    near = tf.abs(by) < 1e-6
    return tf.where(near, rules.back(function, [z], m)[0], m * difference / tf.where(near, tf.ones_like(by), by))


def _reveal_cancel(function: Callable, z: Any, z0: Any, x: Any, x0: Any, part: rules.Linear) -> Any:
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

    return rules.relay([x], [function(z)], backward)[0]


def _product(function: Callable[[Any, Any], Any], a: Any, b: Any, a0: Any, b0: Any) -> Any:
    """A product of two factors, of any kind that is linear in each: D(ab) = Da mean(b) + mean(a) Db."""
    return rules.relay([a, b], [function(a, b)], lambda m: rules.back(function, [(a + a0) / 2, (b + b0) / 2], m))[0]


def _mean_slope(function: Callable[..., Any], inputs: Sequence[Any], references: Sequence[Any], m: Any) -> list[Any]:
    """The mean of m times the derivatives on the straight path from the references, by a fine quadrature."""
    points, weights = np.polynomial.legendre.leggauss(32)

    def along(x, scale):  # (n, ...) -> (points * n, ...)
        scale = tf.cast(tf.reshape(scale, (-1, *[1] * len(x.shape))), x.dtype)
        return tf.reshape(scale * x[None], tf.concat([[-1], tf.shape(x)[1:]], 0))

    at = []
    for x, x0 in zip(inputs, references, strict=True):
        at.append(along(x0 + tf.zeros_like(x), np.ones(32)) + along(x - x0, (points + 1) / 2))
    found = rules.back(function, at, along(m, weights / 2))
    return [
        tf.reduce_sum(tf.reshape(g, tf.concat([[32], tf.shape(x)], 0)), axis=0)
        for g, x in zip(found, inputs, strict=True)
    ]


def _softmax(s: Any, s0: Any) -> Any:
    """exp(s_i - L), L = log sum exp(s): the rescale rule at the two exponentials and the logarithm.

    Every slope is a logarithmic mean (u - v) / (log u - log v), which is taken in logarithms, so nothing overflows.
    """

    def log_mean(u, v):  # of exp(u) and exp(v)
        gap = tf.abs(u - v)
        near = gap < 1e-4
        ratio = -tf.math.expm1(-gap) / tf.where(near, tf.ones_like(gap), gap)
        return tf.maximum(u, v) + tf.where(near, -gap / 2, tf.math.log(tf.where(near, tf.ones_like(gap), ratio)))

    L, L0 = (tf.reduce_logsumexp(v, axis=-1, keepdims=True) for v in (s, s0))

    def backward(m):
        m_exp = m * tf.exp(log_mean(s - L, s0 - L0))
        share = tf.exp(log_mean(s, s0) - log_mean(L, L0))
        return [m_exp - share * tf.reduce_sum(m_exp, axis=-1, keepdims=True)]

    return rules.relay([s], [tf.exp(s - L)], backward)[0]


def _layer_norm(step: Step, x: Any, x0: Any, compute: Callable) -> Any:
    """gamma * c * r + beta, c = x - mean and r = rsqrt(mean(c^2) + epsilon): the product rule for c * r, and for c^2;
    the slope of rsqrt is -(r r0)^2 / (r + r0)."""
    layer = step.operation
    if list(layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]) not in ([-1], [len(x.shape) - 1]):
        raise rules.no_rule("deep_lift", step, " on axes that are not the last one")
    if getattr(layer, "rms_scaling", False):
        raise rules.no_rule("deep_lift", step, " with rms_scaling")

    def centred(v):
        c = v - tf.reduce_mean(v, axis=-1, keepdims=True)
        return c, tf.math.rsqrt(tf.reduce_mean(c * c, axis=-1, keepdims=True) + layer.epsilon)

    def backward(m):
        if layer.gamma is not None:
            m = m * tf.cast(layer.gamma, m.dtype)
        (c, r), (c0, r0) = centred(x), centred(x0)
        middle, slope = (c + c0) / 2, -((r * r0) ** 2) / (r + r0)
        m_c = m * (r + r0) / 2 + 2 * middle * slope * tf.reduce_mean(m * middle, axis=-1, keepdims=True)
        return [m_c - tf.reduce_mean(m_c, axis=-1, keepdims=True)]

    return rules.relay([x], compute([x]), backward)[0]


def _max_pool(function: Callable[[Any], Any], x: Any, x0: Any) -> Any:
    y, y0 = function(x), function(x0)

    def backward(m):
        dy = y - y0
        rise = rules.back(function, [x], m * tf.nn.relu(dy))[0]
        fall = rules.back(function, [x0 + tf.zeros_like(x)], m * -tf.nn.relu(-dy))[0]
        return [tf.math.divide_no_nan(rise + fall, x - x0)]

    return rules.relay([x], [y], backward)[0]


def _pair(function: Callable[[Any], Any], pair: Sequence[Any]) -> tuple[Any, Any]:
    return function(pair[0]), function(pair[1])


# Attention on pairs (image's tensor, baseline's tensor).
_PAIRS = rules.AttentionParts(
    linear=lambda pair, part: _pair(part, pair),
    matmul=lambda a, b: (_product(tf.matmul, a[0], b[0], a[1], b[1]), tf.matmul(a[1], b[1])),
    softmax=lambda s: (_softmax(*s), tf.nn.softmax(s[1])),
    scale=lambda factor, pair: _pair(lambda x: factor * x, pair),
    move=_pair,
)

_ACTIVATIONS = Parameter(
    "activations",
    str,
    "relu",
    "the paper's rule, for ReLU networks; all: generalised to SiLU, GELU and the like",
    choices=("relu", "all"),
)
METHODS.add(
    Method(
        name="guided_backprop",
        title="Guided backpropagation",
        family="backprop",
        paper="Springenberg, Dosovitskiy, Brox & Riedmiller 2015, arXiv:1412.6806",
        signed=False,
        cost="1 gradient",
        compute=guided_backprop,
        parameters=(_ACTIVATIONS, REDUCTION),
        suits=("cnn",),
    )
)
METHODS.add(
    Method(
        name="deconvolution",
        title="Deconvolution",
        family="backprop",
        paper="Zeiler & Fergus 2014, arXiv:1311.2901",
        signed=False,
        cost="1 gradient",
        compute=deconvolution,
        parameters=(_ACTIVATIONS, REDUCTION),
        suits=("cnn",),
    )
)
METHODS.add(
    Method(
        name="deep_lift",
        title="DeepLIFT",
        family="backprop",
        paper="Shrikumar, Greenside & Kundaje 2017, arXiv:1704.02685",
        signed=True,
        cost="1 gradient, + 1 forward (reveal_cancel: about 3 gradients)",
        compute=deep_lift,
        parameters=(
            Parameter(
                "rule",
                str,
                "rescale",
                "one multiplier for each activation, or one each for what raises and what lowers it",
                choices=("rescale", "reveal_cancel"),
            ),
            Parameter("baseline", str, "black", "the reference image", choices=BASELINES),
            Parameter(
                "baseline_image",
                np.ndarray,
                None,
                "a colour, an image or an image for each, in [0, 255], used instead of baseline",
            ),
            SHARES,
        ),
        total=baseline_total,
    )
)
