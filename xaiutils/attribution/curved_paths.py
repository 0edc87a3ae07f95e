"""Gradients along paths that are not straight: guided and blur integrated gradients; and IDGI, on any of these paths.

A path is walked in steps; what is summed of a step from x_j to x_{j+1} is the gradient times the step, or for IDGI
(S(x_{j+1}) - S(x_j)) g^2 / sum g^2: all of what the score gained, shared out by the squared gradient. Points of paths
that are known before are made many at once; the guided path is found step by step, for many images at once.
"""

import math
from typing import Any

import numpy as np
from scipy import ndimage

from xaiutils.attribution.baselines import BASELINE, BASELINE_IMAGE, chosen_baselines, score_above_baseline
from xaiutils.attribution.method import SHARES, Method
from xaiutils.backend import tf
from xaiutils.graph.network import Network
from xaiutils.graph.passes import reduce_channels, target_scores
from xaiutils.graph.paths import Points, gradient_sums
from xaiutils.registry import Parameter

_CLOSE = 1e-7  # part of a path that is no distance any more: float32's rounding
_SAMPLED = 61  # of so many values one is looked at to begin with, where the smallest are to be told from the others
_INF = 0x7F800000  # the bits of infinity: those of smaller numbers above 0 are in the order of the numbers


def _guided(start: np.ndarray, size: int, n_steps: int, fraction: float, max_distance: float, rises: bool) -> Points:
    """Of images with ``size`` values each."""
    least = math.floor(fraction * (size - 1)) + 1  # how many values a quantile of their gradients lets go on
    alphas = np.arange(1, n_steps + 1) / n_steps
    numbers = np.stack([alphas, np.full(n_steps, max_distance), np.full(n_steps, least)], axis=1)[:, None]
    return Points(
        np.ones(n_steps), numbers.astype(np.float32), lambda _, members: start[None, members],
        rises=rises, advance=_go_on,
    )  # fmt: skip


