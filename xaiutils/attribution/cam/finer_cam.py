"""Finer-CAM: what tells the target from the classes that are most like it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from xaiutils.attribution.cam import gradient_cams
from xaiutils.attribution.cam.weighted_sum import cam_of_weights, relu_option
from xaiutils.attribution.method import SignalPass
from xaiutils.backend import tf
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.passes import activations_and_gradients
from xaiutils.registry import Parameter

_BASES = {
    "grad_cam": gradient_cams.grad_cam_weights,
    "grad_cam_plus_plus": gradient_cams.grad_cam_plus_plus_weights,
    "xgrad_cam": gradient_cams.xgrad_cam_weights,
    "hirescam": gradient_cams.hirescam_weights,
    "layer_cam": gradient_cams.layer_cam_weights,
}


def finer_cam_weights(
    A: tf.Tensor, g: tf.Tensor, base: str = "grad_cam", gamma: float = 1.0, n_similar: int = 3
) -> tf.Tensor:
    """The map of ``base``, by default Grad-CAM, with sum_d q_d (S_t - gamma S_d) in place of S_t (Zhang et al. 2025,
    CVPR, arXiv:2501.11309).

    d are the ``n_similar`` classes whose logits are nearest to the target's, and q_d their softmax probabilities,
    scaled to sum to 1 (the gradient goes through them too), as in the authors' code, of which the defaults are. With
    ``gamma=0`` it is the base; with 1, what both classes share cancels. Of two classes whose logits are each other's
    negative, it is 1 + gamma times the base. ``relu=False`` gives a signed map.
    """
    return _BASES[base](A, g)


@dataclass(frozen=True)
class Contrast:
    """The score that Finer-CAM differentiates, ``(n,)`` of logits ``(n, classes)``."""

    gamma: float
    n_similar: int

    def __call__(self, network: Network, logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        _check(network)
        own = tf.gather(logits, targets, axis=1, batch_dims=1)[:, None]
        away = tf.abs(logits - own) + tf.one_hot(targets, network.n_classes, on_value=1e30)
        _, nearest = tf.math.top_k(-away, min(self.n_similar, network.n_classes - 1))
        others = tf.gather(logits, nearest, axis=1, batch_dims=1)
        return tf.reduce_sum(tf.nn.softmax(others) * (own - self.gamma * others), axis=1)


def _signals(parameters: Mapping[str, Any]) -> SignalPass:
    return partial(activations_and_gradients, score=Contrast(parameters["gamma"], parameters["n_similar"]))


def _check(network: Network) -> None:
    if network.activation == "score":
        raise ModelError("finer_cam contrasts a class with the other classes, and a score has none; use grad_cam.")
    network.cam_layers()


FINER_CAM = cam_of_weights(
    "finer_cam",
    "Finer-CAM",
    finer_cam_weights,
    "Zhang, Gu, Chowdhury, Mai, Carlyn, Berger-Wolf, Su & Chao 2025, arXiv:2501.11309",
    (
        Parameter("base", str, "grad_cam", "the method whose map is made", choices=tuple(_BASES)),
        Parameter("gamma", float, 1.0, "strength of the comparison; 0: none", 0.0, 10.0),
        Parameter("n_similar", int, 3, "classes compared with, those of the nearest logits", 1, 1000),
        relu_option(True),
    ),
    signals_by=_signals,
    check=_check,
)
