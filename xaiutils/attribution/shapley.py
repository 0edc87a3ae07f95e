"""Shapley values of superpixels: exact for few, by permutations for many."""

import math
from dataclasses import replace

import numpy as np

from xaiutils.attribution.lime import FILL, SEGMENTATION, SEGMENTS, hidden_fill, segments_of_images
from xaiutils.attribution.method import SCORES, SEED, Method
from xaiutils.graph.network import Network
from xaiutils.graph.passes import masked_scores
from xaiutils.registry import Parameter

MOST_EXACT = 12  # superpixels whose 2^n coalitions are all scored


def exact_values(scores: np.ndarray, n: int) -> np.ndarray:
    """Shapley values ``(n,)`` of the scores ``(2^n,)`` of all coalitions; bit i of a number says that i is shown."""
    coalitions = np.arange(2**n)
    sizes = np.bitwise_count(coalitions)
    share = np.array([1 / (n * math.comb(n - 1, size)) for size in range(n)])
    values = np.empty(n)
    for i in range(n):
        without = coalitions[(coalitions >> i) & 1 == 0]
        values[i] = (share[sizes[without]] * (scores[without | 1 << i] - scores[without])).sum()
    return values


def orders(n: int, n_samples: int, seed: int) -> np.ndarray:
    """``n_samples`` orders in which n superpixels are shown, ``(n_samples, n)``; every other one is the one before,
    backwards."""
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(n) for _ in range(-(-n_samples // 2))]
    return np.stack([order for forth in drawn for order in (forth, forth[::-1])])[:n_samples]


def shapley(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    segmentation: str,
    n_segments: int,
    segments: np.ndarray | None,
    n_samples: int,
    fill: str,
    score: str,
    seed: int,
) -> np.ndarray:
    """Each superpixel's Shapley value: what the score gains when it is shown, averaged over all orders in which the
    superpixels can be shown one after the other (Shapley 1953; Lundberg & Lee 2017, arXiv:1705.07874).

    The values of an image's superpixels, of which each pixel has its own's, add up to S(x) - S(fill) (efficiency). Up
    to 12 superpixels all coalitions are scored and the values are exact. Beyond, they are the mean over ``n_samples``
    orders, each followed by its reverse (as ``shap``'s permutation explainer), which keeps efficiency and has the right
    expectation. ``segments`` gives the superpixels, whole numbers ``(height, width)`` or ``(n, height, width)``, in
    place of ``segmentation``; hidden ones show ``fill``.
    """
    labels = segments_of_images(images, segments, segmentation, n_segments, seed)
    counts = labels.max(axis=(1, 2)) + 1
    shown = [_shown(count, n_samples, seed) for count in counts]
    fills = hidden_fill(images, labels, fill)
    found = scores_of_coalitions(network, images, targets, batch_size, labels, shown, fills, score)
    maps = np.empty(labels.shape, np.float32)
    for i, (count, scores) in enumerate(zip(counts, found, strict=True)):
        maps[i] = _values(scores, count, n_samples, seed)[labels[i]]
    return maps


def scores_of_coalitions(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    labels: np.ndarray,
    shown: list[np.ndarray],
    fills: np.ndarray,
    score: str,
) -> list[np.ndarray]:
    """The scores float64 ``(rows,)`` of each image when of its superpixels ``labels`` ``(height, width)`` those are
    shown that a row of ``shown``, bool ``(rows, superpixels)``, names, and ``fills`` in place of the others."""
    members = np.repeat(np.arange(len(images)), [len(rows) for rows in shown])
    rows = np.concatenate([np.arange(len(of_image)) for of_image in shown])

    def masks(batch: slice) -> np.ndarray:
        of_each = zip(members[batch], rows[batch], strict=True)
        return np.stack([shown[i][row][labels[i]] for i, row in of_each]).astype(np.float32)

    scores = masked_scores(network, images, fills, targets, members, masks, batch_size, score, "Shapley values")
    return [scores[members == i].astype(np.float64) for i in range(len(images))]


def _shown(count: int, n_samples: int, seed: int) -> np.ndarray:
    """What is shown of an image's superpixels, bool ``(rows, count)``: every coalition, or each order's beginnings."""
    if count <= MOST_EXACT:
        return (np.arange(2**count)[:, None] >> np.arange(count)) & 1 == 1
    ranks = np.argsort(orders(count, n_samples, seed), axis=1)
    return (ranks[:, None] < np.arange(count + 1)[:, None]).reshape(-1, count)


def _values(scores: np.ndarray, count: int, n_samples: int, seed: int) -> np.ndarray:
    if count <= MOST_EXACT:
        return exact_values(scores, count)
    gains = np.diff(scores.reshape(n_samples, count + 1), axis=1)
    values = np.zeros(count)
    np.add.at(values, orders(count, n_samples, seed), gains / n_samples)
    return values


SHAPLEY = Method(
    name="shapley",
    title="Shapley values",
    family="perturbation",
    paper="Shapley 1953; Lundberg & Lee 2017, arXiv:1705.07874",
    signed=True,
    cost="2^n_segments forwards, or beyond 12 superpixels n_samples (n_segments + 1)",
    compute=shapley,
    needs="nothing",
    parameters=(
        replace(SEGMENTATION, default="slic"),
        Parameter("n_segments", int, 12, "superpixels, about; slic only", 2, 2000),
        SEGMENTS,
        Parameter("n_samples", int, 20, "orders, beyond 12 superpixels; shap: about 500 forwards", 1, 100_000),
        FILL,
        Parameter("score", str, "logit", "the score that is shared out", choices=SCORES),
        SEED,
    ),
)
