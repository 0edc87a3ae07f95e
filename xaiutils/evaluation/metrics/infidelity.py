"""Infidelity: how far the map's sum in a square is from what the score loses when the square goes."""

import numpy as np

from xaiutils.attribution.baselines import FILLS
from xaiutils.evaluation.metrics.metric import Case, Metric
from xaiutils.registry import Parameter


def infidelity(case: Case, *, n_samples: int, largest: float, fill: str, score: str, seed: int) -> np.ndarray:
    """Mean over random squares of (b sum of the map in the square - fall of the score when it is replaced)^2, in
    squares of the score's unit (Yeh et al. 2019, section 2.1, square removal).

    b is the number that makes it least for this map, as in the authors' code: maps of different units can be compared,
    and a map of zeros has the mean square of the falls. b may be negative: a map with all signs turned over scores the
    same. Squares, the same for all images, have sides from 1 to
    ``largest`` times the shorter side of the image, every side alike likely and every place.
    """
    n, height, width = case.maps.shape
    rng = np.random.default_rng(seed)
    sides = rng.integers(1, max(1, round(largest * min(height, width))) + 1, n_samples)
    tops, lefts = (rng.integers(0, length - sides + 1) for length in (height, width))
    rows, columns = np.arange(height)[:, None], np.arange(width)
    members, samples = np.divmod(np.arange(n * n_samples), n_samples)

    def square(sample: int) -> np.ndarray:
        top, left, side = tops[sample], lefts[sample], sides[sample]
        return (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)

    def kept(batch: slice) -> np.ndarray:
        return np.stack([~square(sample) for sample in samples[batch]]).astype(np.float32)

    hidden = case.masked_scores(members, kept, fill, score, "infidelity").reshape(n, n_samples)
    falls = case.scores(score)[:, None] - hidden
    sums = np.stack([case.maps[:, square(s)].sum(axis=1, dtype=np.float64) for s in range(n_samples)], axis=1)
    size = (sums * sums).sum(axis=1, keepdims=True)
    scale = np.divide((sums * falls).sum(axis=1, keepdims=True), size, out=np.zeros_like(size), where=size > 0)
    return ((scale * sums - falls) ** 2).mean(axis=1)


INFIDELITY = Metric(
    "infidelity",
    "Infidelity",
    "model",
    False,
    "Yeh et al. 2019, On the (in)fidelity and sensitivity of explanations, arXiv:1901.09392; square removal with the "
    "best scale, as their code; random squares in place of all of them",
    infidelity,
    (
        Parameter("n_samples", int, 100, "squares", 2, 100_000),
        Parameter("largest", float, 10 / 28, "longest side, part of the image's; the code: 10 of 28 pixels", 0.0, 1.0),
        Parameter("fill", str, "mean", "what replaced pixels show; the code: 0", choices=FILLS),
        Parameter("score", str, "logit", "the score whose fall is compared", choices=("logit", "probability")),
        Parameter("seed", int, 0, "seed of the squares", 0),
    ),
    reading="signed",  # a square's sum is its share of the score, for it or against it
)
