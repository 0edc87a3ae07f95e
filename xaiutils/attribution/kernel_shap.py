"""Kernel SHAP: Shapley values of superpixels, beyond those that can be enumerated, by a weighted regression."""

import itertools
import math
from dataclasses import replace

import numpy as np

from xaiutils.attribution.lime import FILL, SEGMENTATION, SEGMENTS, hidden_fill, segments_of_images
from xaiutils.attribution.method import SCORES, SEED, Method
from xaiutils.attribution.shapley import scores_of_coalitions
from xaiutils.graph.network import Network
from xaiutils.registry import Parameter


def coalitions(n: int, n_coalitions: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Coalitions of n players, bool ``(rows, n)`` without the empty and the full one, and their weights ``(rows,)`` in
    the regression, in whose place they stand, their sum being 1.

    A coalition of s players weighs (n - 1) / (C(n, s) s (n - s)). Where all 2^n - 2 fit into ``n_coalitions`` they are
    all there. Otherwise the sizes s and n - s, from 1 on, are whole as long as their share of the number left holds
    them; of the other sizes coalitions are drawn by their weight, each with its complement, and share the weight left.
    """
    n = int(n)
    if not 2 * n <= n_coalitions and 2**n - 2 > n_coalitions:
        raise ValueError(
            f"n_coalitions={n_coalitions} are too few for {n} superpixels; give at least {2 * n}, or fewer superpixels."
        )
    weight = np.array([1 / (s * (n - s)) for s in range(1, n)])  # of all coalitions of a size
    weight /= weight.sum()
    rows, weights = [], []
    sizes, left = list(range(1, n // 2 + 1)), n_coalitions
    while sizes:
        s = sizes[0]
        both = {s, n - s}
        count, share = sum(math.comb(n, size) for size in both), sum(weight[size - 1] for size in both)
        rest = sum(weight[size - 1] for other in sizes for size in {other, n - other})
        if count > n_coalitions or (2**n - 2 > n_coalitions and left * share / rest < count * (1 - 1e-8)):
            break
        rows += [_all_of_size(n, size) for size in both]
        weights.append(np.full(count, share / count))
        left -= count
        sizes.pop(0)
    if sizes:
        drawn, counts = np.unique(_pairs(n, sizes, weight, max(1, left // 2), seed), axis=0, return_counts=True)
        rows.append(drawn)
        weights.append(counts / counts.sum() * (1 - sum(w.sum() for w in weights)))
    return (np.concatenate(rows), np.concatenate(weights)) if rows else (np.zeros((0, n), bool), np.zeros(0))


def _all_of_size(n: int, size: int) -> np.ndarray:
    shown = np.zeros((math.comb(n, size), n), bool)
    for row, players in zip(shown, itertools.combinations(range(n), size), strict=True):
        row[list(players)] = True
    return shown


def _pairs(n: int, sizes: list[int], weight: np.ndarray, n_pairs: int, seed: int) -> np.ndarray:
    """Coalitions of ``sizes``, drawn by the weight of each size and of its complement, and the complements."""
    rng = np.random.default_rng(seed)
    chances = np.array([sum(weight[size - 1] for size in {s, n - s}) for s in sizes])
    drawn = rng.choice(sizes, size=n_pairs, p=chances / chances.sum())
    ranks = rng.permuted(np.tile(np.arange(n), (n_pairs, 1)), axis=1)
    shown = ranks < drawn[:, None]
    return np.concatenate([shown, ~shown])


def regression_values(
    shown: np.ndarray, weights: np.ndarray, scores: np.ndarray, empty: float, full: float
) -> np.ndarray:
    """The phi ``(n,)`` that minimise sum_z w_z (v(z) - v(empty) - sum_i z_i phi_i)^2 under sum_i phi_i = v(full) -
    v(empty), of coalitions z ``(rows, n)`` with ``weights`` and ``scores`` v ``(rows,)``. Where several do, the ones
    that differ least."""
    n = shown.shape[1]
    mean, root = (full - empty) / n, np.sqrt(weights)
    z = shown.astype(np.float64)
    y = scores - empty - z.sum(axis=1) * mean
    within = z - z.mean(axis=1, keepdims=True)  # acts on what sums to 0 as z does
    return mean + np.linalg.lstsq(root[:, None] * within, root * y, rcond=None)[0]


def kernel_shap(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    segmentation: str,
    n_segments: int,
    segments: np.ndarray | None,
    n_coalitions: int,
    fill: str,
    score: str,
    seed: int,
) -> np.ndarray:
    """Each superpixel's Shapley value by the linear model g(z) = v(empty) + sum_i phi_i z_i that fits the score v of
    images with superpixels hidden, with the Shapley kernel as its weights: minimise sum_z pi(z) (v(z) - g(z))^2,
    pi(z) = (M - 1) / (C(M, |z|) |z| (M - |z|)), of M superpixels (Lundberg & Lee 2017, arXiv:1705.07874, theorem 2).

    The kernel is infinite for the empty and the full image, so the values add up to S(x) - S(fill) (efficiency). With
    all 2^M - 2 coalitions they are the Shapley values exactly. With fewer, small and large coalitions, which weigh
    most, are all there, and the others are drawn in pairs z and 1 - z (as ``shap``; Covert & Lee 2021,
    arXiv:2012.01536: less variance). ``n_coalitions=0`` takes ``shap``'s 2 M + 2048. ``shap`` draws until so many
    differ, and may leave values out by an L1 penalty; here what is drawn twice weighs twice, and there is no penalty.
    For ``segments`` and ``fill`` see `shapley`, which is exact up to 12 superpixels.
    """
    labels = segments_of_images(images, segments, segmentation, n_segments, seed)
    counts = labels.max(axis=(1, 2)) + 1
    drawn = [coalitions(count, n_coalitions or 2 * count + 2048, seed) for count in counts]
    shown = [
        np.concatenate([np.zeros((1, n), bool), np.ones((1, n), bool), of_image])
        for n, (of_image, _) in zip(counts, drawn, strict=True)
    ]
    fills = hidden_fill(images, labels, fill)
    found = scores_of_coalitions(network, images, targets, batch_size, labels, shown, fills, score)
    maps = np.empty(labels.shape, np.float32)
    for i, (scores, (of_image, weights)) in enumerate(zip(found, drawn, strict=True)):
        empty, full, *_ = scores
        maps[i] = regression_values(of_image, weights, scores[2:], empty, full)[labels[i]]
    return maps


KERNEL_SHAP = Method(
    name="kernel_shap",
    title="Kernel SHAP",
    family="perturbation",
    paper="Lundberg & Lee 2017, arXiv:1705.07874",
    signed=True,
    cost="n_coalitions forwards, by default 2 n_segments + 2048",
    compute=kernel_shap,
    needs="nothing",
    parameters=(
        replace(SEGMENTATION, default="slic"),
        Parameter("n_segments", int, 50, "superpixels, about; slic only", 2, 2000),
        SEGMENTS,
        Parameter(
            "n_coalitions", int, 0, "coalitions scored; 0: 2 for each superpixel and 2048, as shap", 0, 1_000_000
        ),
        FILL,
        Parameter("score", str, "logit", "the score that is shared out", choices=SCORES),
        SEED,
    ),
)
