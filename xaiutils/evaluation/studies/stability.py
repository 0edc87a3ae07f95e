"""MeGe and ReCo (Fel et al. 2022, arXiv:2009.04521): do models of one architecture, trained on other parts of the data,
explain the same answers alike?"""

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from xaiutils.evaluation.map_similarity import SIMILARITIES
from xaiutils.registry import check_choice


def pair_distances(
    maps: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray], similarity: str = "spearman"
) -> pd.DataFrame:
    """How far the maps of every two models are from each other, on each image that at least one of them has right.

    Args:
        maps: by model (fold), float32 ``(n, height, width)``: one method's maps of the label of the same n images.
        right: by model, bool ``(n,)``: whether it answers with the label.
        similarity: a name in `xaiutils.evaluation.map_similarity.SIMILARITIES`; a distance is 1 less it.

    Returns:
        A row for each pair and image: first, second, image (its number), agree (both are right), distance (NaN where a
        map is constant).

    Raises ValueError for fewer than two models, other models in ``right``, or an unknown similarity.
    """
    check_choice("similarity", similarity, SIMILARITIES)
    if len(maps) < 2 or set(maps) != set(right):
        raise ValueError(f"maps of {list(maps)} and answers of {list(right)}; expected the same models, at least two.")
    tables = []
    for first, second in itertools.combinations(maps, 2):
        a, b = np.asarray(right[first], bool), np.asarray(right[second], bool)
        distance = 1 - SIMILARITIES[similarity](maps[first], maps[second])
        table = pd.DataFrame({"image": np.arange(len(a)), "agree": a & b, "distance": distance})
        tables.append(table[a | b].assign(first=first, second=second))
    found = pd.concat(tables, ignore_index=True)
    return found[["first", "second", "image", "agree", "distance"]]


def mege(distances: pd.DataFrame) -> float:
    """Mean generalisability: 1 / (1 + mean distance where both models are right), in (0, 1]; 1: the same maps; NaN
    without such pairs."""
    return float(1 / (1 + distances.loc[distances["agree"], "distance"].mean()))


def reco(distances: pd.DataFrame) -> float:
    """Relative consistency: the largest TPR + TNR - 1 with which a threshold on the distance tells pairs of right
    answers (near) from a right and a wrong one (far), in [0, 1]; 0: the distance does not tell. NaN where there are
    only pairs of one kind."""
    known = distances.dropna(subset="distance")
    near, far = (np.sort(known.loc[known["agree"] == kind, "distance"]) for kind in (True, False))
    if not len(near) or not len(far):
        return np.nan
    limits = np.unique(known["distance"])
    tpr = np.searchsorted(near, limits, side="right") / len(near)
    tnr = 1 - np.searchsorted(far, limits, side="right") / len(far)
    return float(max(0.0, (tpr + tnr - 1).max()))
