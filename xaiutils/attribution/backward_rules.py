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
from xaiutils.graph.network import ModelError, Network, Rule
from xaiutils.graph.passes import NO_GRADIENT
from xaiutils.graph.tiers import tiered


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


TARGETS = tf.TensorSpec([None], tf.int32)


def input_signal(
    network: Network,
    key: Any,
    rule: Callable[..., Rule | None],
    seed: Callable[[Any, Any], Any],
    more: Sequence[tf.TensorSpec] = (),
) -> Callable[..., np.ndarray]:
    """Function (images, targets) -> what arrives at the images, ``(n, height, width, C)``.

    ``rule(images)`` makes the rule of one pass, and ``seed(logits, targets)`` what goes in at the logits. The function
    takes ``more`` arguments of these specs, one row for each image, and hands them to ``rule``. Compiled once under
    ``key``.
    """

    def build():
        def run(images, targets, *given):
            with network.in_float32():
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(images)
                    logits, _ = network.forward(images, [], rule=rule(images, *given))
                found = tape.gradient(logits, images, output_gradients=seed(logits, targets))
            if found is None:
                raise ModelError(NO_GRADIENT)
            return found

        compiled = tiered(network, run, [network.image_spec, TARGETS, *more])
        return lambda *given: compiled(*given).numpy()

    return network.compiled(key, build)


def layer_signals(
    network: Network,
    key: Any,
    layers: Sequence[str],
    rule: Callable[[Any], Rule | None],
    seed: Callable[[Any, Any], Any],
) -> Callable[[np.ndarray, np.ndarray], list[tuple[Any, Any]]]:
    """Function (images, targets) -> the output of each of ``layers`` (paths) and what arrives at it, both as the layer
    has them; ``key``, ``rule`` and ``seed`` are as in `input_signal`. ModelError where nothing arrives."""

    def build():
        def run(images, targets):
            with network.in_float32():
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    logits, outputs = network.forward(images, layers, tape.watch, rule(images))
                found = tape.gradient(logits, outputs, output_gradients=seed(logits, targets))
            lost = [path for path, signal in zip(layers, found, strict=True) if signal is None]
            if lost:
                raise ModelError(f"no relevance comes back to layer {lost[0]!r} (is it a gate's?); choose another one.")
            return list(zip(outputs, found, strict=True))

        return tiered(network, run, [network.image_spec, TARGETS])

    return network.compiled(key, build)


def target_logit(logits: Any, targets: Any) -> Any:
    """The seed of a gradient: 1 at the target's logit."""
    return tf.one_hot(targets, logits.shape[-1])
