"""IROF, iterative removal of features: does the score fall early when segments go in the map's order?"""

import numpy as np

from xaiutils.attribution.baselines import FILLS
from xaiutils.attribution.lime import superpixels
from xaiutils.evaluation.metrics.metric import Case, Metric
from xaiutils.registry import Parameter


def irof(case: Case, *, n_segments: int, fill: str) -> np.ndarray:
    """Area over the curve of p' / p, as the image's segments are replaced one after the other, the one of the highest
    mean in the map first (Rieger & Hansen 2020); in the paper's words the higher, the better.

    p is the target's probability of the image, p' that of the changed one. Segments are superpixels (SLIC).
    """
    segments = [superpixels(image, "slic", n_segments, seed=0) for image in case.images]
    counts = np.array([found.max() + 1 for found in segments])
    place = np.stack([_places(found, one) for found, one in zip(segments, case.maps, strict=True)])
    members = np.repeat(np.arange(len(counts)), counts)
    steps = np.concatenate([np.arange(1, count + 1) for count in counts])

    def kept(batch: slice) -> np.ndarray:
        return (place[members[batch]] >= steps[batch][:, None, None]).astype(np.float32)

    removed = np.split(case.masked_scores(members, kept, fill, "probability", "IROF"), np.cumsum(counts)[:-1])
    curves = [np.append(whole, after) for whole, after in zip(case.scores("probability"), removed, strict=True)]
    areas = [np.trapezoid(p / p[0], dx=1 / (len(p) - 1)) if p[0] > 0 else np.nan for p in curves]
    return 1 - np.array(areas)


def _places(segments: np.ndarray, attribution: np.ndarray) -> np.ndarray:
    """For each pixel when its segment goes, from 0."""
    flat = segments.ravel()
    means = np.bincount(flat, attribution.ravel()) / np.bincount(flat)
    place = np.empty(len(means), int)
    place[np.argsort(-means, kind="stable")] = np.arange(len(means))
    return place[segments]


IROF = Metric(
    "irof",
    "IROF",
    "model",
    True,
    "Rieger & Hansen 2020, IROF: a low resource evaluation metric for explanation methods, arXiv:2003.08747",
    irof,
    (
        Parameter("n_segments", int, 100, "superpixels asked for, each a pass", 2, 10_000),
        Parameter("fill", str, "mean", "what replaced segments show; the paper: the image's mean", choices=FILLS),
    ),
    of_probability=True,
)