def _go_on(reached: tf.Tensor, gradient: tf.Tensor, way: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Moves the values of each image that matter least, by the size of their gradients, until a part alpha of the whole
    distance lies behind; none is further than max_distance of its own way from where a straight path is.

    ``reached``: what part of its way each value has gone, ``(n, height, width, C)``; ``numbers``: alpha, max_distance
    and how many values go on at once.
    """
    alpha, max_distance, least = tf.unstack(numbers[0, 0, 0])
    low, high = tf.maximum(alpha - max_distance, 0.0), tf.minimum(alpha + max_distance, 1.0)
    flat = [tf.shape(reached)[0], -1]
    way = tf.reshape(tf.abs(way), flat)
    room = high - tf.maximum(tf.reshape(reached, flat), low)
    size = tf.where((way > 0) & (room > 0), tf.reshape(tf.abs(gradient), flat), np.inf)

    def distance(of_way: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.cast(of_way * way, tf.float64), axis=1)

    close = _CLOSE * distance(tf.ones_like(way))
    to_go = distance(room - (high - alpha))

    def unfinished(to_go: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(to_go > close)

    def move(to_go: tf.Tensor, room: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, ...]:
        chosen = size <= tf.minimum(_smallest(size, tf.cast(least, tf.int32)), size.dtype.max)[:, None]
        rest = tf.where(chosen, room, 0.0)
        reach = distance(rest)
        part = tf.where(to_go > close, tf.minimum(tf.math.divide_no_nan(to_go, reach), 1.0), 0.0)
        room -= tf.cast(part, tf.float32)[:, None] * rest
        return tf.where(reach > 0, to_go - part * reach, 0.0), room, tf.where(chosen, np.inf, size)

    _, room, _ = tf.while_loop(unfinished, move, (to_go, room, size))
    return tf.reshape(high - room, tf.shape(reached))


def _smallest(values: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """A number ``(n,)`` for each row of values from 0 to infinity ``(n, k)`` that just ``count`` of them do not exceed,
    or, where several are equal, as few more as may be.

    Found by counting below guesses, the first two from a sample: sorting takes five times as long.
    """
    bits = tf.bitcast(values, tf.int32)
    n, k = tf.unstack(tf.shape(values))
    sample = tf.sort(bits[:, ::_SAMPLED], axis=1)
    last = tf.shape(sample)[1] - 1
    at = tf.cast(count, tf.float32) / _SAMPLED
    spread = 1.5 * tf.sqrt(at + 1)
    first, second = (
        tf.gather(sample, tf.clip_by_value(tf.cast(x, tf.int32), 0, last), axis=1) for x in (at - spread, at + spread)
    )

    def unfinished(low: tf.Tensor, high: tf.Tensor, below: tf.Tensor, within: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any((within != count) & (high - low > 1))

    def guess(
        low: tf.Tensor, high: tf.Tensor, below: tf.Tensor, within: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Of the number sought more than ``low``, at most ``high``: ``below`` values and ``within`` do not exceed."""
        open_ = (within != count) & (high - low > 1)
        part = tf.cast(count - below, tf.float32) / tf.cast(within - below, tf.float32)
        between = low + tf.cast(part * tf.cast(high - low, tf.float32), tf.int32)
        middle = low + (high - low) // 2
        middle = tf.where(step == 0, first, tf.where(step == 1, second, tf.where(step % 4 == 3, middle, between)))
        middle = tf.maximum(tf.minimum(middle, high - 1), low + 1)
        counted = tf.reduce_sum(tf.cast(bits <= middle[:, None], tf.int32), axis=1)
        enough, too_few = open_ & (counted >= count), open_ & (counted < count)
        return (
            tf.where(too_few, middle, low),
            tf.where(enough, middle, high),
            tf.where(too_few, counted, below),
            tf.where(enough, counted, within),
            step + 1,
        )

    begin = tf.fill([n], -1), tf.fill([n], _INF), tf.fill([n], 0), tf.fill([n], k), 0
    return tf.bitcast(tf.while_loop(unfinished, guess, begin)[1], tf.float32)


def _blurred(shape: tuple[int, ...], n_steps: int, max_sigma: float, rises: bool) -> Points:
    """Of images of ``shape`` (height, width, C)."""
    sigmas = max_sigma * (1 - np.arange(n_steps + 1) / n_steps) ** 2  # small steps where the image changes most
    taps = np.stack([_gaussian(sigma, max(shape[:2])) for sigma in sigmas])
    numbers = taps[:-1] if rises else np.concatenate([taps[:-1], taps[1:]], axis=1)
    none = np.zeros((1, 1, 1, 1, shape[-1]), np.float32)
    return Points(
        np.ones(n_steps), numbers[:, None], lambda *_: none, _at_blurs if rises else _between_blurs, rises=rises
    )


def _gaussian(sigma: float, length: int) -> np.ndarray:
    """What a Gaussian as SciPy's, cut off at 4 sigma, takes from 0, 1, ... pixels away; float32 ``(length,)``."""
    away = np.arange(int(4 * sigma + 0.5) + 1)
    taps = np.exp(-0.5 * (away / sigma) ** 2) if sigma else np.ones(1)
    taps /= 2 * taps.sum() - 1
    return np.concatenate([taps, np.zeros(length)])[:length].astype(np.float32)


def _at_blurs(images: tf.Tensor, _: tf.Tensor, taps: tf.Tensor) -> tuple[tf.Tensor, None]:
    return _blur(images, taps[:, 0, 0, 0]), None


def _between_blurs(images: tf.Tensor, _: tf.Tensor, taps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """In the middle of each step, and the step; each begins where the one before has ended."""
    first, last = tf.split(taps[:, 0, 0, 0], 2, axis=1)
    ends = _blur(images, tf.concat([first, last[-1:]], axis=0))
    return (ends[:-1] + ends[1:]) / 2, ends[1:] - ends[:-1]


def _blur(images: tf.Tensor, taps: tf.Tensor) -> tf.Tensor:
    """``(k, n, height, width, C)``: the images, black beyond the edge, blurred by each row of `_gaussian`; as a product
    with a matrix on either side."""
    height, width = tf.unstack(tf.shape(images)[1:3])
    down, along = (
        tf.gather(taps, tf.abs(tf.range(n)[:, None] - tf.range(n)), axis=1)[:, None, None] for n in (height, width)
    )
    return tf.transpose(down @ tf.transpose(images, (0, 3, 1, 2)) @ along, (0, 1, 3, 4, 2))


def _shares(
    network: Network, images: np.ndarray, targets: np.ndarray, points: Points, batch_size: int, reduction: str
) -> np.ndarray:
    (shares,) = gradient_sums(network, images, targets, points, batch_size, "paths")
    return reduce_channels(shares, reduction).astype(np.float32)


def guided_ig(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    n_steps: int,
    fraction: float,
    max_distance: float,
    baseline: str,
    baseline_image: np.ndarray | None,
    reduction: str,
) -> np.ndarray:
    """Integrated gradients on a path that changes first the values to which the score is least sensitive (Kapishnikov
    et al. 2021, arXiv:2106.09788).

    At each of ``n_steps`` the ``fraction`` of values with the smallest gradients goes on, until the step has covered
    its part of the distance from the baseline; no value strays from the straight path by more than ``max_distance`` of
    its own way (0: integrated gradients; 1: unbounded). Defaults are those of the authors' package ``saliency``, whose
    numbers these are. Maps sum to S(x) - S(x') up to the error of the steps, of which gradients are taken at the
    beginning.
    """
    start = chosen_baselines(images, baseline, baseline_image)
    points = _guided(start, images[0].size, n_steps, fraction, max_distance, rises=False)
    return _shares(network, images, targets, points, batch_size, reduction)


def blur_ig(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    n_steps: int,
    max_sigma: float,
    reduction: str,
) -> np.ndarray:
    """Integrated gradients from the blurred image to the sharp one, by a Gaussian whose sigma falls from ``max_sigma``
    pixels to 0 in ``n_steps`` steps (Xu, Venugopalan & Sundararajan 2020, arXiv:2004.03383).

    No baseline is needed: detail comes back, and with it the score. Beyond the edge there is black, as in the authors'
    package ``saliency``, of which the defaults are. Its steps are equal and their gradients taken at the ends; here
    sigma falls as a square, so that steps are small where the image is nearly sharp, and gradients are taken in the
    middle: the same integral with less error. Maps sum to S(x) - S(blurred x) up to that.
    """

    points = _blurred(images.shape[1:], n_steps, max_sigma, rises=False)
    return _shares(network, images, targets, points, batch_size, reduction)


def idgi(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    path: str,
    n_steps: int,
    baseline: str,
    baseline_image: np.ndarray | None,
    reduction: str,
) -> np.ndarray:
    """Sum over the steps of a path of (S(x_{j+1}) - S(x_j)) g_j^2 / sum g_j^2 (Important Direction Gradient
    Integration, Yang, Wang & Bilgic 2023, CVPR, arXiv:2303.14242).

    Only the part of a step along the gradient changes the score, so all of the gain is shared out there, and values
    that move without it get nothing. The path is that of integrated gradients ("straight"), guided ("guided") or blur
    integrated gradients ("blur"), at their defaults; for "blur" the baseline is the blurred image. Maps sum to S(x) -
    S(x_0) whatever the number of steps, but for steps without a gradient. The paper takes 128 steps, and explains the
    probability where here it is the logit.
    """
    start = chosen_baselines(images, baseline, baseline_image)
    if path == "guided":
        points = _guided(start, images[0].size, n_steps, _FRACTION.default, _MAX_DISTANCE.default, rises=True)
    elif path == "blur":
        points = _blurred(images.shape[1:], n_steps, _MAX_SIGMA.default, rises=True)
    else:
        alphas = (np.arange(n_steps, dtype=np.float32) / n_steps)[:, None]
        points = Points(np.ones(n_steps), alphas, lambda _, members: start[None, members], rises=True)
    return _shares(network, images, targets, points, batch_size, reduction)


def _above_blur(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, max_sigma: float, **_: object
) -> np.ndarray:
    blurred = ndimage.gaussian_filter(images, (0, max_sigma, max_sigma, 0), mode="constant")
    sharp, first = (target_scores(network, x, targets, batch_size) for x in (images, blurred))
    return sharp - first


def _idgi_total(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, path: str, **options: Any
) -> np.ndarray:
    if path == "blur":
        return _above_blur(network, images, targets, batch_size, max_sigma=_MAX_SIGMA.default)
    return score_above_baseline(network, images, targets, batch_size, **options)


_FRACTION = Parameter("fraction", float, 0.25, "part of the values that moves at once; saliency: 0.25", 0.001, 1.0)
_MAX_DISTANCE = Parameter(
    "max_distance", float, 0.02, "how far a value may stray, of its way; saliency: 0.02; 1: unbounded", 0.0, 1.0
)
_MAX_SIGMA = Parameter("max_sigma", float, 50.0, "sigma of the most blurred image, in pixels; saliency: 50", 0.1, 500.0)
GUIDED_IG = Method(
    name="guided_ig",
    title="Guided integrated gradients",
    family="gradients",
    paper="Kapishnikov, Venugopalan, Avci, Wedin, Terry & Bolukbasi 2021, arXiv:2106.09788",
    signed=True,
    cost="n_steps gradients",
    compute=guided_ig,
    total=score_above_baseline,
    parameters=(
        Parameter("n_steps", int, 200, "steps of the path; saliency: 200", 1, 10_000),
        _FRACTION,
        _MAX_DISTANCE,
        BASELINE,
        BASELINE_IMAGE,
        SHARES,
    ),
)
BLUR_IG = Method(
    name="blur_ig",
    title="Blur integrated gradients",
    family="gradients",
    paper="Xu, Venugopalan & Sundararajan 2020, arXiv:2004.03383",
    signed=True,
    cost="n_steps gradients",
    compute=blur_ig,
    total=_above_blur,
    parameters=(Parameter("n_steps", int, 100, "steps of the path; saliency: 100", 1, 10_000), _MAX_SIGMA, SHARES),
)
IDGI = Method(
    name="idgi",
    title="IDGI",
    family="gradients",
    paper="Yang, Wang & Bilgic 2023, CVPR, arXiv:2303.14242",
    signed=True,
    cost="n_steps gradients, + 1 forward",
    compute=idgi,
    total=_idgi_total,
    parameters=(
        Parameter("path", str, "straight", "the path that is walked", choices=("straight", "guided", "blur")),
        Parameter("n_steps", int, 128, "steps of the path; the paper: 128", 1, 10_000),
        BASELINE,
        BASELINE_IMAGE,
        SHARES,
    ),
)
