"""Integrated gradients, from one baseline or from black and white."""

import numpy as np

from xaiutils.attribution.baselines import BASELINE, BASELINE_IMAGE, chosen_baselines, score_above_baseline
from xaiutils.attribution.method import SHARES, Method
from xaiutils.graph.network import Network
from xaiutils.graph.passes import averaged_gradients, reduce_channels
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
    return reduce_channels(_along_path(network, images, targets, batch_size, start, n_steps, quadrature), reduction)


def _along_path(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    start: np.ndarray,
    n_steps: int,
    quadrature: str,
) -> np.ndarray:
    """Integrated gradients of each channel, ``(n, height, width, C)``."""
    alphas, weights = quadrature_rule(quadrature, n_steps)

    def place(members: np.ndarray, point: int) -> np.ndarray:
        return start[members] + np.float32(alphas[point]) * (images[members] - start[members])

    mean = averaged_gradients(network, images, targets, weights, place, batch_size, "integrated gradients")
    return (images - start) * mean


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
    black, white = (
        _along_path(network, images, targets, batch_size, chosen_baselines(images, end, None), n_steps, quadrature)
        for end in _ENDS
    )
    return reduce_channels((black + white) / 2, reduction)


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
