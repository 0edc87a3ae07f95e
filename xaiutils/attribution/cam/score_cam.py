"""Score-CAM and its kin: a channel's weight is the score of the image as seen through that channel.

Faster Score-CAM looks through fewer channels, SS-CAM and IS-CAM several times through each.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xaiutils.attribution.cam.weighted_sum import maps_of_weights
from xaiutils.attribution.method import LAYER, SEED, Method
from xaiutils.graph.network import Network
from xaiutils.graph.passes import activation, enlarge, logits, masked_scores
from xaiutils.registry import Parameter


@dataclass(frozen=True)
class Looks:
    """Several looks through each channel, whose scores are averaged: ``change(masks, looks)`` makes the masks
    ``(k, height, width)``, in [0, 1] before, those of the looks of these numbers below ``count``."""

    count: int
    change: Callable[[np.ndarray, np.ndarray], np.ndarray]


def score_cam(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    layer: str,
    max_channels: int,
    weighting: str,
    looks: Looks | None = None,
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
        return A, score_cam_weights(network, images, targets, A, batch_size, path, weighting, looks)

    layers = network.cam_layers(layer)
    return maps_of_weights(network, images, targets, batch_size, layers, weigh, relu=True)


def ss_cam(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    n_samples: int,
    noise: float,
    seed: int,
    **options: Any,
) -> np.ndarray:
    """Score-CAM with the score of a channel averaged over ``n_samples`` noisy masks H_k + N(0, noise^2), pixel by
    pixel (SS-CAM, Wang et al. 2020, arXiv:2006.14255; 35 and 2 are torch-cam's defaults).

    H_k is in [0, 1], so at 2 the image is multiplied by anything from -4 to 5: pixels leave the range that the model
    knows. All channels and images get the same draws. The other parameters are those of score_cam.
    """
    shape = images.shape[1:3]

    def noisy(masks: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        drawn, where = np.unique(numbers, return_inverse=True)
        unit = [np.random.default_rng([seed, k]).standard_normal(shape, dtype=np.float32) for k in drawn]
        return masks + np.float32(noise) * np.stack(unit)[where]

    return score_cam(network, images, targets, batch_size, looks=Looks(n_samples, noisy), **options)


def is_cam(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, n_steps: int, **options: Any
) -> np.ndarray:
    """Score-CAM with the score of a channel averaged over masks i / N H_k, i = 1 to N = ``n_steps``: from a dark image
    to what is seen through the channel (IS-CAM, Naidu et al. 2020, arXiv:2010.03023; 10 steps, as torch-cam).

    torch-cam adds these factors up, so that its last mask is (N + 1) / 2 times too bright. The other parameters are
    those of score_cam.
    """

    def dimmed(masks: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return masks * ((numbers + 1) / np.float32(n_steps))[:, None, None].astype(np.float32)

    return score_cam(network, images, targets, batch_size, looks=Looks(n_steps, dimmed), **options)


def score_cam_weights(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    A: np.ndarray,
    batch_size: int,
    path: str,
    weighting: str = "softmax",
    looks: Looks | None = None,
) -> np.ndarray:
    """Weights ``(n, channels)`` of the channels of ``A``, the activation of layer ``path``; see `score_cam`."""
    score = "logit" if weighting == "softmax" else "probability"
    n, *_, channels = A.shape
    shape = (n, channels, looks.count if looks else 1)
    members, channel, look = (axis.ravel() for axis in np.indices(shape))
    place, (height, width) = network.place(path), images.shape[1:3]

    def masks(batch: slice) -> np.ndarray:
        small = A[members[batch], :, :, channel[batch]]
        if looks is None:
            return small
        reached = enlarge(np.ones_like(small[:1]), height, width, place)[0] > 0
        large = enlarge(small, height, width, place)
        low, high = (f(large[:, reached], axis=1)[:, None, None] for f in (np.min, np.max))
        scaled = np.divide(large - low, high - low, out=np.zeros_like(large), where=high > low)
        return looks.change(scaled, look[batch]) * reached

    black = np.zeros((1, 1, 1, 1), np.float32)
    how: dict[str, Any] = {"scale": True, "place": place} if looks is None else {}
    weights = masked_scores(
        network, images, black, targets, members, masks, batch_size, score, "Score-CAM", **how
    ).reshape(shape)
    weights = weights.mean(axis=2)
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
SS_CAM = replace(
    SCORE_CAM,
    name="ss_cam",
    title="SS-CAM",
    paper="Wang, Naidu, Michael & Kundu 2020, arXiv:2006.14255",
    cost="n_samples forwards for each channel, + 1",
    compute=ss_cam,
    parameters=(
        *SCORE_CAM.parameters,
        Parameter("n_samples", int, 35, "noisy masks of each channel; torch-cam: 35", 1, 1000),
        Parameter("noise", float, 2.0, "standard deviation, of masks in [0, 1]; torch-cam: 2", 0.0, 100.0),
        SEED,
    ),
)
IS_CAM = replace(
    SCORE_CAM,
    name="is_cam",
    title="IS-CAM",
    paper="Naidu, Ghosh, Maurya, Nayak & Kundu 2020, arXiv:2010.03023",
    cost="n_steps forwards for each channel, + 1",
    compute=is_cam,
    parameters=(*SCORE_CAM.parameters, Parameter("n_steps", int, 10, "masks of each channel; torch-cam: 10", 1, 1000)),
)
