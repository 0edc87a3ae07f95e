"""Score-CAM and Faster Score-CAM: a channel's weight is the score of the image as seen through that channel."""

from dataclasses import replace

import numpy as np

from xaiutils.attribution.cam.weighted_sum import maps_of_weights
from xaiutils.attribution.method import LAYER, Method
from xaiutils.graph.network import Network
from xaiutils.graph.passes import activation, logits, masked_scores
from xaiutils.registry import Parameter


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

    H_k is channel k enlarged to the image and scaled to [0, 1]; a flat channel gets no weight. With p the target's
    probability, S its logit and 0 the black image, ``weighting`` is

    - "softmax" (Score-CAM's default): Algorithm 1 as printed, the softmax over channels of S(x * H_k) - S(0). Where
      logits differ by much it leaves nearly all weight to a few channels; the subtraction changes nothing;
    - "authors" (Faster Score-CAM's default, as its source): the authors' code, w_k = p(x * H_k), no softmax over
      channels and no baseline. All channels count, by far more alike;
    - "probability": w_k = p(x * H_k) - p(0), the increase of confidence that the paper defines, which can be negative.

    ``max_channels`` > 0 keeps each image's channels of largest spatial standard deviation (Faster Score-CAM).
    """

    def weigh(images: np.ndarray, targets: np.ndarray, path: str) -> tuple[np.ndarray, np.ndarray]:
        A = activation(network, path, images, batch_size)
        kept = min(max_channels or A.shape[-1], A.shape[-1])
        chosen = np.argsort(-A.std(axis=(1, 2)), axis=1, kind="stable")[:, :kept]
        A = np.take_along_axis(A, chosen[:, None, None], axis=3)
        return A, score_cam_weights(network, images, targets, A, batch_size, path, weighting)

    layers = network.cam_layers(layer)
    return maps_of_weights(network, images, targets, batch_size, layers, weigh, relu=True)


def score_cam_weights(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    A: np.ndarray,
    batch_size: int,
    path: str,
    weighting: str = "softmax",
) -> np.ndarray:
    """Weights ``(n, channels)`` of the channels of ``A``, the activation of layer ``path``; see `score_cam`."""
    score = "logit" if weighting == "softmax" else "probability"
    n, *_, channels = A.shape
    members, channel = np.divmod(np.arange(n * channels), channels)

    def masks(batch: slice) -> np.ndarray:
        return A[members[batch], :, :, channel[batch]]

    black = np.zeros((1, 1, 1, 1), np.float32)
    place = network.place(path)
    weights = masked_scores(
        network, images, black, targets, members, masks, batch_size, score, "Score-CAM", scale=True, place=place
    ).reshape(n, channels)
    if weighting == "probability":
        of_black = network.probabilities(logits(network, np.zeros_like(images[:1]), 1)).numpy()
        weights = weights - of_black[0, targets][:, None]
    if weighting == "softmax":
        weights = np.exp(weights - weights.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
    return np.where(np.ptp(A, axis=(1, 2)) == 0, 0, weights)


_CHANNELS = Parameter(
    "max_channels", int, 0, "channels scored for each image, those that vary most; 0: all", low=0, high=100_000
)
_WEIGHTING = Parameter(
    "weighting",
    str,
    "softmax",
    "the paper's softmax of logits over channels, its authors' code's probability, or the gain in probability over "
    "black",
    choices=("softmax", "authors", "probability"),
)
SCORE_CAM = Method(
    name="score_cam",
    title="Score-CAM",
    family="cam",
    paper="Wang et al. 2020, arXiv:1910.01279",
    signed=False,
    cost="1 forward for each channel, + 1",
    compute=score_cam,
    needs="layers",
    parameters=(LAYER, _CHANNELS, _WEIGHTING),
)
FASTER_SCORE_CAM = replace(
    SCORE_CAM,
    name="faster_score_cam",
    title="Faster Score-CAM",
    paper="github.com/tabayashi0117/Score-CAM, after Wang et al. 2020, arXiv:1910.01279",
    cost="max_channels forwards, + 1",
    parameters=(
        LAYER,
        replace(_CHANNELS, default=10, help="channels scored for each image, those that vary most", low=1),
        replace(_WEIGHTING, default="authors"),
    ),
)
