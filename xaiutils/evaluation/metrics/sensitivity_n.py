"""Maps against the model, by random sets of pixels: does a set's sum in the map tell how far the score falls?"""

import numpy as np

from xaiutils.attribution.baselines import FILLS
from xaiutils.evaluation.metrics.metric import Case, Metric
from xaiutils.registry import Parameter


def sensitivity_n(case: Case, *, area: float, n_samples: int, fill: str, score: str, seed: int) -> np.ndarray:
    """Pearson correlation, over random sets of n pixels, of the map's sum in the set with the drop of the score when
    the set is replaced (Ancona et al. 2018); n is ``area`` times the pixels.

    The sets are the same for all images. NaN where the map's sums, or the drops, are all equal.
    """
    n, height, width = case.maps.shape
    count = max(1, round(area * height * width))

    def pixels(sample: int) -> np.ndarray:
        return np.random.default_rng([seed, sample]).permutation(height * width)[:count]

    members, samples = np.divmod(np.arange(n * n_samples), n_samples)

    def kept(batch: slice) -> np.ndarray:
        masks = np.ones((batch.stop - batch.start, height * width), np.float32)
        for row, sample in enumerate(samples[batch]):
            masks[row, pixels(sample)] = 0
        return masks.reshape(-1, height, width)

    hidden = case.masked_scores(members, kept, fill, score, "sensitivity-n").reshape(n, n_samples)
    flat = case.maps.reshape(n, -1).astype(np.float64)
    sums = np.stack([flat[:, pixels(sample)].sum(axis=1) for sample in range(n_samples)], axis=1)
    return np.array([_pearson(a, b) for a, b in zip(sums, case.scores(score)[:, None] - hidden, strict=True)])


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    # Sums that differ by rounding alone say nothing.
    return float((a * b).sum() / norm) if norm > 1e-12 * len(a) else np.nan


SENSITIVITY_N = Metric(
    "sensitivity_n",
    "Sensitivity-n",
    "model",
    True,
    "Ancona et al. 2018, arXiv:1711.06104; with one n also the faithfulness correlation of Bhatt et al. 2020",
    sensitivity_n,
    (
        Parameter("area", float, 0.1, "fraction of the pixels in a set", 0.0, 1.0),
        Parameter("n_samples", int, 100, "sets; both papers: 100", 3, 100_000),
        Parameter("fill", str, "mean", "what replaced pixels show", choices=FILLS),
        Parameter("score", str, "logit", "the score whose drop is compared", choices=("logit", "probability")),
        Parameter("seed", int, 0, "seed of the sets", 0),
    ),
    reading="signed",  # a set's sum is its share of the score, for it or against it
)
