"""Maps against the model, by the target's score when the map hides or keeps parts of the image.

p is the target's probability of the image, p' that of the changed image. Where a map serves as a soft mask M it is
its positive part over its maximum, in [0, 1]; a map without positive values is a mask of zeros.
"""

from collections.abc import Callable

import numpy as np

from xaiutils.attribution.baselines import FILLS, fill_images
from xaiutils.evaluation.metrics.metric import METRICS, Metric
from xaiutils.evaluation.thresholds import top_pixels
from xaiutils.graph.passes import class_scores, logits, masked_scores
from xaiutils.registry import Parameter

_FILL = "what hidden pixels show"
_SCORE = Parameter("score", str, "probability", "the score that is compared", choices=("probability", "logit"))


def soft_masks(maps: np.ndarray) -> np.ndarray:
    """The positive part of each map over its maximum, float32 in [0, 1]."""
    positive = np.maximum(maps, 0)
    top = positive.max(axis=(1, 2), keepdims=True)
    return np.divide(positive, top, out=np.zeros_like(positive, np.float32), where=top > 0)


def _pair(network, images, targets, batch_size, kept: np.ndarray, fill: str, score: str, title: str):
    """The target's score of each image, and of the image where ``kept`` (soft, in [0, 1]) leaves it; float64."""
    before = class_scores(network, logits(network, images, batch_size), targets, score).numpy()
    fills, members = fill_images(images, fill), np.arange(len(images))
    after = masked_scores(
        network, images, fills, targets, members, lambda b: kept[b], batch_size, score=score, title=title
    )
    return before.astype(np.float64), after.astype(np.float64)


def _share(change: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """change / whole, NaN where there is no whole."""
    return np.divide(change, whole, out=np.full_like(change, np.nan), where=whole != 0)


def _of_kept(combine: Callable[[np.ndarray, np.ndarray], np.ndarray], title: str) -> Callable:
    """A metric of p and of p', the image seen through the map."""

    def compute(network, images, maps, targets, batch_size, *, fill: str) -> np.ndarray:
        kept = soft_masks(maps)
        return combine(*_pair(network, images, targets, batch_size, kept, fill, "probability", title))

    compute.__doc__ = combine.__doc__
    return compute


def average_drop(p: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """relu(p - p') / p of the image times M (Chattopadhay et al. 2018); the paper gives the mean, in percent."""
    return _share(np.maximum(p - kept, 0), p)


def average_increase(p: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """1 where p' > p for the image times M, else 0: the mean is the increase in confidence."""
    return (kept > p).astype(np.float64)


def average_gain(p: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """relu(p' - p) / (1 - p) of the image times M (Zhang et al. 2024)."""
    return _share(np.maximum(kept - p, 0), 1 - p)


def confidence_drop(network, images, maps, targets, batch_size, *, fill: str, score: str) -> np.ndarray:
    """(S(x) - S(x')) / S(x), x' = x (1 - M) + fill M: hiding what the map names (XRelevance-CAM thesis, eq. 5.3, 5.4).

    With ``score="logit"`` a negative S(x) turns the sign over.
    """
    kept = 1 - soft_masks(maps)
    whole, hidden = _pair(network, images, targets, batch_size, kept, fill, score, "confidence drop")
    return _share(whole - hidden, whole)


def fidelity(network, images, maps, targets, batch_size, *, area: float, fill: str, score: str) -> np.ndarray:
    """S(x) - S(x without the top ``area`` of the pixels): when what the map names is replaced, the score must drop
    (Brocki & Chung 2022, as on the CT poster)."""
    count = round(area * maps[0].size)
    kept = np.stack([~top_pixels(m, count) for m in maps]).astype(np.float32)
    whole, hidden = _pair(network, images, targets, batch_size, kept, fill, score, "fidelity")
    return whole - hidden


def pixel_perturbation(network, images, maps, targets, batch_size, *, area: float, fill: str, score: str) -> np.ndarray:
    """abs(S(x) - S(x without the bottom ``area`` of the pixels)) / abs(S(x)): what the map holds for unimportant must
    not matter (Srinivas & Fleuret 2019, section 5.1)."""
    kept = np.stack([top_pixels(m, m.size - round(area * m.size)) for m in maps]).astype(np.float32)
    whole, hidden = _pair(network, images, targets, batch_size, kept, fill, score, "pixel perturbation")
    return _share(np.abs(whole - hidden), np.abs(whole))


def _declare(name: str, title: str, higher: bool, paper: str, compute: Callable, parameters: tuple) -> None:
    METRICS.add(Metric(name, title, "model", higher, paper, compute, parameters))


_BLACK = Parameter("fill", str, "black", _FILL, choices=FILLS)
_MEAN = Parameter("fill", str, "mean", _FILL, choices=FILLS)
_CHATTOPADHAY = "Chattopadhay et al. 2018, Grad-CAM++, arXiv:1710.11063, section 4.1"
_declare(
    "average_drop",
    "Average drop",
    False,
    _CHATTOPADHAY + "; there in percent",
    _of_kept(average_drop, "average drop"),
    (_BLACK,),
)
_declare(
    "average_increase",
    "Increase in confidence",
    True,
    _CHATTOPADHAY + "; there in percent",
    _of_kept(average_increase, "increase in confidence"),
    (_BLACK,),
)
_declare(
    "average_gain",
    "Average gain",
    True,
    "Zhang et al. 2024, Opti-CAM, arXiv:2301.07002",
    _of_kept(average_gain, "average gain"),
    (_BLACK,),
)
_declare(
    "confidence_drop",
    "Confidence drop",
    True,
    "the XRelevance-CAM thesis (Imperial College 2022), eq. 5.4",
    confidence_drop,
    (_MEAN, _SCORE),
)
_declare(
    "fidelity",
    "Fidelity",
    True,
    "Brocki & Chung 2022, Evaluation of interpretability methods and perturbation artifacts, arXiv:2203.02928",
    fidelity,
    (Parameter("area", float, 0.1, "part of the pixels that is replaced", 0.0, 1.0), _MEAN, _SCORE),
)
_declare(
    "pixel_perturbation",
    "Pixel perturbation",
    False,
    "Srinivas & Fleuret 2019, FullGrad, arXiv:1905.00780",
    pixel_perturbation,
    (Parameter("area", float, 0.1, "part of the pixels that is replaced", 0.0, 1.0), _BLACK, _SCORE),
)
