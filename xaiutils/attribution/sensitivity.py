"""Sensitivity analysis of a grid of cells that are hidden at random: Sobol indices, and dependence by HSIC."""

import warnings
from collections.abc import Callable

import numpy as np
from scipy.stats import qmc

from xaiutils.attribution.baselines import FILLS, fill_images
from xaiutils.attribution.method import SCORES, SEED, Method
from xaiutils.graph.network import Network
from xaiutils.graph.passes import enlarge, masked_scores
from xaiutils.registry import Parameter


def _scores_under(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    masks: np.ndarray,
    fill: str,
    score: str,
) -> np.ndarray:
    """The score of each image under each of ``masks`` ``(n_masks, cells, cells)``, whose cells have sharp edges,
    ``(n, n_masks)`` float64; ValueError for more cells than pixels along a side."""
    n, (height, width), cells = len(images), images.shape[1:3], masks.shape[-1]
    if cells > min(height, width):
        raise ValueError(f"cells={cells} along each side of images of {height} x {width} pixels; give fewer.")
    rows, columns = (np.arange(side) * cells // side for side in (height, width))
    members, numbers = np.divmod(np.arange(n * len(masks)), len(masks))

    def large(batch: slice) -> np.ndarray:
        return masks[numbers[batch]][:, rows][:, :, columns].astype(np.float32)

    fills = fill_images(images, fill)
    found = masked_scores(network, images, fills, targets, members, large, batch_size, score, "hiding cells")
    return found.reshape(n, -1).astype(np.float64)


def sobol(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    cells: int,
    n_samples: int,
    order: str,
    fill: str,
    score: str,
    seed: int,
) -> np.ndarray:
    """Each cell's Sobol index: the part of the score's variance, over masks uniform in [0, 1], that it has a hand in
    (Fel et al. 2021, arXiv:2111.04138).

    ``order="total"`` (the paper's), alone or together with other cells, by Jansen's estimator: mean (f(A) - f(C_i))^2 /
    (2 var f(A)), A and B being ``n_samples`` quasi-random masks each and C_i those of A with cell i of B. "first":
    alone, 1 - mean (f(B) - f(C_i))^2 / (2 var f(A)), negative values set to 0. Where the score is a sum of what each
    cell gives, both are the same and add up to 1. The index has no sign. x under M is M x + (1 - M) fill; the paper's 0
    in normalised images is about grey.
    """
    d = cells * cells
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of numbers that are no power of 2
        drawn = qmc.Sobol(2 * d, rng=np.random.default_rng(seed)).random(n_samples)
    A, B = drawn[:, :d], drawn[:, d:]
    mixed = np.where(np.eye(d, dtype=bool)[:, None], B, A).reshape(-1, d)
    masks = np.concatenate([A, B, mixed]).reshape(-1, cells, cells)
    found = _scores_under(network, images, targets, batch_size, masks, fill, score)
    of_A, of_B, of_C = found[:, :n_samples], found[:, n_samples : 2 * n_samples], found[:, 2 * n_samples :]
    miss = (of_C.reshape(len(images), d, n_samples) - (of_A if order == "total" else of_B)[:, None]) ** 2
    variance = 2 * of_A.var(axis=1, keepdims=True)
    part = np.divide(miss.mean(axis=2), variance, out=np.zeros(miss.shape[:2]), where=variance > 0)
    index = part if order == "total" else np.maximum(1 - part, 0)
    return enlarge(index.reshape(-1, cells, cells), *images.shape[1:3])


def hsic(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    cells: int,
    n_masks: int,
    fill: str,
    score: str,
    seed: int,
) -> np.ndarray:
    """How much the score depends on whether a cell is shown, by the Hilbert-Schmidt independence criterion (Novello,
    Fel & Vigouroux 2022, arXiv:2206.06219).

    HSIC_i = tr(K_i H L H) / n^2 over n = ``n_masks`` masks that show each cell with probability 1/2, H = 1 - 1/n, K_i =
    1 where cell i is alike in two masks (else 0), and L = exp(-(y - y')^2 / (2 s^2)) of the scores, s the median of
    their differences. It has no sign. x under M is M x + (1 - M) fill.
    """
    shown = (np.random.default_rng(seed).random((n_masks, cells * cells)) < 0.5).astype(np.float64)
    found = _scores_under(network, images, targets, batch_size, shown.reshape(-1, cells, cells), fill, score)
    centred = shown - shown.mean(axis=0)  # H K_i H is twice its outer product with itself
    index = np.empty((len(images), cells * cells))
    for i, scores in enumerate(found):
        away = np.abs(scores[:, None] - scores)
        width = np.median(away[np.triu_indices(n_masks, 1)]) or 1.0
        L = np.expm1(-((away / width) ** 2) / 2)  # less 1, which H takes away: exactly 0 where all scores agree
        index[i] = 2 * np.einsum("jd,jk,kd->d", centred, L, centred, optimize=True) / n_masks**2
    return enlarge(index.reshape(-1, cells, cells), *images.shape[1:3])


def _declare(
    name: str, title: str, paper: str, cost: str, compute: Callable[..., np.ndarray], *own: Parameter
) -> Method:
    return Method(
        name=name,
        title=title,
        family="perturbation",
        paper=paper,
        signed=False,
        cost=cost,
        compute=compute,
        needs="nothing",
        parameters=(
            Parameter("cells", int, 8, "cells along each side; xplique: 8", 1, 64),
            *own,
            Parameter("fill", str, "grey", "what hidden pixels show; the papers: about grey", choices=FILLS),
            Parameter("score", str, "logit", "the score whose variance or dependence is asked", choices=SCORES),
            SEED,
        ),
    )


SOBOL = _declare(
    "sobol",
    "Sobol indices",
    "Fel, Cadene, Chalvidal, Cord, Vigouroux & Serre 2021, arXiv:2111.04138",
    "n_samples (cells^2 + 2) forwards",
    sobol,
    Parameter("n_samples", int, 32, "masks of each of the two designs; xplique: 32", 2, 100_000),
    Parameter("order", str, "total", "a cell with its interactions, or alone", choices=("total", "first")),
)
HSIC = _declare(
    "hsic",
    "HSIC",
    "Novello, Fel & Vigouroux 2022, arXiv:2206.06219",
    "n_masks forwards",
    hsic,
    Parameter("n_masks", int, 500, "random masks; xplique: 500", 3, 20_000),
)
