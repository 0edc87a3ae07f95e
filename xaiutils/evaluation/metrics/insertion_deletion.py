"""Insertion and deletion: does the score follow when the pixels that the map names come, or go?"""

import numpy as np

from xaiutils.attribution.baselines import FILLS
from xaiutils.evaluation.metrics.metric import Case, Metric
from xaiutils.evaluation.thresholds import pixel_ranks
from xaiutils.registry import Parameter


def perturbation_curve(
    case: Case, *, n_steps: int, fill: str, insert: bool, score: str = "probability"
) -> tuple[np.ndarray, np.ndarray]:
    """Fractions of pixels changed ``(n_steps + 1,)`` and the target's score at each, ``(n, n_steps + 1)``.

    Pixels go in the order of their value, highest first (ties by position). ``insert`` starts from the fill and shows
    pixels of the image; otherwise starts from the image and replaces pixels by the fill.
    """
    n, height, width = case.maps.shape
    rank = pixel_ranks(case.maps)
    counts = np.rint(np.linspace(0, height * width, n_steps + 1)).astype(int)
    asked = counts[1:-1]  # the scores of the whole image and of the fill depend on no map
    members, steps = np.divmod(np.arange(n * len(asked)), len(asked))

    def kept(batch: slice) -> np.ndarray:
        changed = rank[members[batch]] < asked[steps[batch]][:, None, None]
        return (changed if insert else ~changed).astype(np.float32)

    scores = case.masked_scores(members, kept, fill, score, "insertion" if insert else "deletion")
    whole, filled = case.scores(score), case.filled_scores(fill, score)
    first, last = (filled, whole) if insert else (whole, filled)
    return counts / (height * width), np.column_stack([first, scores.reshape(n, len(asked)), last])


def insertion_auc(case: Case, *, n_steps: int, fill: str) -> np.ndarray:
    """Area under the curve of the probability as pixels of the image are shown, the highest first."""
    fractions, curve = perturbation_curve(case, n_steps=n_steps, fill=fill, insert=True)
    return np.trapezoid(curve, fractions, axis=1)


def deletion_auc(case: Case, *, n_steps: int, fill: str) -> np.ndarray:
    """Area under the curve of the probability as pixels of the image are replaced, the highest first."""
    fractions, curve = perturbation_curve(case, n_steps=n_steps, fill=fill, insert=False)
    return np.trapezoid(curve, fractions, axis=1)


_STEPS = Parameter("n_steps", int, 50, "parts in which the pixels are changed; the paper: 224", 1, 10_000)
_BLUR = Parameter("fill", str, "blur", "the image that pixels are inserted into", choices=FILLS)
_MEAN = Parameter("fill", str, "mean", "what deleted pixels show", choices=FILLS)
_PAPER = "Petsiuk, Das & Saenko 2018, RISE, arXiv:1806.07421; "

INSERTION_AUC = Metric(
    "insertion_auc",
    "Insertion AUC",
    "model",
    True,
    _PAPER + "from a blur of a tenth of the height, stronger than the paper's 5 pixels, which leaves lesions readable",
    insertion_auc,
    (_STEPS, _BLUR),
)
DELETION_AUC = Metric(
    "deletion_auc",
    "Deletion AUC",
    "model",
    False,
    _PAPER + "to the image's mean colour, the paper's 0 after normalising",
    deletion_auc,
    (_STEPS, _MEAN),
)
