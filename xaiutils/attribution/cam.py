"""Class activation maps: weighted sums of a layer's channels.

A is the layer's activation ``(n, rows, columns, channels)`` (of a transformer the patch tokens on their grid) and
g = dS/dA the gradient of the target's logit S. Maps are enlarged to the image bilinearly.
"""

from collections.abc import Callable, Sequence

import numpy as np

from xaiutils.attribution.method import LAYER, METHODS, Method
from xaiutils.attribution.network import Network
from xaiutils.attribution.passes import (
    activation,
    activation_and_gradient,
    batches,
    enlarge,
    logits,
    masked_scores,
)
from xaiutils.backend import tf
from xaiutils.registry import Parameter


def grad_cam(A: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
    """relu(sum_k w_k A_k), w_k the spatial mean of g_k (Selvaraju et al. 2017, arXiv:1610.02391, eq. 1 and 2)."""
    weights = tf.reduce_mean(g, axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * A, axis=-1))


def grad_cam_plus_plus(A: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
    """relu(sum_k w_k A_k), w_k = sum_ij alpha_ij relu(g_ij) (Chattopadhay et al. 2018, arXiv:1710.11063).

    With Y = exp(S) the second and third derivatives of eq. 19 reduce to alpha = g^2 / (2 g^2 + sum_ab A_ab g^3), 0
    where g = 0; the common factor exp(S) of all weights is left out.
    """
    square = g * g
    denominator = 2 * square + tf.reduce_sum(A, axis=(1, 2), keepdims=True) * square * g
    alpha = tf.math.divide_no_nan(square, denominator)
    weights = tf.reduce_sum(alpha * tf.nn.relu(g), axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * A, axis=-1))


def from_one_pass(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    combines: Sequence[Callable],
    layer: str = "",
) -> list[np.ndarray]:
    """Maps of several methods from one forward and backward pass over each batch."""
    layer = network.cam_layer(layer)
    run = activation_and_gradient(network, layer)
    height, width = images.shape[1:3]
    maps: list[list[np.ndarray]] = [[] for _ in combines]
    for batch in batches(len(images), batch_size, "class activation maps"):
        A, g = run(images[batch], targets[batch])
        for found, combine in zip(maps, combines, strict=True):
            found.append(enlarge(combine(A, g), height, width))
    return [np.concatenate(found) for found in maps]


def score_cam(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    layer: str,
    max_channels: int,
    weighting: str,
) -> np.ndarray:
    """relu(sum_k w_k A_k), w_k from the score of the image under channel k (Wang et al. 2020, arXiv:1910.01279).

    H_k is channel k enlarged to the image and scaled to [0, 1]; a flat channel gets no weight.
    ``weighting="probability"`` (default): w_k = p(x * H_k) - p(0), p the target's probability and 0 the black image,
    close to the authors' code. ``weighting="softmax"``: Algorithm 1 as printed, the softmax over channels of the
    logit's gain, which saturates to few channels. ``max_channels`` > 0 keeps each image's channels of largest spatial
    standard deviation.
    """
    path = network.cam_layer(layer)
    A = activation(network, path, images, batch_size)
    n, channels = A.shape[0], A.shape[-1]
    height, width = images.shape[1:3]
    kept = min(max_channels or channels, channels)
    chosen = np.argsort(-A.std(axis=(1, 2)), axis=1, kind="stable")[:, :kept]  # (n, kept)
    members = np.repeat(np.arange(n), kept)
    picked = chosen.ravel()

    def masks(batch: slice) -> np.ndarray:
        large = enlarge(A[members[batch], :, :, picked[batch]], height, width)
        low, high = large.min(axis=(1, 2), keepdims=True), large.max(axis=(1, 2), keepdims=True)
        return np.divide(large - low, high - low, out=np.zeros_like(large), where=high > low)

    black = np.zeros((1, 1, 1, 1), np.float32)
    score = "probability" if weighting == "probability" else "logit"
    masked = masked_scores(network, images, black, targets, members, masks, batch_size, score, "Score-CAM")
    gain = masked.reshape(n, kept) - _black_scores(network, images, targets, score)[:, None]
    flat = np.ptp(A, axis=(1, 2))[np.arange(n)[:, None], chosen] == 0
    if weighting == "softmax":
        gain = np.exp(gain - gain.max(axis=1, keepdims=True))
        gain /= gain.sum(axis=1, keepdims=True)
    weights = np.where(flat, 0, gain)
    weighted = np.einsum("nk,nrck->nrc", weights, np.take_along_axis(A, chosen[:, None, None], axis=3))
    return enlarge(np.maximum(weighted, 0), height, width)


def _black_scores(network: Network, images: np.ndarray, targets: np.ndarray, score: str) -> np.ndarray:
    black = logits(network, np.zeros_like(images[:1]), 1)
    if score == "probability":
        black = network.probabilities(black).numpy()
    return black[0, targets]


def _gradient_cam(name: str, title: str, paper: str, combine: Callable) -> None:
    def compute(network, images, targets, batch_size, *, layer: str) -> np.ndarray:
        return from_one_pass(network, images, targets, batch_size, [combine], layer)[0]

    compute.__doc__ = combine.__doc__
    METHODS.add(
        Method(
            name=name,
            title=title,
            family="cam",
            paper=paper,
            signed=False,
            cost="1 gradient",
            compute=compute,
            parameters=(LAYER,),
            combine=combine,
        )
    )


_gradient_cam("grad_cam", "Grad-CAM", "Selvaraju et al. 2017, arXiv:1610.02391", grad_cam)
_gradient_cam(
    "grad_cam_plus_plus",
    "Grad-CAM++",
    "Chattopadhay, Sarkar, Howlader & Balasubramanian 2018, arXiv:1710.11063",
    grad_cam_plus_plus,
)
METHODS.add(
    Method(
        name="score_cam",
        title="Score-CAM",
        family="cam",
        paper="Wang et al. 2020, arXiv:1910.01279",
        signed=False,
        cost="1 forward for each channel, + 2",
        compute=score_cam,
        parameters=(
            LAYER,
            Parameter(
                "max_channels",
                int,
                0,
                "channels scored for each image, those that vary most; 0: all",
                0,
                100_000,
            ),
            Parameter(
                "weighting",
                str,
                "probability",
                "gain in probability, or Algorithm 1's softmax over channels",
                choices=("probability", "softmax"),
            ),
        ),
    )
)
