"""Guided backpropagation and deconvolution: gradients that are rectified on their way back."""

from collections.abc import Callable
from typing import Any

import numpy as np

from xaiutils.attribution.backward_rules import input_signal, relay, target_logit
from xaiutils.attribution.method import REDUCTION, Method
from xaiutils.backend import keras, tf
from xaiutils.graph.layers.activations import applied_activation, is_elementwise, rectifier
from xaiutils.graph.layers.batch_norm import folding
from xaiutils.graph.layers.linear import back
from xaiutils.graph.layers.step_kinds import is_learned_before, kind_of
from xaiutils.graph.layers.table import ACTIVATION, LINEAR, layer_type, linear_parts, no_rule
from xaiutils.graph.network import ModelError, Network, Step
from xaiutils.graph.passes import batches, reduce_channels
from xaiutils.registry import Parameter

layers = keras.layers


def guided_backprop(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, activations: str, reduction: str
) -> np.ndarray:
    """The gradient of S, cut at every ReLU where it is negative (Springenberg et al. 2015, arXiv:1412.6806).

    Backward through y = relu(z) the signal g becomes ``relu(g) * [z > 0]``; through a capped ReLU (ReLU6)
    ``relu(g) * [0 < z < cap]``: the gradient's own gate, and a ReLU on the signal. Other layers pass gradients.
    ``activations="all"`` uses ``relu(g) * phi'(z)`` at SiLU, GELU, ELU, leaky ReLU and other smooth rectifiers phi,
    for which the paper has no rule; without it a model with such activations is refused. Sigmoids, tanh and softmax
    are passed as gradients.
    """
    found = rectified_gradients(network, images, targets, batch_size, "guided", activations)
    return reduce_channels(found, reduction)


def deconvolution(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, activations: str, reduction: str
) -> np.ndarray:
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
    ``(n, height, width, C)``."""
    title = "guided backpropagation" if method == "guided" else "deconvolution"
    known = _checked_rectifiers(network, title, activations)

    def rule(step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        if step not in known:
            return compute(inputs)
        function, _ = known[step]
        z = tf.cast(inputs[0], tf.float32)
        for part in linear_parts(step.operation) or ():
            z = part()(z)

        def narrow(x):
            return tf.cast(function(x), tf.float32)

        def backward(g):
            g = tf.nn.relu(g)
            return back(narrow, [z], g) if method == "guided" else [g]

        return relay([z], [narrow(z)], backward)

    run = input_signal(network, ("rectified", method), lambda _: folding(network, rule), target_logit)
    return np.concatenate([run(images[b], targets[b]) for b in batches(len(images), batch_size, title)])


def rectifiers(network: Network) -> dict[Step, tuple[Callable[[Any], Any], str]]:
    """The rectifier that a step applies, and `rectifier`'s name of it, of every step that applies one.

    What stands before the first learned layer prepares pixels and is no activation, even where it cuts values off.
    """

    def find() -> dict[Step, tuple[Callable[[Any], Any], str]]:
        known, found = {step: kind_of(network, step) for step in network.steps_to_logits}, {}
        for step, kind in known.items():
            if kind == LINEAR or (kind == ACTIVATION and is_learned_before(network, known, step)):
                function, shape = applied_activation(network, step), network.shapes[step.outputs[0]][1:]
                name = rectifier(function, shape) if function is not None and is_elementwise(function, shape) else ""
                if function is not None and name:
                    found[step] = function, name
        return found

    return network.compiled("rectifiers", find)


def _checked_rectifiers(network: Network, title: str, activations: str) -> dict[Step, tuple[Callable[[Any], Any], str]]:
    """The rule is the paper's for ReLUs alone; layers that may hide activations are refused, others need no rule."""
    with network.in_float32():
        for step in network.steps_to_logits:
            if kind_of(network, step) is None and _may_hide_a_rectifier(step.operation):
                raise no_rule(title, step, ", inside of which there may be activations")
        found = rectifiers(network)
    smooth = [step.path for step, (_, name) in found.items() if name == "smooth"]
    if smooth and activations == "relu":
        raise ModelError(
            f"{title} is defined for ReLU networks, and {smooth[0]!r} and {len(smooth) - 1} other layers have another "
            'activation (SiLU, GELU, ...). Use activations="all" for its generalisation to them, or a method on '
            "gradients, such as smoothgrad."
        )
    return found


def _may_hide_a_rectifier(operation: Any) -> bool:
    """Whether an operation that is not known could apply a rectifier: Keras' own have none but what they declare."""
    if type(operation).__module__.split(".")[0] != "keras" or layer_type(operation).opaque:
        return True
    parts = operation._flatten_layers() if isinstance(operation, layers.Layer) else ()
    functions = [getattr(part, "activation", None) for part in parts]
    return any(callable(f) and is_elementwise(f, (8,)) and rectifier(f) for f in functions)


_ACTIVATIONS = Parameter(
    "activations",
    str,
    "relu",
    "the paper's rule, for ReLU networks; all: generalised to SiLU, GELU and the like",
    choices=("relu", "all"),
)
GUIDED_BACKPROP = Method(
    name="guided_backprop",
    title="Guided backpropagation",
    family="backprop",
    paper="Springenberg, Dosovitskiy, Brox & Riedmiller 2015, arXiv:1412.6806",
    signed=False,
    cost="1 gradient",
    compute=guided_backprop,
    needs="rules",
    check=lambda network: _checked_rectifiers(network, "guided backpropagation", "relu"),
    parameters=(_ACTIVATIONS, REDUCTION),
    suits=("cnn",),
)

DECONVOLUTION = Method(
    name="deconvolution",
    title="Deconvolution",
    family="backprop",
    paper="Zeiler & Fergus 2014, arXiv:1311.2901",
    signed=False,
    cost="1 gradient",
    compute=deconvolution,
    needs="rules",
    check=lambda network: _checked_rectifiers(network, "deconvolution", "relu"),
    parameters=(_ACTIVATIONS, REDUCTION),
    suits=("cnn",),
)
