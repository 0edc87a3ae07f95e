"""Methods on the gradient of the target's logit S by the image x."""

import numpy as np
from scipy import ndimage

from xaiutils.attribution.method import REDUCTION, SEED, SHARES, Method
from xaiutils.graph.network import Network
from xaiutils.graph.passes import (
    averaged_gradients,
    batches,
    class_scores,
    input_gradients,
    logits,
    moved_copies,
    reduce_channels,
)
from xaiutils.images import check_images
from xaiutils.registry import Parameter

BASELINES = ("black", "white", "mean", "blur")
GREY_LEVELS = 16  # of the background that expected_gradients has by default


def _gradients(network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int) -> np.ndarray:
    run = input_gradients(network)
    return np.concatenate([run(images[b], targets[b]) for b in batches(len(images), batch_size, "gradients")])


def _scores(network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int) -> np.ndarray:
    return class_scores(network, logits(network, images, batch_size), targets, "logit").numpy()


def vanilla_gradients(network, images, targets, batch_size, *, reduction: str) -> np.ndarray:
    """Saliency, max over channels of abs(dS/dx) (Simonyan et al. 2014, arXiv:1312.6034, section 3)."""
    return reduce_channels(_gradients(network, images, targets, batch_size), reduction)


def gradients_x_inputs(network, images, targets, batch_size, *, reduction: str) -> np.ndarray:
    """x * dS/dx, x in [0, 255], summed over channels unless ``reduction`` says otherwise (Shrikumar et al. 2016,
    arXiv:1605.01713).

    The product is with the raw image, so a black pixel gets 0: it explains the difference to a black image, to first
    order. It sums to that difference for a linear model only.
    """
    return reduce_channels(images * _gradients(network, images, targets, batch_size), reduction)


# Integrated gradients ---------------------------------------------------------------------------------------------


def integrated_gradients(network, images, targets, batch_size, *, reduction: str, **path) -> np.ndarray:
    """(x - x') times the mean gradient on the straight path from a baseline x' to x, summed over channels.

    Sundararajan et al. 2017, arXiv:1703.01365. The maps sum to S(x) - S(x') up to the quadrature's error
    (completeness), unless ``reduction`` asks for another one of the channels. ``midpoint`` is the default because it
    needs no end points and errs less than the trapezoid. ``baseline_image``: a colour (3,), an image (height, width, 3)
    or one for each image (n, height, width, 3), all in [0, 255], is used instead of ``baseline``.
    """
    return reduce_channels(_on_path(network, images, targets, batch_size, **path), reduction)


def _on_path(
    network, images, targets, batch_size, *, n_steps: int, baseline: str, baseline_image, quadrature: str
) -> np.ndarray:
    """Integrated gradients of each channel, ``(n, height, width, 3)``."""
    alphas, weights = quadrature_rule(quadrature, n_steps)
    start = start_images(images, baseline, baseline_image)

    def place(members: np.ndarray, point: int) -> np.ndarray:
        return start[members] + np.float32(alphas[point]) * (images[members] - start[members])

    mean = averaged_gradients(network, images, targets, weights, place, batch_size, "integrated gradients")
    return (images - start) * mean


def baseline_total(network, images, targets, batch_size, *, baseline: str, baseline_image, **_) -> np.ndarray:
    start = start_images(images, baseline, baseline_image)
    return _scores(network, images, targets, batch_size) - _scores(network, start, targets, batch_size)


def integrated_gradients_bw(
    network, images, targets, batch_size, *, n_steps: int, quadrature: str, reduction: str
) -> np.ndarray:
    """Mean of integrated gradients from black and from white, so that neither a black nor a white pixel is blind.

    Summed over channels, the maps sum to S(x) - (S(black) + S(white)) / 2. ``n_steps`` is for each of the two paths.
    """
    options = {"n_steps": n_steps, "quadrature": quadrature, "baseline_image": None}
    black, white = (_on_path(network, images, targets, batch_size, baseline=b, **options) for b in ("black", "white"))
    return reduce_channels((black + white) / 2, reduction)


def _bw_total(network, images, targets, batch_size, **_) -> np.ndarray:
    ends = [
        baseline_total(network, images, targets, batch_size, baseline=b, baseline_image=None)
        for b in ("black", "white")
    ]
    return np.mean(ends, axis=0)


def start_images(images: np.ndarray, baseline: str, baseline_image: np.ndarray | None) -> np.ndarray:
    """The baseline x' of each image, same shape."""
    if baseline_image is None:
        return baseline_images(images, baseline)
    given = pictures("baseline_image", baseline_image, images.shape[1:])
    if len(given) not in (1, len(images)):
        raise ValueError(f"baseline_image holds {len(given)} images; expected one, or one for each of {len(images)}.")
    return np.broadcast_to(given, images.shape)


