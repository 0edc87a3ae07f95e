"""Gradients along paths that are not straight: guided and blur integrated gradients; and IDGI, on any of these paths.

A path is walked in steps; what is summed of a step from x_j to x_{j+1} is the gradient times the step, or for IDGI
(S(x_{j+1}) - S(x_j)) g^2 / sum g^2: all of what the score gained, shared out by the squared gradient.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from xaiutils.attribution.baselines import BASELINE, BASELINE_IMAGE, chosen_baselines, score_above_baseline
from xaiutils.attribution.method import SHARES, Method
from xaiutils.graph.network import Network
from xaiutils.graph.passes import batches, input_gradients, reduce_channels, target_scores
from xaiutils.registry import Parameter

_CLOSE = 1e-9  # of distances that are the same


class Path(NamedTuple):
    """From ``start`` ``(n, height, width, C)`` float64: ``step(j, x, g)`` goes on from x, the gradient there being g;
    with ``ahead`` it needs no g, so that gradients are taken in the middle of each step."""

    start: np.ndarray
    step: Callable[[int, np.ndarray, Any], np.ndarray]
    ahead: bool = False


def _straight(x: np.ndarray, start: np.ndarray, n_steps: int) -> Path:
    return Path(start, lambda j, *_: start + (j + 1) / n_steps * (x - start), ahead=True)


def _blurred(x: np.ndarray, n_steps: int, max_sigma: float) -> Path:
    def at(j: int) -> np.ndarray:
        sigma = max_sigma * (1 - j / n_steps) ** 2  # small steps where the image is nearly sharp, and changes most
        return ndimage.gaussian_filter(x, (0, sigma, sigma, 0), mode="constant") if sigma else x

    return Path(at(0), lambda j, *_: at(j + 1), ahead=True)


def _guided(x: np.ndarray, start: np.ndarray, n_steps: int, fraction: float, max_distance: float) -> Path:
    def step(j: int, now: np.ndarray, g: np.ndarray) -> np.ndarray:
        of_each = zip(now, start, x, np.abs(g), strict=True)
        return np.stack([_guided_step(*one, (j + 1) / n_steps, fraction, max_distance) for one in of_each])

    return Path(start, step)


def _guided_step(
    now: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    size: np.ndarray,
    alpha: float,
    fraction: float,
    max_distance: float,
) -> np.ndarray:
    """Moves the values of one image that matter least, by ``size`` of their gradients, until a part ``alpha`` of the
    whole distance lies behind; none is further than ``max_distance`` of its own way from where a straight path is."""
    way, size = end - start, size.copy()
    low, high = max(alpha - max_distance, 0.0), min(alpha + max_distance, 1.0)
    least, most = start + low * way, start + high * way
    wanted = (1 - alpha) * np.abs(way).sum()
    behind = np.sign(way) * (least - now) > 0
    now = np.where(behind, least, now)
    while (left := np.abs(end - now).sum()) > wanted * (1 + _CLOSE) + _CLOSE:
        size[now == most] = np.inf
        chosen = (size <= np.quantile(size, fraction, method="lower")) & np.isfinite(size)
        reach = np.abs(most - now)[chosen].sum()
        if not reach:
            break
        now = np.where(chosen, now + min(1.0, (left - wanted) / reach) * (most - now), now)
        now = np.where(chosen & (left - wanted >= reach), most, now)
    return now


def _shares(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    path: Callable[[slice], Path],
    n_steps: int,
    important: bool = False,
) -> np.ndarray:
    """What a walk of ``path(batch)`` gives each value ``(n, height, width, C)`` float64; ``important``: by IDGI."""
    run, shares = input_gradients(network), np.zeros(images.shape)

    def scores(x: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        return target_scores(network, x.astype(np.float32), wanted, batch_size).astype(np.float64)

    for batch in batches(len(images), batch_size, "paths"):
        wanted, (x, step, ahead) = targets[batch], path(batch)
        reached = scores(x, wanted) if important else 0.0
        for j in range(n_steps):
            following = step(j, x, None) if ahead else x
            at = x if important or not ahead else (x + following) / 2
            g = run(at.astype(np.float32), wanted).astype(np.float64)
            following = following if ahead else step(j, x, g)
            if important:
                before, reached = reached, scores(following, wanted)
                squares = g**2
                whole = squares.sum(axis=(1, 2, 3), keepdims=True)
                rise = (reached - before)[:, None, None, None]
                shares[batch] += rise * np.divide(squares, whole, out=np.zeros_like(g), where=whole > 0)
            else:
                shares[batch] += (following - x) * g
            x = following
    return shares


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

    def path(batch: slice) -> Path:
        ends = images[batch].astype(np.float64), start[batch].astype(np.float64)
        return _guided(*ends, n_steps, fraction, max_distance)

    return reduce_channels(_shares(network, images, targets, batch_size, path, n_steps), reduction).astype(np.float32)


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

    def path(batch: slice) -> Path:
        return _blurred(images[batch].astype(np.float64), n_steps, max_sigma)

    return reduce_channels(_shares(network, images, targets, batch_size, path, n_steps), reduction).astype(np.float32)


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
    make = _of_name(images, path, n_steps, baseline, baseline_image)
    shares = _shares(network, images, targets, batch_size, make, n_steps, important=True)
    return reduce_channels(shares, reduction).astype(np.float32)


def _of_name(
    images: np.ndarray, path: str, n_steps: int, baseline: str, baseline_image: np.ndarray | None
) -> Callable[[slice], Path]:
    start = chosen_baselines(images, baseline, baseline_image)

    def make(batch: slice) -> Path:
        x, first = images[batch].astype(np.float64), start[batch].astype(np.float64)
        if path == "blur":
            return _blurred(x, n_steps, _MAX_SIGMA.default)
        guided = partial(_guided, fraction=_FRACTION.default, max_distance=_MAX_DISTANCE.default)
        return (guided if path == "guided" else _straight)(x, first, n_steps)

    return make


def _above_blur(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, max_sigma: float, **_: object
) -> np.ndarray:
    blurred = _blurred(images.astype(np.float64), 1, max_sigma).start.astype(np.float32)
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
    cost="n_steps gradients, + n_steps forwards",
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
