"""Prediction difference analysis: the evidence that is lost when a window is replaced by what could be there."""

import functools
from collections.abc import Callable

import numpy as np

from xaiutils.attribution.method import SEED, Method
from xaiutils.attribution.windows import check_stride, mean_over_windows, window_starts
from xaiutils.graph.network import Network
from xaiutils.graph.passes import scores_of, target_scores
from xaiutils.images import check_images
from xaiutils.registry import Parameter

_MOST_PADDING = 4
_RIDGE = 1e-4  # added to its variances, as a fraction of their mean: neighbouring pixels are nearly collinear


class PatchGaussian:
    """A normal distribution of image patches ``(rows, columns, C)``, all channels together.

    Patches are taken to be distributed alike everywhere in ``images``, so the mean is one colour, and the covariance of
    two values depends on their colours and on how far apart they are alone: it is the images' autocovariance, the sum
    of products over all pairs of pixels that far apart, over the number of pixels. Fitted to patches as they come, a
    covariance of many more numbers would learn a single image by heart. Draws a window given the rest of its patch.
    """

    def __init__(self, images: np.ndarray, rows: int, columns: int):
        n, height, width, self._channels = images.shape
        padded, size = (height + rows, width + columns), rows * columns * self._channels
        colour = images.mean(axis=(0, 1, 2), dtype=np.float64)
        spectrum = np.zeros((self._channels, self._channels, padded[0], padded[1] // 2 + 1), np.complex128)
        for image in images:
            one = np.fft.rfft2((image - colour).transpose(2, 0, 1), padded)
            spectrum += one[:, None] * one[None].conj()
        products = np.fft.irfft2(spectrum, padded) / (
            n * height * width
        )  # by colours and distances; negative ones wrap
        y, x = (np.subtract.outer(np.arange(side), np.arange(side)) for side in (rows, columns))
        covariance = products[:, :, y[:, None, :, None], x[None, :, None, :]]  # colour, colour, y, x, y, x
        covariance = covariance.transpose(0, 2, 3, 1, 4, 5).reshape(size, size)
        variance = covariance.trace() / size
        self._mean = colour.repeat(rows * columns)
        self._covariance = covariance + (_RIDGE * variance + 1e-6) * np.eye(size)
        self._shape = (rows, columns)
        self._conditionals: dict[tuple[int, int, int, int], tuple[np.ndarray, ...]] = {}

    def draw(self, patch: np.ndarray, top: int, left: int, rows: int, columns: int, noise: np.ndarray) -> np.ndarray:
        """Samples ``(len(noise), rows, columns, C)`` of the window at (top, left) of ``patch`` given its other pixels.

        ``noise`` is standard normal, ``(samples, C * rows * columns)``. Values are cut to [0, 255].
        """
        key = (top, left, rows, columns)
        if key not in self._conditionals:
            if len(self._conditionals) > 2 * _MOST_PADDING:  # a row of windows has no more than this and one places
                del self._conditionals[next(iter(self._conditionals))]
            self._conditionals[key] = self._conditional(*key)
        inside, gain, root = self._conditionals[key]
        given = patch.transpose(2, 0, 1).ravel() - self._mean
        drawn = self._mean[inside] + gain @ given[~inside] + noise @ root.T
        return np.clip(drawn, 0, 255).reshape(-1, self._channels, rows, columns).transpose(0, 2, 3, 1)

    def _conditional(self, top: int, left: int, rows: int, columns: int) -> tuple[np.ndarray, ...]:
        """Which values lie inside; the matrix from the others to the mean inside, and a root of the covariance there:
        C_ir C_rr^-1 and C_ii - C_ir C_rr^-1 C_ri."""
        window = np.zeros((self._channels, *self._shape), bool)
        window[:, top : top + rows, left : left + columns] = True
        inside = window.ravel()
        across = self._covariance[np.ix_(~inside, inside)]
        gain = np.linalg.solve(self._covariance[np.ix_(~inside, ~inside)], across).T
        left_over = self._covariance[np.ix_(inside, inside)] - gain @ across
        return inside, gain, np.linalg.cholesky((left_over + left_over.T) / 2)


def _check(network: Network) -> None:
    network.check_probabilities("this method compares nothing else, so use occlusion")


def prediction_difference(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    patch_size: int,
    padding: int,
    stride: int,
    n_samples: int,
    sampling: str,
    background: np.ndarray | None,
    n_training: int,
    seed: int,
) -> np.ndarray:
    """Mean over the windows w that cover a pixel of log2 odds(c | x) - log2 odds(c | x without w), in bits (Zintgraf,
    Cohen, Adel & Welling 2017, arXiv:1702.04595). Positive: the pixels speak for the class.

    p(c | x without w) is the mean probability over ``n_samples`` images with a redrawn window: "conditional", from
    a normal distribution of patches, given the ``padding`` pixels around the window; or "marginal", the same window of
    a random background image. odds = p / (1 - p) of the Laplace-corrected p <- (p N + 1) / (N + K), N = ``n_training``
    and K classes (2 for sigmoid outputs).

    The normal distribution (`PatchGaussian`) is fitted to ``background``, images ``(m, height, width, C)`` in [0, 255]
    such as the training set's; without them, to the explained image itself. The paper's windows start at every pixel
    (``stride=1``; 0: side by side), all whole: the last ones end at the image's edge. A window is drawn with the same
    noise for all images, whatever the batch.

    ValueError: the stride leaves gaps, "marginal" without ``background``, or a background of a wrong shape.
    """
    _check(network)
    n, height, width = images.shape[:3]
    check_stride(stride, patch_size)
    rows, columns = min(patch_size, height), min(patch_size, width)
    corners = [
        (y, x)
        for y in np.minimum(window_starts(height, rows, stride or rows), height - rows)
        for x in np.minimum(window_starts(width, columns, stride or columns), width - columns)
    ]
    shape, size = (n, len(corners), n_samples), (rows, columns)
    if sampling == "marginal":
        draw = _marginal_draws(images, background, size, n_samples)
    else:
        draw = _conditional_draws(images, background, size, padding, n_samples)

    @functools.lru_cache(maxsize=1)  # a window's samples come one after the other
    def draws(member: int, k: int) -> np.ndarray:
        return draw(member, *corners[k], np.random.default_rng([seed, k]))

    def make(batch: slice) -> np.ndarray:
        members, windows, samples = np.unravel_index(np.arange(batch.start, batch.stop), shape)
        made = images[members]
        for row, (member, k, sample) in enumerate(zip(members, windows, samples, strict=True)):
            y, x = corners[k]
            made[row, y : y + rows, x : x + columns] = draws(int(member), int(k))[sample]
        return made

    everyone = np.repeat(targets, len(corners) * n_samples)
    without = scores_of(network, make, everyone, batch_size, "probability", "prediction difference")
    without = without.reshape(shape).mean(axis=2, dtype=np.float64)
    whole = target_scores(network, images, targets, batch_size, "probability")
    n_classes = network.n_classes if network.activation == "softmax" else 2
    evidence = _log2_odds(whole[:, None], n_training, n_classes) - _log2_odds(without, n_training, n_classes)
    windows = [(slice(y, y + rows), slice(x, x + columns)) for y, x in corners]
    return mean_over_windows(evidence, windows, height, width)


_Draw = Callable[[int, int, int, np.random.Generator], np.ndarray]  # (image, top, left, rng) -> (samples, rows, ...)


def _marginal_draws(images: np.ndarray, background: np.ndarray | None, size: tuple[int, int], n_samples: int) -> _Draw:
    """The same window of random background images."""
    if background is None:
        raise ValueError("sampling='marginal' draws from other images: give background=, images of the same size.")
    others = _checked_background(background, size, images.shape[-1])
    if others.shape[1:3] != images.shape[1:3]:
        height, width = images.shape[1:3]
        raise ValueError(
            f"background has the shape {others.shape}; expected images (m, {height}, {width}, {images.shape[-1]}), the "
            "size of the explained ones."
        )

    def draw(member: int, y: int, x: int, rng: np.random.Generator) -> np.ndarray:
        return others[rng.integers(0, len(others), n_samples), y : y + size[0], x : x + size[1]]

    return draw


def _conditional_draws(
    images: np.ndarray, background: np.ndarray | None, size: tuple[int, int], padding: int, n_samples: int
) -> _Draw:
    """The window given the pixels around it, from the `PatchGaussian` of the background, or of the image itself."""
    whole = images.shape[1:3]
    patch = min(size[0] + 2 * padding, whole[0]), min(size[1] + 2 * padding, whole[1])
    others = None if background is None else _checked_background(background, patch, images.shape[-1])

    @functools.lru_cache(maxsize=1)  # of one image at a time: they come in order
    def gaussian(member: int) -> PatchGaussian:
        return PatchGaussian(images[member : member + 1] if others is None else others, *patch)

    def draw(member: int, y: int, x: int, rng: np.random.Generator) -> np.ndarray:
        top = min(max(y - padding, 0), whole[0] - patch[0])
        left = min(max(x - padding, 0), whole[1] - patch[1])
        around = images[member, top : top + patch[0], left : left + patch[1]]
        noise = rng.standard_normal((n_samples, images.shape[-1] * size[0] * size[1]))
        return gaussian(member if others is None else 0).draw(around, y - top, x - left, *size, noise)

    return draw


def _log2_odds(p: np.ndarray, n_training: int, n_classes: int) -> np.ndarray:
    corrected = (p.astype(np.float64) * n_training + 1) / (n_training + n_classes)
    return np.log2(corrected / (1 - corrected))


def _checked_background(background: np.ndarray, smallest: tuple[int, int], channels: int) -> np.ndarray:
    """``background``, if it is images of ``channels`` at least as large as ``smallest`` (rows, columns)."""
    if background.ndim != 4 or not len(background):
        raise ValueError(
            f"background has the shape {background.shape}; expected images (m, height, width, {channels})."
        )
    try:
        background = check_images(background, channels=channels)
    except ValueError as error:
        raise ValueError(f"background: {error}") from None
    if background.shape[1] < smallest[0] or background.shape[2] < smallest[1]:
        raise ValueError(
            f"background has the shape {background.shape}, smaller than a window with its padding, {smallest[0]} x "
            f"{smallest[1]}; give larger images."
        )
    return background


PREDICTION_DIFFERENCE = Method(
    name="prediction_difference",
    title="Prediction difference analysis",
    family="perturbation",
    paper="Zintgraf, Cohen, Adel & Welling 2017, arXiv:1702.04595",
    signed=True,
    cost="n_samples forwards for each window, + 1",
    compute=prediction_difference,
    needs="nothing",
    check=_check,
    parameters=(
        Parameter("patch_size", int, 10, "side of the window in pixels; the paper: 5 to 20", 1, 20),
        Parameter("padding", int, 2, "pixels around the window that it is drawn given", 0, _MOST_PADDING),
        Parameter("stride", int, 0, "pixels between windows; 0: side by side; the paper: 1", 0, 20),
        Parameter("n_samples", int, 10, "draws of each window; the paper: 10", 1, 1000),
        Parameter(
            "sampling",
            str,
            "conditional",
            "how the window is drawn: given its neighbourhood, or from other images",
            choices=("conditional", "marginal"),
        ),
        Parameter("background", np.ndarray, None, "images that windows are drawn from; None: the image itself"),
        Parameter("n_training", int, 10_000, "N of the Laplace correction, the model's training images", 1, 10**9),
        SEED,
    ),
)