def pictures(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The parameter ``name`` as checked images ``(k, height, width, 3)`` of the given (height, width, 3), or as
    colours ``(k, 1, 1, 3)``: a colour (3,) and one image become a batch of one."""
    batch = array.reshape(1, 1, 1, 3) if array.shape == (3,) else array[None] if array.ndim == 3 else array
    if batch.ndim != 4 or batch.shape[1:] not in (tuple(shape), (1, 1, 3)):
        height, width = shape[:2]
        raise ValueError(
            f"{name} has shape {array.shape}; expected a colour (3,), an image ({height}, {width}, 3) or a batch "
            f"(n, {height}, {width}, 3)."
        )
    try:
        return check_images(batch)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


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


# Expected gradients -----------------------------------------------------------------------------------------------


def expected_gradients(
    network, images, targets, batch_size, *, n_samples: int, background, alphas: str, seed: int, reduction: str
) -> np.ndarray:
    """Mean over draws of (x - x') * dS/dx at x' + alpha (x - x'), x' a background image, by channel; then
    summed over them, or reduced as ``reduction`` says.

    Erion et al. 2021, arXiv:1906.10670: each draw takes one x' from ``background`` (k, height, width, 3), with
    replacement, and one alpha, uniform in [0, 1]; ``alphas="stratified"`` takes the i-th alpha from the i-th of
    n_samples equal parts instead, which errs less where the references are few. All images get the same draws. In
    expectation the maps sum to S(x) minus the mean of S over the background.

    Give training images as ``background``: that is the published method. Without them the background is 16 uniform
    images from black to white in even steps of grey (black-and-white integrated gradients with the greys between), a
    reference that depends neither on other data nor on the other images of the batch.
    """
    references = _background(background, images.shape[1:])
    chosen, points = _draws(n_samples, len(references), alphas, seed)
    gradients = input_gradients(network)

    def place(members: np.ndarray, point: int) -> np.ndarray:
        reference = references[chosen[point]]
        return reference + points[point] * (images[members] - reference)

    total = np.zeros(images.shape, np.float64)
    for placed, members, rows in moved_copies(len(images), n_samples, place, batch_size, "expected gradients"):
        found = gradients(placed, targets[members])
        for point, at in rows:
            difference = images[members[at]] - references[chosen[point]]
            total[members[at]] += difference * found[at]
    return reduce_channels(total / n_samples, reduction).astype(np.float32)


def _expected_total(
    network, images, targets, batch_size, *, n_samples: int, background, alphas: str, seed: int, **_
) -> np.ndarray:
    """Given the references that were drawn; the alphas are still random, so this holds in expectation over them."""
    references = _background(background, images.shape[1:])
    chosen, _ = _draws(n_samples, len(references), alphas, seed)
    reached = logits(network, np.broadcast_to(references, (len(references), *images.shape[1:])), batch_size)
    return _scores(network, images, targets, batch_size) - reached[chosen].mean(axis=0)[targets]


def _background(background: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if background is not None:
        return pictures("background", background, shape)
    levels = np.linspace(0, 255, GREY_LEVELS, dtype=np.float32)
    return np.repeat(levels[:, None, None, None], 3, axis=-1)


def _draws(n_samples: int, n_references: int, alphas: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The background image and the alpha of each draw."""
    rng = np.random.default_rng(seed)
    chosen, points = rng.integers(n_references, size=n_samples), rng.random(n_samples)
    if alphas == "stratified":
        points = (np.arange(n_samples) + points) / n_samples
    return chosen, points.astype(np.float32)


_N_STEPS = Parameter("n_steps", int, 20, "points on the path; the paper: 20 to 300", 1, 1000)
_QUADRATURE = Parameter(
    "quadrature", str, "midpoint", "integration rule", choices=("midpoint", "gauss_legendre", "trapezoid")
)

VANILLA_GRADIENTS = Method(
    name="vanilla_gradients",
    title="Vanilla gradients",
    family="gradients",
    paper="Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034",
    signed=False,
    cost="1 gradient",
    compute=vanilla_gradients,
    parameters=(REDUCTION,),
)

GRADIENTS_X_INPUTS = Method(
    name="gradients_x_inputs",
    title="Gradients x inputs",
    family="gradients",
    paper="Shrikumar, Greenside, Shcherbina & Kundaje 2016, arXiv:1605.01713",
    signed=True,
    cost="1 gradient",
    compute=gradients_x_inputs,
    parameters=(SHARES,),
)

INTEGRATED_GRADIENTS = Method(
    name="integrated_gradients",
    title="Integrated gradients",
    family="gradients",
    paper="Sundararajan, Taly & Yan 2017, arXiv:1703.01365",
    signed=True,
    cost="n_steps gradients",
    compute=integrated_gradients,
    total=baseline_total,
    parameters=(
        _N_STEPS,
        Parameter("baseline", str, "black", "the reference image", choices=BASELINES),
        Parameter(
            "baseline_image",
            np.ndarray,
            None,
            "a colour, an image or an image for each, in [0, 255], used instead of baseline",
        ),
        _QUADRATURE,
        SHARES,
    ),
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

EXPECTED_GRADIENTS = Method(
    name="expected_gradients",
    title="Expected gradients",
    family="gradients",
    paper="Erion, Janizek, Sturmfels, Lundberg & Lee 2021, arXiv:1906.10670",
    signed=True,
    cost="n_samples gradients",
    compute=expected_gradients,
    total=_expected_total,
    parameters=(
        Parameter("n_samples", int, 50, "draws of a background image and an alpha", 1, 10_000),
        Parameter(
            "background",
            np.ndarray,
            None,
            "reference images (k, height, width, 3) in [0, 255], in the paper training images; None: 16 even greys",
        ),
        Parameter(
            "alphas",
            str,
            "random",
            "how the positions between reference and image are drawn",
            choices=("random", "stratified"),
        ),
        SEED,
        SHARES,
    ),
)
