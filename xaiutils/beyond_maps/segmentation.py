"""From a saliency map to the object's outline: colour models of its most and least salient pixels, then a graph cut.

Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034, section 3.2.
"""

import cv2
import numpy as np
from scipy import ndimage
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from xaiutils.images import as_rgb, check_images, check_maps
from xaiutils.map_reading import read_maps

COMPONENTS = 5  # Gaussians of each colour model; OpenCV's GrabCut has the same number
_FITTED = 3000  # pixels at most, drawn by seed, that a colour model is fitted to
_VARIANCE = 1.0  # of colours in grey levels squared, at least: grey images have no variance across the colours


def segment_from_saliency(
    image: np.ndarray,
    saliency: np.ndarray,
    foreground: float = 0.95,
    background: float = 0.30,
    method: str = "graph_cut",
    largest_component: bool = True,
    seed: int = 0,
    reading: str = "magnitude",
) -> np.ndarray:
    """Segment the object that a saliency map points at.

    Pixels of saliency over the quantile ``foreground`` are the object, those up to the quantile ``background`` are
    not; a mixture of five Gaussians is fitted to the colours of each (scikit-learn, full covariances). The other
    pixels are decided by these two colour models.

    Args:
        image: ``(height, width, C)`` in [0, 255]; other than three channels are read as grey.
        saliency: ``(height, width)``; its values, as ``reading`` has them, are ranked: large ones mean the object.
            Where much of the map is equal, as after a ReLU, all pixels at the background quantile count as background.
        foreground, background: quantiles, 0 <= background <= foreground < 1. The paper: 0.95 and 0.30.
        method: "graph_cut" (the paper): one cut between neighbouring pixels, by OpenCV's GrabCut with the colour models
            held fixed and its own contrast term. "gmm": each pixel by itself, by the likelier of the two models.
        largest_component: keep the largest connected part alone, as in the paper (pixels that touch by a side).
        seed: of the mixtures' initial centres, and of the pixels that they are fitted to (3000 at most).
        reading: of a map that has a sign, see `xaiutils.map_reading`. The paper's saliency is a magnitude.

    Returns:
        bool ``(height, width)``. Empty where nothing lies over the foreground quantile: a constant map.

    Raises:
        ValueError: an argument of a wrong shape or range.
    """
    if method not in ("graph_cut", "gmm"):
        raise ValueError(f"method={method!r}; expected 'graph_cut' or 'gmm'.")
    if not 0 <= background <= foreground < 1:
        raise ValueError(f"background={background!r}, foreground={foreground!r}; expected 0 <= b <= f < 1.")
    pixels = np.rint(as_rgb(check_images(np.asarray(image)[None]))[0]).astype(np.uint8)
    saliency = read_maps(check_maps(np.asarray(saliency)[None], (1, *pixels.shape[:2]))[0], reading)
    is_object = saliency > np.quantile(saliency, foreground)
    is_rest = (saliency <= np.quantile(saliency, background)) & ~is_object
    if not is_object.any():
        return is_object
    models = [_colour_model(pixels[seeds], seed) for seeds in (is_rest, is_object)]
    found = (_cut if method == "graph_cut" else _likelier)(pixels, is_object, is_rest, models)
    return _largest(found) if largest_component else found


def _colour_model(colours: np.ndarray, seed: int) -> GaussianMixture:
    """A mixture fitted to ``(pixels, 3)`` colours; of fewer Gaussians where there are fewer colours."""
    if len(colours) > _FITTED:
        colours = np.random.default_rng(seed).choice(colours, _FITTED, replace=False)
    components = min(COMPONENTS, len(np.unique(colours, axis=0)))
    if len(colours) == 1:
        colours = np.repeat(colours, 2, axis=0)  # the least that scikit-learn takes
    mixture = GaussianMixture(components, reg_covar=_VARIANCE, max_iter=50, tol=1e-2, random_state=seed)
    with threadpool_limits(1):  # so few points: on busy cores, waiting for other threads takes longer than the fit
        return mixture.fit(colours.astype(np.float64))


def _likelier(
    pixels: np.ndarray, is_object: np.ndarray, is_rest: np.ndarray, models: list[GaussianMixture]
) -> np.ndarray:
    rest, object_ = (m.score_samples(pixels.reshape(-1, 3)).reshape(pixels.shape[:2]) for m in models)
    return ((object_ > rest) & ~is_rest) | is_object


def _cut(pixels: np.ndarray, is_object: np.ndarray, is_rest: np.ndarray, models: list[GaussianMixture]) -> np.ndarray:
    mask: np.ndarray = np.full(pixels.shape[:2], cv2.GC_PR_BGD, np.uint8)
    mask[is_rest], mask[is_object] = cv2.GC_BGD, cv2.GC_FGD
    rest, object_ = (_as_opencv(m) for m in models)
    cv2.grabCut(pixels, mask, (0, 0, 0, 0), rest, object_, 1, cv2.GC_EVAL_FREEZE_MODEL)  # no rectangle: the mask says
    return (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)


def _as_opencv(mixture: GaussianMixture) -> np.ndarray:
    """The mixture as GrabCut stores it: five weights, five means, five covariances in one row of 65."""
    row = np.zeros(COMPONENTS * (1 + 3 + 9))
    n = len(mixture.weights_)
    row[:n] = mixture.weights_
    row[COMPONENTS:][: 3 * n] = mixture.means_.ravel()
    row[4 * COMPONENTS :][: 9 * n] = mixture.covariances_.ravel()
    return row[None]


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, n = ndimage.label(mask)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if n else mask
