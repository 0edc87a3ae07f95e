"""LIME: a weighted linear model of which superpixels are shown."""

import numpy as np
from skimage import segmentation as skimage_segmentation

from xaiutils.attribution.baselines import FILLS, fill_images
from xaiutils.attribution.method import SCORES, SEED, Method
from xaiutils.graph.network import Network
from xaiutils.graph.passes import masked_scores
from xaiutils.images import as_rgb
from xaiutils.progress import progress
from xaiutils.registry import Parameter


def superpixels(image: np.ndarray, segmentation: str, n_segments: int, seed: int) -> np.ndarray:
    """Superpixel numbers 0, 1, ... without gaps, int ``(height, width)``, of an image in [0, 255].

    "quickshift" with the settings of the authors' package (kernel 4, distance 200, ratio 0.2), which finds its number
    of superpixels itself, or "slic" with about ``n_segments`` (compactness 10). Colours are compared in CIELAB, other
    numbers of channels as they are.
    """
    if image.shape[-1] == 1:
        image = as_rgb(image)
    lab = image.shape[-1] == 3
    if segmentation == "quickshift":
        found = skimage_segmentation.quickshift(
            image / 255.0, kernel_size=4, max_dist=200, ratio=0.2, convert2lab=lab, rng=seed
        )
    else:
        found = skimage_segmentation.slic(image / 255.0, n_segments, compactness=10, convert2lab=lab, start_label=0)
    return _numbered(found)


def _numbered(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def segments_of_images(
    images: np.ndarray, segments: np.ndarray | None, segmentation: str, n_segments: int, seed: int
) -> np.ndarray:
    """The superpixels of all images, given or found, ``(n, height, width)`` int32."""
    if segments is None:
        found = [superpixels(image, segmentation, n_segments, seed) for image in progress(images, title="superpixels")]
        return np.stack(found).astype(np.int32)
    if segments.shape not in (images.shape[:3], images.shape[1:3]) or (segments != np.rint(segments)).any():
        raise ValueError(
            f"segments has the shape {segments.shape}; expected whole numbers, one for each pixel: {images.shape[:3]}, "
            f"or {images.shape[1:3]} for all images."
        )
    return np.stack([_numbered(found) for found in np.broadcast_to(segments, images.shape[:3])]).astype(np.int32)


def hidden_fill(images: np.ndarray, segments: np.ndarray, fill: str) -> np.ndarray:
    """What hidden superpixels show: their mean colour where ``fill`` is "superpixel", else as `fill_images`."""
    if fill != "superpixel":
        return fill_images(images, fill)
    means = np.empty_like(images)
    for image, found, mean in zip(images, segments, means, strict=True):
        size = np.bincount(found.ravel())
        for channel in range(image.shape[-1]):
            mean[..., channel] = (np.bincount(found.ravel(), image[..., channel].ravel()) / size)[found]
    return means


def shown_superpixels(n_samples: int, n_superpixels: int, seed: int) -> np.ndarray:
    """Which superpixels each sample shows, bool ``(n_samples, n_superpixels)``; the first shows all."""
    shown = np.random.default_rng(seed).random((n_samples, n_superpixels)) < 0.5
    shown[0] = True
    return shown


def _ridge(shown: np.ndarray, scores: np.ndarray, kernel_width: float, alpha: float) -> np.ndarray:
    """Coefficients ``(n_superpixels,)`` of the weighted ridge regression with a free intercept."""
    distance = 1 - np.sqrt(shown.mean(axis=1))  # cosine distance of a binary vector to the vector of ones
    weights = np.sqrt(np.exp(-((distance / kernel_width) ** 2)))
    x = shown - np.average(shown, axis=0, weights=weights)
    y = scores - np.average(scores, weights=weights)
    weighted = x.T * weights
    return np.linalg.solve(weighted @ x + alpha * np.eye(x.shape[1]), weighted @ y)


def lime(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    n_samples: int,
    segmentation: str,
    n_segments: int,
    segments: np.ndarray | None,
    fill: str,
    kernel_width: float,
    alpha: float,
    score: str,
    seed: int,
) -> np.ndarray:
    """Each superpixel's coefficient in a linear model of the score, fitted around the image (Ribeiro, Singh & Guestrin
    2016, arXiv:1602.04938).

    A sample z shows each superpixel with probability 1/2 (the first shows all). The model minimises
    sum_z pi(z) (S(z) - b - w z)^2 + alpha |w|^2, pi(z) = sqrt(exp(-d^2 / kernel_width^2)), d the cosine distance of z
    to all ones; these are the settings of the authors' package, where the paper keeps K superpixels chosen by Lasso and
    hides the others by grey. ``fill="superpixel"`` hides a superpixel by its mean colour. ``segments`` gives the
    superpixels, whole numbers ``(height, width)`` or ``(n, height, width)``, in place of ``segmentation``. ValueError
    if they have another shape.
    """
    n = len(images)
    segments = segments_of_images(images, segments, segmentation, n_segments, seed)
    counts = segments.max(axis=(1, 2)) + 1
    members, samples = np.divmod(np.arange(n * n_samples), n_samples)

    def masks(batch: slice) -> np.ndarray:
        masks = np.empty((batch.stop - batch.start, *segments.shape[1:]), np.float32)
        member, sample = members[batch], samples[batch]
        for i in np.unique(member):
            rows = member == i
            masks[rows] = shown_superpixels(n_samples, counts[i], seed)[sample[rows]][:, segments[i]]
        return masks

    fills = hidden_fill(images, segments, fill)
    scores = masked_scores(network, images, fills, targets, members, masks, batch_size, score, "LIME")
    maps = np.empty(segments.shape, np.float32)
    for i, found in enumerate(scores.reshape(n, n_samples).astype(np.float64)):
        maps[i] = _ridge(shown_superpixels(n_samples, counts[i], seed), found, kernel_width, alpha)[segments[i]]
    return maps


SEGMENTATION = Parameter("segmentation", str, "quickshift", "how superpixels are found", choices=("quickshift", "slic"))
SEGMENTS = Parameter("segments", np.ndarray, None, "superpixel numbers (n, height, width) in place of segmentation")
FILL = Parameter(
    "fill",
    str,
    "superpixel",
    "what hidden superpixels show; superpixel: their mean colour",
    choices=("superpixel", *FILLS),
)
LIME = Method(
    name="lime",
    title="LIME",
    family="perturbation",
    paper="Ribeiro, Singh & Guestrin 2016, arXiv:1602.04938",
    signed=True,
    cost="n_samples forwards",
    compute=lime,
    needs="nothing",
    parameters=(
        Parameter("n_samples", int, 1000, "images with superpixels hidden; the authors' package: 1000", 2, 100_000),
        SEGMENTATION,
        Parameter("n_segments", int, 50, "superpixels, about; slic only", 2, 2000),
        SEGMENTS,
        FILL,
        Parameter("kernel_width", float, 0.25, "width of the kernel of the sample weights", 0.01, 100.0),
        Parameter("alpha", float, 1.0, "weight of the ridge penalty", 1e-6, 1e6),
        Parameter("score", str, "probability", "the score that the linear model predicts", choices=SCORES),
        SEED,
    ),
)
