"""Integrated gradients, from one baseline or from black and white."""

import numpy as np

from xaiutils.attribution.baselines import BASELINE, BASELINE_IMAGE, chosen_baselines, score_above_baseline
from xaiutils.attribution.method import SHARES, Method
from xaiutils.graph.network import Network
from xaiutils.graph.passes import reduce_channels
from xaiutils.graph.paths import Points, gradient_sums
from xaiutils.registry import Parameter

_ENDS = ("black", "white")


def integrated_gradients(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    n_steps: int,
    baseline: str,
    baseline_image: np.ndarray | None,
    quadrature: str,
    reduction: str,
) -> np.ndarray:
    """(x - x') times the mean gradient on the straight path from a baseline x' to x, summed over channels.

    Sundararajan et al. 2017, arXiv:1703.01365. The maps sum to S(x) - S(x') up to the quadrature's error
    (completeness), unless ``reduction`` asks for another one of the channels. ``midpoint`` is the default because it
    needs no end points and errs less than the trapezoid. ``baseline_image``: a colour (C,), an image (height, width, C)
    or one for each image (n, height, width, C), all in [0, 255], is used instead of ``baseline``.
    """
    start = chosen_baselines(images, baseline, baseline_image)
    alphas, weights = quadrature_rule(quadrature, n_steps)

    def fields(_: slice, members: slice) -> np.ndarray:
        return start[None, members]

    points = Points(weights, alphas.astype(np.float32)[:, None], fields)
    (shares,) = gradient_sums(network, images, targets, points, batch_size, "integrated gradients")
    return reduce_channels(shares, reduction).astype(np.float32)


def integrated_gradients_bw(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    n_steps: int,
    quadrature: str,
    reduction: str,
) -> np.ndarray:
    """Mean of integrated gradients from black and from white, so that neither a black nor a white pixel is blind.

    Summed over channels, the maps sum to S(x) - (S(black) + S(white)) / 2. ``n_steps`` is for each of the two paths.
    """
    alphas, weights = (np.tile(x, 2) for x in quadrature_rule(quadrature, n_steps))
    ends = np.repeat(np.array([0, 255], np.float32), n_steps)[:, None, None, None, None]

    def fields(at: slice, _: slice) -> np.ndarray:
        return np.repeat(ends[at], images.shape[-1], axis=-1)

    points = Points(weights / 2, alphas.astype(np.float32)[:, None], fields)
    (shares,) = gradient_sums(network, images, targets, points, batch_size, "integrated gradients")
    return reduce_channels(shares, reduction).astype(np.float32)


def _bw_total(network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, **_: object) -> np.ndarray:
    rises = [
        score_above_baseline(network, images, targets, batch_size, baseline=end, baseline_image=None) for end in _ENDS
    ]
    return np.mean(rises, axis=0)


def quadrature_rule(name: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in [0, 1] and weights that sum to 1."""
    if name == "midpoint":
        return (np.arange(n) + 0.5) / n, np.full(n, 1 / n)
    if name == "gauss_legendre":
        points, weights = np.polynomial.legendre.leggauss(n)
        return (points + 1) / 2, weights / 2
    if name == "trapezoid":
        if n == 1:
            return np.array([0.5]), np.array([1.0])
        weights = np.full(n, 1 / (n - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, n), weights
    raise ValueError(f"quadrature={name!r} is unknown.")


_N_STEPS = Parameter("n_steps", int, 20, "points on the path; the paper: 20 to 300", 1, 1000)
_QUADRATURE = Parameter(
    "quadrature", str, "midpoint", "integration rule", choices=("midpoint", "gauss_legendre", "trapezoid")
)

INTEGRATED_GRADIENTS = Method(
    name="integrated_gradients",
    title="Integrated gradients",
    family="gradients",
    paper="Sundararajan, Taly & Yan 2017, arXiv:1703.01365",
    signed=True,
    cost="n_steps gradients",
    compute=integrated_gradients,
    total=score_above_baseline,
    parameters=(_N_STEPS, BASELINE, BASELINE_IMAGE, _QUADRATURE, SHARES),
)
INTEGRATED_GRADIENTS_BW = Method(
    name="integrated_gradients_bw",
    title="Integrated gradients, black and white",
    family="gradients",
    paper="Sundararajan, Taly & Yan 2017, arXiv:1703.01365; from black and white: Kapishnikov et al. 2019, XRAI, "
    "arXiv:1906.02825",
    signed=True,
    cost="2 n_steps gradients",
    compute=integrated_gradients_bw,
    total=_bw_total,
    parameters=(_N_STEPS, _QUADRATURE, SHARES),
)
