"""Class activation maps weighted by relevance: Relevance-CAM and XRelevance-CAM.

A is a layer's activation and R its relevance, both ``(n, rows, columns, channels)`` (of a transformer the patch tokens
on their grid). Relevance is propagated by the z+ rule (alpha 1, beta 0) in learned linear layers and by the epsilon
rule elsewhere (see `xaiutils.attribution.relevance.propagation`), from contrasted logits down to the layer and no
further. It starts with the numbers 1 and -1 / N, never with a logit, and biases take no relevance, as in the published
code: a constant added to all logits changes no probability, but would turn the sign of a start with logits and change
the biases' share. Maps keep their sign. ``gates`` is as in `lrp`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from xaiutils.attribution.backward_rules import layer_signals
from xaiutils.attribution.cam.weighted_sum import cam_of_weights
from xaiutils.attribution.method import SignalPass, Signals
from xaiutils.attribution.relevance.linear_rules import Settings, stabilised
from xaiutils.attribution.relevance.lrp import GATES
from xaiutils.attribution.relevance.propagation import Propagation
from xaiutils.attribution.relevance.seeds import at_logits
from xaiutils.backend import tf
from xaiutils.graph.layers.step_kinds import kinds
from xaiutils.graph.network import Network


def relevance_cam_weights(A: tf.Tensor, R: tf.Tensor) -> tf.Tensor:
    """sum_k w_k A_k, w_k the spatial mean of R_k (Lee et al. 2021, CVPR, "Relevance-CAM: your model already knows where
    to look").

    Relevance starts with 1 at the target and -1 / N at each other class, N the number of classes, as in the published
    code. A one-unit sigmoid has 1 for class 1 and -1 for class 0.
    """
    return tf.reduce_mean(R, axis=(1, 2), keepdims=True)


def xrelevance_cam_weights(A: tf.Tensor, R: tf.Tensor) -> tf.Tensor:
    """sum_k w_k A_k, w_k = sum_ij R_k / sum_ij A_k (You 2022, MSc thesis, Imperial College London, eq. 4.2).

    Relevance starts with 1 at the target and -1 / N at each other class, N the number of classes, as in the published
    code. The thesis writes the logit S_t and -S_t / N instead: the same map times S_t, so its sign flips where S_t
    is negative. The denominator is kept from 0 by 1e-9 with its own sign. A map, before it is enlarged, sums to the
    layer's relevance (conservation).
    """
    total = tf.reduce_sum(A, axis=(1, 2), keepdims=True)
    return tf.reduce_sum(R, axis=(1, 2), keepdims=True) / stabilised(total)


def _check(network: Network) -> None:
    network.cam_layers()
    kinds(network, "LRP")


class _FromNumbers(Propagation):
    starts_with_numbers = True


def activations_and_relevance(network: Network, layers: Sequence[str], gates: str = "constant") -> Signals:
    """Function (images, targets) -> each layer's activation and relevance, both ``(n, rows, columns, channels)``, from
    one pass there and back; ``layers`` are paths, ``gates`` is as in `lrp`."""

    known = network.compiled("kinds of LRP", lambda: kinds(network, "LRP"))
    kept = {network.step(path) for path in layers}

    def make(images: Any) -> Propagation:
        return _FromNumbers(network, known, images, "z_plus", "", Settings(bias=False, gates=gates), kept)

    def start(logits: Any, targets: Any) -> Any:
        one = tf.ones_like(logits[:, 0])
        return at_logits(network, targets, one, -one / network.n_classes)

    run = layer_signals(network, ("activations and relevance", tuple(layers), gates), layers, make, start)

    def signals(images: np.ndarray, targets: np.ndarray) -> list[tuple[Any, Any]]:
        pairs = zip(layers, run(images, targets), strict=True)
        return [tuple(network.to_grid(path, x) for x in pair) for path, pair in pairs]

    return signals


_PASSES: dict[str, SignalPass] = {
    "constant": activations_and_relevance,
    "relevance": partial(activations_and_relevance, gates="relevance"),
}
RELEVANCE_CAM = cam_of_weights(
    "relevance_cam",
    "Relevance-CAM",
    relevance_cam_weights,
    "Lee, Kim, Park, Eo & Hwang 2021, CVPR",
    (GATES,),
    signed=True,
    signals=activations_and_relevance,
    signals_by=lambda parameters: _PASSES[parameters["gates"]],
    family="relevance",
    cost="1 forward, and relevance down to the layer",
    check=_check,
)
XRELEVANCE_CAM = cam_of_weights(
    "xrelevance_cam",
    "XRelevance-CAM",
    xrelevance_cam_weights,
    "You 2022, MSc thesis, Imperial College London",
    (GATES,),
    signed=True,
    signals=activations_and_relevance,
    signals_by=lambda parameters: _PASSES[parameters["gates"]],
    family="relevance",
    cost="1 forward, and relevance down to the layer",
    check=_check,
)
