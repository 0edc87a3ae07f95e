"""What pixels are replaced by: the baselines of path methods, and the fills of methods that hide pixels."""

import numpy as np
from scipy import ndimage

from xaiutils.graph.network import Network
from xaiutils.graph.passes import target_scores
from xaiutils.images import check_images
from xaiutils.registry import Parameter

BASELINES = ("black", "white", "mean", "blur")
FILLS = ("grey", *BASELINES)
BASELINE = Parameter("baseline", str, "black", "the reference image", choices=BASELINES)
BASELINE_IMAGE = Parameter(
    "baseline_image",
    np.ndarray,
    None,
    "a colour, an image or an image for each, in [0, 255], used instead of baseline",
)


def baseline_images(images: np.ndarray, baseline: str) -> np.ndarray:
    """The baseline x' of each image, same shape: "black" 0, "white" 255, "mean" its mean colour, or itself blurred
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


def fill_images(images: np.ndarray, fill: str) -> np.ndarray:
    """What hidden pixels show: mid-grey 127.5, or a baseline of `baseline_images`."""
    return np.full_like(images, 127.5) if fill == "grey" else baseline_images(images, fill)


def chosen_baselines(images: np.ndarray, baseline: str, baseline_image: np.ndarray | None) -> np.ndarray:
    """The baseline x' of each image, same shape: ``baseline_image`` where it is given, otherwise the named one."""
    if baseline_image is None:
        return baseline_images(images, baseline)
    given = reference_images("baseline_image", baseline_image, images.shape[1:])
    if len(given) not in (1, len(images)):
        raise ValueError(f"baseline_image holds {len(given)} images; expected one, or one for each of {len(images)}.")
    return np.broadcast_to(given, images.shape)


def reference_images(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The parameter ``name`` as checked images ``(k, height, width, C)`` of the given (height, width, C), or
    as colours ``(k, 1, 1, C)``: a number (a grey), a colour (C,) and one image become a batch of one."""
    batch = array.reshape(1, 1, 1, -1) if array.ndim < 2 else array[None] if array.ndim == 3 else array
    height, width, channels = shape
    fits = batch.ndim == 4 and batch.shape[1:3] in ((height, width), (1, 1)) and batch.shape[-1] in (1, 3, channels)
    if not fits:
        raise ValueError(
            f"{name} has shape {array.shape}; expected a colour ({channels},), an image {tuple(shape)} or "
            f"a batch (n, {height}, {width}, {channels})."
        )
    try:
        return check_images(batch, channels=channels)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def score_above_baseline(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    baseline: str,
    baseline_image: np.ndarray | None,
    **_: object,
) -> np.ndarray:
    """S(x) - S(x') ``(n,)``, S the target's logit: the total of the methods that share out this difference."""
    start = chosen_baselines(images, baseline, baseline_image)
    both = target_scores(network, np.concatenate([images, start]), np.tile(targets, 2), batch_size)
    return both[: len(images)] - both[len(images) :]
