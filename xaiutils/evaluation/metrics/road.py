"""ROAD, remove and debias (Rong et al. 2022, arXiv:2202.00449): does the score follow when pixels go without a trace?

A removed pixel is imputed from those that are kept (see `xaiutils.evaluation.metrics.imputation`) with a little
noise, so that the model sees an image with less in it and not the shape of a hole. MoRF removes the most relevant
pixels first: the score of a good map falls early. LeRF removes the least relevant first: it stays high for long.
"""

from collections.abc import Iterable

import numpy as np

from xaiutils.evaluation.metrics.imputation import impute
from xaiutils.evaluation.metrics.metric import METRICS, Metric
from xaiutils.evaluation.thresholds import pixel_ranks
from xaiutils.graph.network import Network
from xaiutils.graph.passes import batches, class_scores, logits
from xaiutils.registry import Parameter

SCORES = ("probability", "correct", "logit")


def road_curve(
    network: Network,
    images: np.ndarray,
    maps: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    percentages: Iterable[float],
    score: str,
    noise: float,
    seed: int,
    most_relevant_first: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Parts of the pixels removed, float64 ``(k,)``, and each image's score at each of them, float64 ``(n, k)``.

    Args:
        network, images, maps, targets, batch_size: as a metric is given them, see `Metric`.
        percentages: of the pixels that are removed, from 0 to less than 100 each (the paper's code keeps so many in
            LeRF).
        score: "probability" or "logit" of the target, or "correct": 1 where the model answers the target, else 0. The
            mean over images of the last is the paper's accuracy, if the targets are the labels.
        noise: standard deviation of the noise on imputed pixels, as a part of the range of 255 (paper's code: 0.01). It
            is not clipped, so black surroundings do not become brighter.
        seed: of the noise: one picture of it for all images and percentages.
        most_relevant_first: MoRF; False: LeRF. Ties go by position either way, so a constant map, which has no order,
            has the same curve in both.

    Raises:
        TypeError, ValueError: a percentage is no number in its range.
    """
    fractions = _fractions(percentages)
    n, height, width = maps.shape
    counts = np.minimum(np.rint(fractions * height * width).astype(int), height * width - 1)
    ranks = pixel_ranks(maps if most_relevant_first else -maps)
    picture = np.random.default_rng(seed).normal(0, noise * 255, images.shape[1:]).astype(np.float32)
    members, steps = np.divmod(np.arange(n * len(counts)), len(counts))
    values = np.empty(len(members))
    for batch in batches(len(members), batch_size, "ROAD, MoRF" if most_relevant_first else "ROAD, LeRF"):
        chosen = members[batch]
        removed = ranks[chosen] < counts[steps[batch]][:, None, None]
        changed = impute(images[chosen], removed) + picture * removed[..., None]
        found = logits(network, changed, batch_size)
        if score == "correct":
            values[batch] = found.argmax(axis=1) == targets[chosen]
        else:
            values[batch] = class_scores(network, found, targets[chosen], score).numpy()
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


def _mean(most_relevant_first: bool):
    def compute(network, images, maps, targets, batch_size, **parameters) -> np.ndarray:
        order = {"most_relevant_first": most_relevant_first}
        return road_curve(network, images, maps, targets, batch_size, **parameters, **order)[1].mean(axis=1)

    compute.__doc__ = f"Mean over the percentages of {'MoRF' if most_relevant_first else 'LeRF'}, see `road_curve`."
    return compute


road_morf, road_lerf = _mean(most_relevant_first=True), _mean(most_relevant_first=False)


def road(network, images, maps, targets, batch_size, **parameters) -> np.ndarray:
    """(LeRF - MoRF) / 2: 0 for a constant map, and in the mean for a random one."""
    lerf, morf = (f(network, images, maps, targets, batch_size, **parameters) for f in (road_lerf, road_morf))
    return (lerf - morf) / 2


_PARAMETERS = (
    Parameter(
        "percentages",
        list,
        [10, 20, 30, 40, 50, 60, 70, 80, 90],
        "of the pixels that are removed, from 0 to less than 100; the paper's code: 10, 20, 30, 40, 50, 70, 90",
    ),
    Parameter(
        "score",
        str,
        "probability",
        "of the target; correct: 1 where it is answered, the paper's accuracy",
        choices=SCORES,
    ),
    Parameter(
        "noise", float, 0.01, "standard deviation on imputed pixels, part of 255; the paper's code: 0.01", 0.0, 1.0
    ),
    Parameter("seed", int, 0, "seed of the noise", 0),
)
_PAPER = "Rong et al. 2022, A consistent and efficient evaluation strategy for attribution methods, arXiv:2202.00449"
for _name, _title, _higher, _compute, _note in (
    ("road_morf", "ROAD, MoRF", False, road_morf, ""),
    ("road_lerf", "ROAD, LeRF", True, road_lerf, ""),
    ("road", "ROAD, (LeRF - MoRF) / 2", True, road, "; the paper has the two curves alone"),
):
    METRICS.add(Metric(_name, _title, "model", _higher, _PAPER + _note, _compute, _PARAMETERS))
