"""ROAD, remove and debias (Rong et al. 2022, arXiv:2202.00449): does the score follow when pixels go without a trace?

A removed pixel is imputed from those that are kept (see `xaiutils.evaluation.metrics.imputation`) with a little
noise, so that the model sees an image with less in it and not the shape of a hole. MoRF removes the most relevant
pixels first: the score of a good map falls early. LeRF removes the least relevant first: it stays high for long.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from xaiutils.evaluation.metrics.imputation import impute
from xaiutils.evaluation.metrics.metric import Case, Metric
from xaiutils.evaluation.thresholds import pixel_ranks
from xaiutils.graph.passes import batches, class_scores, logits
from xaiutils.registry import Parameter


def road_curve(
    case: Case, *, percentages: Iterable[float], score: str, noise: float, seed: int, most_relevant_first: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Fractions of the pixels removed, float64 ``(k,)``, and each image's score at each of them, float64 ``(n, k)``.

    Args:
        case: maps, model, images and targets.
        percentages: of the pixels that are removed, from 0 to less than 100 each (the paper's code keeps so many in
            LeRF).
        score: "probability" or "logit" of the target, or "correct": 1 where the model answers the target, else 0. The
            mean over images of the last is the paper's accuracy, if the targets are the labels.
        noise: standard deviation of the noise on imputed pixels, as a fraction of 255 (paper's code: 0.01).
            It is not clipped, so black surroundings do not become brighter.
        seed: of the noise: one field of it for all images and percentages.
        most_relevant_first: MoRF; False: LeRF. Ties go by position either way, so a constant map, which has no order,
            has the same curve in both.

    Raises:
        TypeError, ValueError: a percentage is no number in its range.
    """
    fractions = _fractions(percentages)
    n, height, width = case.maps.shape
    counts = np.minimum(np.rint(fractions * height * width).astype(int), height * width - 1)
    ranks = pixel_ranks(case.maps if most_relevant_first else -case.maps)
    field = np.random.default_rng(seed).normal(0, noise * 255, case.images.shape[1:]).astype(np.float32)
    members, steps = np.divmod(np.arange(n * len(counts)), len(counts))
    values = np.empty(len(members))
    for batch in batches(len(members), case.batch_size, "ROAD, MoRF" if most_relevant_first else "ROAD, LeRF"):
        chosen = members[batch]
        removed = ranks[chosen] < counts[steps[batch]][:, None, None]
        changed = impute(case.images[chosen], removed)
        changed += field * removed.repeat(len(field[0, 0])).reshape(changed.shape)  # 3 times as fast as [..., None]
        found = logits(case.network, changed, case.batch_size)
        if score == "correct":
            values[batch] = found.argmax(axis=1) == case.targets[chosen]
        else:
            values[batch] = class_scores(case.network, found, case.targets[chosen], score).numpy()
    return counts / (height * width), values.reshape(n, len(counts))


def _fractions(percentages: Iterable[float]) -> np.ndarray:
    values = list(percentages)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise TypeError(f"percentages has {value!r}, a {type(value).__name__}; expected numbers.")
        if not 0 <= value < 100:
            raise ValueError(f"percentages has {value!r}; expected numbers from 0 to less than 100.")
    if not values:
        raise ValueError("percentages is empty; give at least one, such as [50].")
    return np.array(values, float) / 100


def road_morf(case: Case, **parameters: Any) -> np.ndarray:
    """Mean over the percentages of MoRF, see `road_curve`."""
    return road_curve(case, **parameters, most_relevant_first=True)[1].mean(axis=1)


def road_lerf(case: Case, **parameters: Any) -> np.ndarray:
    """Mean over the percentages of LeRF, see `road_curve`."""
    return road_curve(case, **parameters, most_relevant_first=False)[1].mean(axis=1)


def road(case: Case, **parameters: Any) -> np.ndarray:
    """(LeRF - MoRF) / 2: 0 for a constant map, and in the mean for a random one."""
    return (road_lerf(case, **parameters) - road_morf(case, **parameters)) / 2


_PERCENTAGES = "of the pixels that are removed, from 0 to less than 100; the paper's code: 10, 20, 30, 40, 50, 70, 90"
_PARAMETERS = (
    Parameter("percentages", list, list(range(10, 100, 10)), _PERCENTAGES),
    Parameter(
        "score",
        str,
        "probability",
        "of the target; correct: 1 where it is answered, the paper's accuracy",
        choices=("probability", "correct", "logit"),
    ),
    Parameter(
        "noise", float, 0.01, "standard deviation on imputed pixels, part of 255; the paper's code: 0.01", 0.0, 1.0
    ),
    Parameter("seed", int, 0, "seed of the noise", 0),
)
_PAPER = "Rong et al. 2022, A consistent and efficient evaluation strategy for attribution methods, arXiv:2202.00449"

ROAD_MORF = Metric("road_morf", "ROAD, MoRF", "model", False, _PAPER, road_morf, _PARAMETERS)
ROAD_LERF = Metric("road_lerf", "ROAD, LeRF", "model", True, _PAPER, road_lerf, _PARAMETERS)
ROAD = Metric(
    "road", "ROAD, (LeRF - MoRF) / 2", "model", True, _PAPER + "; the paper has the two curves alone", road, _PARAMETERS
)
