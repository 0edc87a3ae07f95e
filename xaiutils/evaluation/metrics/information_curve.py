"""Performance information curves: how much of the answer is back when so much of the image's information is back?

An image of which one pixel in a hundred is known, the rest interpolated, gets back the pixels that the map ranks
highest. What it then holds is measured by the length of its lossless WebP file.
"""

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image
from scipy.interpolate import LinearNDInterpolator

from xaiutils.evaluation.metrics.metric import Case, Metric
from xaiutils.graph.passes import class_scores, logits
from xaiutils.images import as_rgb
from xaiutils.progress import progress
from xaiutils.registry import Parameter

FRACTIONS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75)


def information_auc(
    case: Case, *, fractions: Iterable[float], known: float, lowest: float, score: str, seed: int
) -> np.ndarray:
    """Area under the curve of the score over the image's information, both scaled to 0 for the image of which
    ``known`` of the pixels are known and 1 for the whole (Kapishnikov et al. 2019, section 4.1).

    The curve only rises, as the paper's, and is linear between the ``fractions`` of the pixels that are shown. NaN, as
    the authors' code leaves an image out, where the whole image's score is under ``lowest``, or where the image of few
    known pixels has as much of the score, or of the information. The known pixels are the same for all images.
    """
    shown = np.array(sorted(fractions), float)
    if not len(shown) or not ((shown > 0) & (shown < 1)).all():
        raise ValueError(f"fractions={shown.tolist()}; expected numbers between 0 and 1, at least one.")
    (height, width), drawn = case.maps.shape[1:], np.random.default_rng(seed)
    few = (drawn.permutation(height * width) < round(known * height * width)).reshape(height, width)
    whole, areas = _scores(case, case.logits(), case.targets, score), np.full(len(case.maps), np.nan)
    for i in progress(np.flatnonzero(whole >= lowest).tolist(), title="information curves"):
        pixels = np.rint(case.images[i]).astype(np.uint8)
        limits = np.quantile(case.maps[i], 1 - shown)
        steps = np.stack([interpolated(pixels, few | (case.maps[i] >= q)) for q in [np.inf, *limits]])
        found = logits(case.network, steps.astype(np.float32), case.batch_size)
        found = _scores(case, found, np.repeat(case.targets[i], len(steps)), score)
        held = np.array([information(step) for step in [*steps, pixels]], float)
        if found[0] < whole[i] and held[0] < held[-1]:
            x = np.clip((held[1:-1] - held[0]) / (held[-1] - held[0]), 0, 1)
            y = np.clip((found[1:] - found[0]) / (whole[i] - found[0]), 0, 1)
            areas[i] = _area(x, np.maximum.accumulate(y))
    return areas


def _scores(case: Case, found: np.ndarray, targets: np.ndarray, score: str) -> np.ndarray:
    """The target's probability by logits, or "correct": 1 where it is answered, else 0."""
    if score == "correct":
        return (found.argmax(axis=1) == targets).astype(float)
    return class_scores(case.network, found, targets, score).numpy().astype(float)


def _area(x: np.ndarray, y: np.ndarray) -> float:
    order = np.argsort(x, kind="stable")
    return float(np.trapezoid([0, *y[order], 1], [0, *x[order], 1]))


def interpolated(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The uint8 image ``(height, width, channels)`` with all but the ``known`` pixels ``(height, width)`` and the
    corners interpolated from them, linearly in the triangles between them."""
    known = known.copy()
    known[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    if known.all():
        return image
    values = LinearNDInterpolator(np.argwhere(known), image[known].astype(float))(np.argwhere(~known))
    outside = np.isnan(values)  # by rounding, on the edges
    found = image.copy()
    found[~known] = np.rint(np.where(outside, image.mean(axis=(0, 1)), values))
    return found


def information(image: np.ndarray) -> int:
    """Bytes of a uint8 image as lossless WebP; of other than 1 or 3 channels, of one file for each channel."""
    if image.shape[-1] not in (1, 3):
        return sum(information(image[..., k : k + 1]) for k in range(image.shape[-1]))
    buffer = io.BytesIO()
    Image.fromarray(as_rgb(image)).save(buffer, format="webp", lossless=True, quality=100)
    return buffer.tell()


def _metric(name: str, title: str, score: str, lowest: float, what: str) -> Metric:
    def compute(case: Case, **parameters):
        return information_auc(case, score=score, **parameters)

    parameters = (
        Parameter("fractions", list, list(FRACTIONS), "of the pixels that are shown; as in the authors' code"),
        Parameter("known", float, 0.01, "part of the pixels that are always known; the authors' code: 0.01", 0.0, 1.0),
        Parameter("lowest", float, lowest, f"{what} of the whole image under which it is left out", 0.0, 1.0),
        Parameter("seed", int, 0, "seed of the pixels that are always known", 0),
    )
    return Metric(name, title, "model", True, _PAPER, compute, parameters, of_probability=True)


_PAPER = "Kapishnikov et al. 2019, XRAI: better attributions through regions, arXiv:1906.02825"

SIC_AUC = _metric("sic_auc", "SIC AUC (softmax information curve)", "probability", 0.8, "probability")
AIC_AUC = _metric("aic_auc", "AIC AUC (accuracy information curve)", "correct", 0.8, "accuracy, 0 or 1,")
