"""Methods on the gradient of the target's logit S by the image x."""

import numpy as np
from scipy import ndimage

from xaiutils.attribution.method import METHODS, REDUCTION, SEED, Method
from xaiutils.attribution.network import Network
from xaiutils.attribution.passes import averaged_gradients, batches, input_gradients, reduce_channels
from xaiutils.registry import Parameter

BASELINES = ("black", "white", "mean", "blur")


def _gradients(network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int) -> np.ndarray:
    run = input_gradients(network)
    return np.concatenate([run(images[b], targets[b]) for b in batches(len(images), batch_size, "gradients")])


def vanilla_gradients(network, images, targets, batch_size, *, reduction: str) -> np.ndarray:
    """Saliency, max over channels of abs(dS/dx) (Simonyan et al. 2014, arXiv:1312.6034, section 3)."""
    return reduce_channels(_gradients(network, images, targets, batch_size), reduction)


def gradients_x_inputs(network, images, targets, batch_size) -> np.ndarray:
    """Sum over channels of x * dS/dx, x in [0, 255] (Shrikumar et al. 2016, arXiv:1605.01713).

    The product is with the raw image, so a black pixel gets 0: it explains the difference to a black image, to first
    order.
    """
    return (images * _gradients(network, images, targets, batch_size)).sum(axis=-1)


def smoothgrad(
    network, images, targets, batch_size, *, n_samples: int, noise: float, reduction: str, seed: int
) -> np.ndarray:
    """Mean gradient over noisy copies x + N(0, sigma^2) (Smilkov et al. 2017, arXiv:1706.03825).

    sigma is ``noise`` times the range (max - min) of each image; copies are not clipped. Every image gets the same
    unit noise, so that its map does not depend on the others in the batch.
    """
    unit = _UnitNoise(images.shape[1:], seed)
    sigma = np.float32(noise) * np.ptp(images, axis=(1, 2, 3), keepdims=True)

    def place(members: np.ndarray, point: int) -> np.ndarray:
        return images[members] + sigma[members] * unit(point)

    mean = averaged_gradients(
        network,
        images,
        targets,
        np.full(n_samples, 1 / n_samples),
        place,
        batch_size,
        "SmoothGrad",
    )
    return reduce_channels(mean, reduction)


class _UnitNoise:
    """Standard normal noise of a sample number; the last one is kept, since samples come in order."""

    def __init__(self, shape: tuple[int, ...], seed: int):
        self._shape, self._seed, self._point, self._noise = shape, seed, -1, None

    def __call__(self, point: int) -> np.ndarray:
        if point != self._point:
            rng = np.random.default_rng([self._seed, point])
            self._point, self._noise = point, rng.standard_normal(self._shape, np.float32)
        return self._noise


def integrated_gradients(
    network, images, targets, batch_size, *, n_steps: int, baseline: str, quadrature: str
) -> np.ndarray:
    """(x - x') times the mean gradient on the straight path from a baseline x' to x, summed over channels.

    Sundararajan et al. 2017, arXiv:1703.01365. The maps sum to S(x) - S(x') up to the quadrature's error
    (completeness). ``midpoint`` is the default because it needs no end points and errs less than the trapezoid.
    """
    alphas, weights = quadrature_rule(quadrature, n_steps)
    start = baseline_images(images, baseline)

    def place(members: np.ndarray, point: int) -> np.ndarray:
        return start[members] + np.float32(alphas[point]) * (images[members] - start[members])

    mean = averaged_gradients(
        network,
        images,
        targets,
        weights,
        place,
        batch_size,
        "integrated gradients",
    )
    return ((images - start) * mean).sum(axis=-1)


def baseline_images(images: np.ndarray, baseline: str) -> np.ndarray:
    """The reference x' of each image, same shape: "black" 0, "white" 255, "mean" its mean colour, or itself blurred
    by a Gaussian of a tenth of its height."""
    if baseline == "black":
        return np.zeros_like(images)
    if baseline == "white":
        return np.full_like(images, 255.0)
    if baseline == "mean":
        return np.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape)
    if baseline == "blur":
        sigma = images.shape[1] / 10
        return ndimage.gaussian_filter(images, (0, sigma, sigma, 0), truncate=3.0)
    raise ValueError(f"baseline={baseline!r} is unknown; choose one of {', '.join(BASELINES)}.")


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


METHODS.add(
    Method(
        name="vanilla_gradients",
        title="Vanilla gradients",
        family="gradients",
        paper="Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034",
        signed=False,
        cost="1 gradient",
        compute=vanilla_gradients,
        parameters=(REDUCTION,),
    )
)
METHODS.add(
    Method(
        name="gradients_x_inputs",
        title="Gradients x inputs",
        family="gradients",
        paper="Shrikumar, Greenside, Shcherbina & Kundaje 2016, arXiv:1605.01713",
        signed=True,
        cost="1 gradient",
        compute=gradients_x_inputs,
    )
)
METHODS.add(
    Method(
        name="smoothgrad",
        title="SmoothGrad",
        family="gradients",
        paper="Smilkov, Thorat, Kim, Viegas & Wattenberg 2017, arXiv:1706.03825",
        signed=False,
        cost="n_samples gradients",
        compute=smoothgrad,
        parameters=(
            Parameter("n_samples", int, 25, "noisy copies; the paper finds little change above 50", 1, 1000),
            Parameter(
                "noise",
                float,
                0.15,
                "sigma as a fraction of each image's range; the paper: 0.1 to 0.2",
                0.0,
                1.0,
            ),
            REDUCTION,
            SEED,
        ),
    )
)
METHODS.add(
    Method(
        name="integrated_gradients",
        title="Integrated gradients",
        family="gradients",
        paper="Sundararajan, Taly & Yan 2017, arXiv:1703.01365",
        signed=True,
        cost="n_steps gradients",
        compute=integrated_gradients,
        parameters=(
            Parameter("n_steps", int, 20, "points on the path; the paper: 20 to 300", 1, 1000),
            Parameter("baseline", str, "black", "the reference image", choices=BASELINES),
            Parameter(
                "quadrature",
                str,
                "midpoint",
                "integration rule",
                choices=("midpoint", "gauss_legendre", "trapezoid"),
            ),
        ),
    )
)
