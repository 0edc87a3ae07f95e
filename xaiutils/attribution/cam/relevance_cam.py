"""Class activation maps weighted by relevance: Relevance-CAM and XRelevance-CAM.

A is a layer's activation and R its relevance, both ``(n, rows, columns, channels)`` (of a transformer the patch tokens
on their grid). Relevance is propagated by the z+ rule (alpha 1, beta 0) in learned linear layers and by the epsilon
rule elsewhere (see `xaiutils.attribution.relevance.propagation`), from contrasted logits down to the layer and no
further. It starts with the numbers 1 and -1 / N, never with a logit, and biases take no relevance, as in the published
code: a constant added to all logits changes no probability, but would turn the sign of a start with logits and change
the biases' share. Maps keep their sign and are enlarged bilinearly.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from xaiutils.attribution import backward_rules as rules
from xaiutils.attribution.method import LAYER, Method
from xaiutils.attribution.relevance import place
from xaiutils.attribution.relevance.linear_rules import Settings, stabilised
from xaiutils.attribution.relevance.propagation import Propagation
from xaiutils.backend import tf
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.passes import batches, enlarge

_RULE = "z_plus"


def relevance_cam(network, images, targets, batch_size, *, layer: str) -> np.ndarray:
    """sum_k w_k A_k, w_k the spatial mean of R_k (Lee et al. 2021, CVPR, "Relevance-CAM: your model already knows where
    to look").

    Relevance starts with 1 at the target and -1 / N at each other class, N the number of classes, as in the published
    code. A one-unit sigmoid has 1 for class 1 and -1 for class 0.
    """
    return sum(maps_of_layers(network, images, targets, batch_size, network.cam_layers(layer), "relevance_cam"))


def xrelevance_cam(network, images, targets, batch_size, *, layer: str) -> np.ndarray:
    """sum_k w_k A_k, w_k = sum_ij R_k / sum_ij A_k (You 2022, MSc thesis, Imperial College London, eq. 4.2).

    Relevance starts with 1 at the target and -1 / N at each other class, N the number of classes, as in the published
    code. The thesis writes the logit S_t and -S_t / N instead: the same map times S_t, turned over where S_t is
    negative. The denominator is kept from 0 by 1e-9 with its own sign. A map, before it is enlarged, sums to the
    layer's relevance (conservation).
    """
    return sum(maps_of_layers(network, images, targets, batch_size, network.cam_layers(layer), "xrelevance_cam"))


def contrasted_seed(network: Network, logits: Any, targets: Any) -> Any:
    """1 at the target, -1 / N elsewhere."""
    one = tf.ones_like(logits[:, 0])
    return place(network, targets, one, -one / network.n_classes)


def activation_and_relevance(
    network: Network, layers: Sequence[str]
) -> Callable[[np.ndarray, np.ndarray], list[tuple[tf.Tensor, tf.Tensor]]]:
    """Function (images, targets) -> each layer's activation and relevance, both ``(n, rows, columns, channels)``, from
    one pass there and back; ``layers`` are paths."""

    def build():
        known = rules.kinds(network, "LRP")
        settings = Settings(alpha=1.0, bias=False)
        kept = {network.step(path) for path in layers}

        @tf.function(input_signature=[network.image_spec, rules.TARGETS], autograph=False)
        def run(images, targets):
            with network.in_float32():
                rule = Propagation(network, known, images, _RULE, "", settings, kept)
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    logits, activations = network.forward(images, layers, tape.watch, rule)
                found = tape.gradient(logits, activations, output_gradients=contrasted_seed(network, logits, targets))
            lost = [path for path, R in zip(layers, found, strict=True) if R is None]
            if lost:
                raise ModelError(f"no relevance comes back to layer {lost[0]!r} (is it a gate's?); choose another one.")
            pairs = zip(layers, activations, found, strict=True)
            return [(network.to_grid(path, A), network.to_grid(path, R)) for path, A, R in pairs]

        return run

    stored = tuple(network.field(path).stored for path in layers)
    return network.compiled(("activation and relevance", tuple(layers), stored), build)


def maps_of_layers(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, layers: Sequence[str], method: str
) -> Iterator[np.ndarray]:
    """Maps float32 ``(n, height, width)`` of "relevance_cam" or "xrelevance_cam", layer by layer; all share one pass
    over each batch."""
    weights = WEIGHTED[method]
    run = activation_and_relevance(network, layers)
    parts = []
    for b in batches(len(images), batch_size, "relevance"):
        parts.append([tf.reduce_sum(weights(A, R) * A, axis=-1) for A, R in run(images[b], targets[b])])
    for path, *of_layer in zip(layers, *parts, strict=True):  # one layer's maps at a time are as large as the images
        yield enlarge(tf.concat(of_layer, axis=0), *images.shape[1:3], network.place(path))


def mean_weights(A: tf.Tensor, R: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(R, axis=(1, 2), keepdims=True)


def conserving_weights(A: tf.Tensor, R: tf.Tensor) -> tf.Tensor:
    total = tf.reduce_sum(A, axis=(1, 2), keepdims=True)
    return tf.reduce_sum(R, axis=(1, 2), keepdims=True) / stabilised(total)


WEIGHTED = {"relevance_cam": mean_weights, "xrelevance_cam": conserving_weights}
RELEVANCE_CAM = Method(
    name="relevance_cam",
    title="Relevance-CAM",
    family="relevance",
    paper="Lee, Kim, Park, Eo & Hwang 2021, CVPR",
    signed=True,
    cost="1 forward, and relevance down to the layer",
    compute=relevance_cam,
    parameters=(LAYER,),
)

XRELEVANCE_CAM = Method(
    name="xrelevance_cam",
    title="XRelevance-CAM",
    family="relevance",
    paper="You 2022, MSc thesis, Imperial College London",
    signed=True,
    cost="1 forward, and relevance down to the layer",
    compute=xrelevance_cam,
    parameters=(LAYER,),
)
