"""Maps against the model, by the target's score when the map hides or keeps parts of the image.

p is the target's probability of the image, p' that of the changed image. Where a map serves as a soft mask M it is
its positive part over its maximum, in [0, 1]; a map without positive values is a mask of zeros.
"""

import numpy as np
from scipy.special import expit

from xaiutils.attribution.baselines import FILLS
from xaiutils.evaluation.metrics.insertion_deletion import perturbation_curve
from xaiutils.evaluation.metrics.metric import Case, Metric
from xaiutils.evaluation.thresholds import binary_map, top_pixels
from xaiutils.registry import Parameter


def soft_masks(maps: np.ndarray) -> np.ndarray:
    """The positive part of each map over its maximum, float32 in [0, 1]."""
    positive = np.maximum(maps, 0)
    top = positive.max(axis=(1, 2), keepdims=True)
    return np.divide(positive, top, out=np.zeros_like(positive, np.float32), where=top > 0)


def _score_of_kept(case: Case, kept: np.ndarray, fill: str, score: str, title: str) -> np.ndarray:
    """The target's score where ``kept`` ``(n, height, width)``, soft, leaves the image and the rest shows ``fill``."""
    return case.masked_scores(np.arange(len(kept)), lambda batch: kept[batch], fill, score, title)


def _fraction(change: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """change / whole, NaN where there is no whole."""
    return np.divide(change, whole, out=np.full_like(change, np.nan), where=whole != 0)


def average_drop(case: Case, *, fill: str) -> np.ndarray:
    """relu(p - p') / p of the image times M (Chattopadhay et al. 2018); the paper gives the mean, in percent."""
    p = case.scores("probability")
    kept = _score_of_kept(case, soft_masks(case.maps), fill, "probability", "average drop")
    return _fraction(np.maximum(p - kept, 0), p)


def average_increase(case: Case, *, fill: str) -> np.ndarray:
    """1 where p' > p for the image times M, else 0: the mean is the increase in confidence."""
    p = case.scores("probability")
    kept = _score_of_kept(case, soft_masks(case.maps), fill, "probability", "increase in confidence")
    return (kept > p).astype(np.float64)


def average_gain(case: Case, *, fill: str) -> np.ndarray:
    """relu(p' - p) / (1 - p) of the image times M (Zhang et al. 2024)."""
    p = case.scores("probability")
    kept = _score_of_kept(case, soft_masks(case.maps), fill, "probability", "average gain")
    return _fraction(np.maximum(kept - p, 0), 1 - p)


def confidence_drop(case: Case, *, fill: str, score: str, mask: str) -> np.ndarray:
    """(S(x) - S(x')) / S(x), x' = x (1 - M) + fill M: hiding what the map names (XRelevance-CAM thesis, eq. 5.3, 5.4).

    ``mask="soft"`` as its text has it, "hard" as its author's code does: M is 1 where the map is over its mean + 1
    standard deviation (eq. 5.1), else 0. With ``score="logit"`` a negative S(x) turns the sign over.
    """
    whole = case.scores(score)
    hard = mask == "hard"
    M = np.stack([binary_map(m, "mean_std") for m in case.maps]) if hard else soft_masks(case.maps)
    hidden = _score_of_kept(case, np.float32(1) - M, fill, score, "confidence drop")
    return _fraction(whole - hidden, whole)


def fidelity(case: Case, *, area: float, fill: str, score: str) -> np.ndarray:
    """S(x) - S(x without the top ``area`` of the pixels): when what the map names is replaced, the score must drop
    (Brocki & Chung 2022, as on the CT poster)."""
    count = round(area * case.maps[0].size)
    kept = np.stack([~top_pixels(m, count) for m in case.maps]).astype(np.float32)
    return case.scores(score) - _score_of_kept(case, kept, fill, score, "fidelity")


def fidelity_area(case: Case, *, n_steps: int, fill: str, score: str) -> np.ndarray:
    """By how much the curve of the score lies below its start, on average, while the map's highest pixels are replaced
    one part after the other: `fidelity` at all areas.

    ``accuracy`` is 1 where the target is still the answer, else 0, and its mean over images the accuracy (Brocki et al.
    2022, Evaluation of importance estimators, arXiv:2209.15398); ``probability`` is that of the target beside the
    strongest other class, so of two classes the target's.
    """
    fractions, margins = perturbation_curve(case, n_steps=n_steps, fill=fill, insert=False, score="margin")
    curve = (margins > 0).astype(np.float64) if score == "accuracy" else expit(margins)
    return curve[:, 0] - np.trapezoid(curve, fractions, axis=1)


def pixel_perturbation(case: Case, *, area: float, fill: str, score: str) -> np.ndarray:
    """abs(S(x) - S(x without the bottom ``area`` of the pixels)) / abs(S(x)): what the map ranks as unimportant must
    not matter (Srinivas & Fleuret 2019, section 5.1)."""
    kept = np.stack([top_pixels(m, m.size - round(area * m.size)) for m in case.maps]).astype(np.float32)
    whole = case.scores(score)
    hidden = _score_of_kept(case, kept, fill, score, "pixel perturbation")
    return _fraction(np.abs(whole - hidden), np.abs(whole))


def _fill(default: str) -> Parameter:
    return Parameter("fill", str, default, "what hidden pixels show", choices=FILLS)


_SCORE = Parameter("score", str, "probability", "the score that is compared", choices=("probability", "logit"))
_MASK = Parameter(
    "mask", str, "soft", "the map's positive part, or its pixels over mean + 1 SD", choices=("soft", "hard")
)
_AREA = Parameter("area", float, 0.1, "fraction of the pixels that is replaced", 0.0, 1.0)
_CHATTOPADHAY = "Chattopadhay et al. 2018, Grad-CAM++, arXiv:1710.11063, section 4.1; there in percent"
_ZHANG = "Zhang et al. 2024, Opti-CAM, arXiv:2301.07002"
_YOU = "the XRelevance-CAM thesis (Imperial College 2022), eq. 5.4"
_BROCKI = "Brocki & Chung 2022, Evaluation of interpretability methods and perturbation artifacts, arXiv:2203.02928"
_SRINIVAS = "Srinivas & Fleuret 2019, FullGrad, arXiv:1905.00780"

AVERAGE_DROP = Metric(
    "average_drop", "Average drop", "model", False, _CHATTOPADHAY, average_drop, (_fill("black"),), of_probability=True
)
AVERAGE_INCREASE = Metric(
    "average_increase", "Increase in confidence", "model", True, _CHATTOPADHAY, average_increase, (_fill("black"),)
)
AVERAGE_GAIN = Metric(
    "average_gain", "Average gain", "model", True, _ZHANG, average_gain, (_fill("black"),), of_probability=True
)
CONFIDENCE_DROP = Metric(
    "confidence_drop",
    "Confidence drop",
    "model",
    True,
    _YOU,
    confidence_drop,
    (_fill("mean"), _SCORE, _MASK),
    of_probability=True,
)
FIDELITY = Metric("fidelity", "Fidelity", "model", True, _BROCKI, fidelity, (_AREA, _fill("mean"), _SCORE))
FIDELITY_AREA = Metric(
    "fidelity_area",
    "Fidelity, area of the curve",
    "model",
    True,
    "Brocki, Marchadour et al. 2022, Evaluation of importance estimators, arXiv:2209.15398: the fall of the accuracy",
    fidelity_area,
    (
        Parameter("n_steps", int, 10, "parts in which the pixels are replaced", 1, 10_000),
        _fill("mean"),
        Parameter("score", str, "accuracy", "what falls", choices=("accuracy", "probability")),
    ),
    of_probability=True,
)
PIXEL_PERTURBATION = Metric(
    "pixel_perturbation",
    "Pixel perturbation",
    "model",
    False,
    _SRINIVAS,
    pixel_perturbation,
    (_AREA, _fill("black"), _SCORE),
)
