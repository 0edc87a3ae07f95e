"""RISE: the mean score of the image under random masks that show a pixel."""

import math
import warnings

import numpy as np

from xaiutils.attribution.baselines import FILLS, fill_images
from xaiutils.attribution.map_warnings import MapWarning
from xaiutils.attribution.method import SCORES, SEED, Method
from xaiutils.graph.network import Network
from xaiutils.graph.passes import batches, masked_scores
from xaiutils.registry import Parameter

_CLEAR = 5  # found on a detector of a blob, from chance hits to certain ones


class RandomMasks:
    """Masks ``(height, width)`` in [0, 1] by number; only the coarse ``grids`` and the ``shifts`` are kept.

    A grid of ``cells`` x ``cells`` is shown (1) with probability ``p1`` in each cell, enlarged bilinearly to
    (cells + 1) ceil(side / cells) pixels, and cut to the image at a random shift below one cell of its own.
    """

    def __init__(self, n_masks: int, cells: int, p1: float, height: int, width: int, seed: int):
        grids, shifts = (np.random.default_rng([seed, stream]) for stream in range(2))
        self.grids = (grids.random((n_masks, cells, cells)) < p1).astype(np.float32)
        steps = [math.ceil(side / cells) for side in (height, width)]
        self.shifts = shifts.integers(0, steps, (n_masks, 2))
        self._rows, self._columns = (
            _enlargements(side, cells, step) for side, step in zip((height, width), steps, strict=True)
        )

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        rows, columns = self._rows[self.shifts[numbers, 0]], self._columns[self.shifts[numbers, 1]]
        return rows @ self.grids[numbers] @ columns.transpose(0, 2, 1)


def _enlargements(side: int, cells: int, step: int) -> np.ndarray:
    """For each shift, the matrix ``(side, cells)`` of bilinear interpolation with half-pixel centres."""
    pixels = np.arange(side) + np.arange(step)[:, None]
    where = np.clip((pixels + 0.5) * cells / ((cells + 1) * step) - 0.5, 0, cells - 1)
    return np.maximum(0, 1 - np.abs(where[..., None] - np.arange(cells))).astype(np.float32)


def rise(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    n_masks: int,
    cells: int,
    p1: float,
    fill: str,
    score: str,
    seed: int,
) -> np.ndarray:
    """sum_i S(x under M_i) M_i / (N p1), M_i random masks (Petsiuk, Das & Saenko 2018, arXiv:1806.07421, eq. 6).

    An estimate of the mean score of the masks that show a pixel, so never negative for probabilities; only differences
    between pixels have a meaning. x under M is M x + (1 - M) fill. The paper multiplies the normalised image, where 0
    is the mean colour of the training images: about ``fill="grey"``; ``"black"`` multiplies the image itself. All
    images get the same masks, which are made for each batch.

    Masks show some pixels more often than others, by chance, and a mean score that is large beside the differences
    between masks draws that chance: where the probability is saturated, nearly 1 under almost every mask, the map peaks
    anywhere. A `MapWarning` says so where sqrt(N) std_i S < 5 mean_i S; ``score="logit"`` or more masks help.
    """
    n, height, width = images.shape[:3]
    masks = RandomMasks(n_masks, cells, p1, height, width, seed)
    numbers, members = np.divmod(np.arange(n_masks * n), n)  # mask by mask, so that one is made for all images

    def shown(batch: slice) -> np.ndarray:
        needed, where = np.unique(numbers[batch], return_inverse=True)
        return masks(needed)[where]

    fills = fill_images(images, fill)
    scores = masked_scores(network, images, fills, targets, members, shown, batch_size, score, "RISE")
    scores = scores.reshape(n_masks, n)
    _warn_of_chance(scores, score)
    total = np.zeros(images.shape[:3])
    for part in batches(n_masks, batch_size, "RISE, sum"):
        total += np.tensordot(scores[part].T, masks(np.arange(part.start, part.stop)), 1)
    return (total / (n_masks * p1)).astype(np.float32)


def _warn_of_chance(scores: np.ndarray, score: str) -> None:
    """Warn (MapWarning) of images whose scores ``(n_masks, n)`` hardly differ between masks; see `rise`."""
    spread, mean = np.sqrt(len(scores)) * scores.std(axis=0), np.abs(scores.mean(axis=0))
    chance = int((spread < _CLEAR * mean).sum())
    if chance:
        cure = 'score="logit" or more n_masks' if score == "probability" else "more n_masks"
        warnings.warn(
            f"rise: for {chance} of {scores.shape[1]} images the {score} hardly differs between masks, so the map is "
            f"mostly how often chance showed each pixel; use {cure}.",
            MapWarning,
            stacklevel=4,
        )


RISE = Method(
    name="rise",
    title="RISE",
    family="perturbation",
    paper="Petsiuk, Das & Saenko 2018, arXiv:1806.07421",
    signed=False,
    cost="n_masks forwards",
    compute=rise,
    needs="nothing",
    # A constant in every score adds a picture of how often the masks showed each pixel.
    shift_invariant_by=lambda parameters: parameters["score"] == "probability",
    parameters=(
        Parameter("n_masks", int, 4000, "random masks; the paper: 4000 (VGG16), 8000 (ResNet50)", 1, 100_000),
        Parameter("cells", int, 7, "cells along each side of a mask; the paper: 7", 1, 64),
        Parameter("p1", float, 0.5, "probability that a cell is shown; the paper: 0.5", 0.01, 0.99),
        Parameter(
            "fill",
            str,
            "grey",
            "what hidden pixels show; the paper: about grey",
            choices=FILLS,
        ),
        Parameter("score", str, "probability", "the score that is averaged", choices=SCORES),
        SEED,
    ),
    signed_by=lambda parameters: parameters["score"] == "logit",
    reading="signed",  # a mean score: 0 of a logit is no border between for and against
)
