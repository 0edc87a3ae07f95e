"""SaCo, salience-guided faithfulness coefficient: do groups of pixels matter in the order, and by the distance, that
the map gives them?"""

import numpy as np

from xaiutils.attribution.baselines import FILLS
from xaiutils.evaluation.metrics.metric import Case, Metric
from xaiutils.evaluation.thresholds import pixel_ranks
from xaiutils.registry import Parameter


def saco(case: Case, *, n_groups: int, fill: str, score: str) -> np.ndarray:
    """Sum over pairs of groups of the difference of their sums in the map, counted against the map where the group of
    the larger sum matters less; over the sum of all differences; in [-1, 1] (Wu et al. 2024, algorithm 1).

    Groups hold equally many pixels, in the map's order (ties by position). A group matters by how far the score falls
    when it alone is replaced. 0 is expected of an uninformed map, NaN of a constant one, and where all groups matter
    alike, as to a model that does not look. ValueError for more groups than pixels.
    """
    n, height, width = case.maps.shape
    if n_groups > height * width:
        raise ValueError(f"n_groups={n_groups} of {height * width} pixels; give at most as many groups as pixels.")
    group = pixel_ranks(case.maps).astype(np.int64) * n_groups // (height * width)
    members, groups = np.divmod(np.arange(n * n_groups), n_groups)

    def kept(batch: slice) -> np.ndarray:
        return (group[members[batch]] != groups[batch][:, None, None]).astype(np.float32)

    drops = case.scores(score)[:, None] - case.masked_scores(members, kept, fill, score, "SaCo").reshape(n, n_groups)
    sums = np.stack([np.bincount(g.ravel(), m.ravel(), n_groups) for g, m in zip(group, case.maps, strict=True)])
    first, second = np.triu_indices(n_groups, 1)
    weights = sums[:, first] - sums[:, second]
    counted = np.where(drops[:, first] >= drops[:, second], weights, -weights).sum(axis=1)
    total = np.abs(weights).sum(axis=1)
    varies = (np.ptp(case.maps, axis=(1, 2)) > 0) & (np.ptp(drops, axis=1) > 0)
    return np.divide(counted, total, out=np.full(n, np.nan), where=varies & (total > 0))


SACO = Metric(
    "saco",
    "SaCo",
    "model",
    True,
    "Wu, Kang, Tang, Hong & Yan 2024, On the faithfulness of vision transformer explanations, CVPR, arXiv:2404.01415",
    saco,
    (
        Parameter("n_groups", int, 10, "groups of pixels; the paper: 10", 2, 1000),
        Parameter("fill", str, "mean", "what a replaced group shows; the paper: the image's mean", choices=FILLS),
        Parameter("score", str, "probability", "the score whose fall is compared", choices=("logit", "probability")),
    ),
)
