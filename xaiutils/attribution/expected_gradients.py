"""Expected gradients: integrated gradients averaged over many reference images."""

import numpy as np

from xaiutils.attribution.baselines import reference_images
from xaiutils.attribution.method import SEED, SHARES, Method
from xaiutils.graph.network import Network
from xaiutils.graph.passes import logits, reduce_channels, target_scores
from xaiutils.graph.paths import Points, gradient_sums
from xaiutils.registry import Parameter

GREY_LEVELS = 16  # of the default background


def expected_gradients(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    n_samples: int,
    background: np.ndarray | None,
    alphas: str,
    seed: int,
    reduction: str,
) -> np.ndarray:
    """Mean over draws of (x - x') * dS/dx at x' + alpha (x - x'), x' a background image, by channel; then
    summed over them, or reduced as ``reduction`` says.

    Erion et al. 2021, arXiv:1906.10670: each draw takes one x' from ``background`` (k, height, width, C), with
    replacement, and one alpha, uniform in [0, 1]; ``alphas="stratified"`` takes the i-th alpha from the i-th of
    n_samples equal parts instead, which errs less where the references are few. All images get the same draws. In
    expectation the maps sum to S(x) minus the mean of S over the background.

    Give training images as ``background``: that is the published method. Without them the background is 16 uniform
    images from black to white in even steps of grey (black-and-white integrated gradients with the greys between), a
    reference that depends neither on other data nor on the other images of the batch.
    """
    references = _background(background, images.shape[1:])
    chosen, alpha = _draws(n_samples, len(references), alphas, seed)

    def fields(at: slice, _: slice) -> np.ndarray:
        return references[chosen[at], None]

    points = Points(np.full(n_samples, 1 / n_samples), alpha[:, None], fields)
    (shares,) = gradient_sums(network, images, targets, points, batch_size, "expected gradients")
    return reduce_channels(shares, reduction).astype(np.float32)


def _total(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    n_samples: int,
    background: np.ndarray | None,
    alphas: str,
    seed: int,
    **_: object,
) -> np.ndarray:
    """Given the references that were drawn; the alphas are still random, so this holds in expectation over them."""
    references = _background(background, images.shape[1:])
    chosen = _draws(n_samples, len(references), alphas, seed)[0]
    reached = logits(network, np.broadcast_to(references, (len(references), *images.shape[1:])), batch_size)
    return target_scores(network, images, targets, batch_size) - reached[chosen].mean(axis=0)[targets]


def _background(background: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if background is not None:
        return reference_images("background", background, shape)
    levels = np.linspace(0, 255, GREY_LEVELS, dtype=np.float32)
    return np.repeat(levels[:, None, None, None], shape[-1], axis=-1)


def _draws(n_samples: int, n_references: int, alphas: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The background image and the alpha of each draw."""
    rng = np.random.default_rng(seed)
    chosen, points = rng.integers(n_references, size=n_samples), rng.random(n_samples)
    if alphas == "stratified":
        points = (np.arange(n_samples) + points) / n_samples
    return chosen, points.astype(np.float32)


EXPECTED_GRADIENTS = Method(
    name="expected_gradients",
    title="Expected gradients",
    family="gradients",
    paper="Erion, Janizek, Sturmfels, Lundberg & Lee 2021, arXiv:1906.10670",
    signed=True,
    cost="n_samples gradients",
    compute=expected_gradients,
    total=_total,
    parameters=(
        Parameter("n_samples", int, 50, "draws of a background image and an alpha", 1, 10_000),
        Parameter(
            "background",
            np.ndarray,
            None,
            "reference images (k, height, width, C) in [0, 255], in the paper training images; None: 16 even greys",
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
