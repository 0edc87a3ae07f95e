"""Sanity checks by random weights (Adebayo et al. 2018, arXiv:1810.03292): a map that stays when the model forgets does
not explain the model.

It is a necessary check that cannot rank methods: maps keep the scale of activations, and noise differs from anything
(Binder et al. 2023, arXiv:2211.12486).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from xaiutils.attribution import explain_all, own_readings, resolve
from xaiutils.backend import keras
from xaiutils.evaluation.answers import answers
from xaiutils.evaluation.map_similarity import similarity_table
from xaiutils.evaluation.studies.random_weights import random_weights, stages
from xaiutils.graph.predict import predict
from xaiutils.progress import progress
from xaiutils.registry import suggest
from xaiutils.statistics.bootstrap import draw_units, percentiles
from xaiutils.statistics.summaries import UNIT

MODES = ("cascading", "independent")


def randomisation_test(
    model: keras.Model,
    images: np.ndarray,
    image_ids: list[str],
    methods: Iterable[str],
    targets: np.ndarray | int | None = None,
    mode: str = "cascading",
    n_stages: int = 6,
    norms: bool = False,
    similarities: Iterable[str] = ("spearman", "ssim"),
    batch_size: int = 32,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Similarity of each method's maps before and after groups of layers lost their weights.

    Args:
        model: changed in place; it has its own weights again at the end.
        images, methods, targets, batch_size, parameters: as `xaiutils.explain_all` takes them. The explained class
            stays the one of the trained model. Maps are read as their method declares (`Method.own_reading`), unless
            its ``parameters`` have a ``reading``: a sign that turns would pass for a map that changed.
        image_ids: names of the images in the table.
        mode: "cascading" (from the logits down, each group in addition to those before it) or "independent" (one group
            at a time).
        n_stages, norms: the groups of layers, see `xaiutils.evaluation.studies.random_weights.stages`.
        similarities: names in `xaiutils.evaluation.map_similarity.SIMILARITIES`.
        seed: of the random weights.

    Returns:
        A row for each method, stage, image and similarity: method, stage (the group's first layer; "none": the trained
        model, 1 by definition), depth (0 for none, counted from the logits), image_id, similarity, reading, value (NaN
        for a constant map), p (mean probability of the explained class, to see how far the model has forgotten).
    """
    found = randomised_maps(model, images, methods, targets, mode, n_stages, norms, batch_size, parameters, seed)
    return stage_similarity(found, image_ids, similarities, parameters)


@dataclass(frozen=True)
class Stage:
    """Maps by method after a group of layers lost its weights: ``name`` and ``depth`` as in `randomisation_test`, and
    ``p``, the mean probability of the explained class (of a score: the mean score)."""

    name: str
    depth: int
    maps: dict[str, np.ndarray]
    p: float


def randomised_maps(
    model: keras.Model,
    images: np.ndarray,
    methods: Iterable[str],
    targets: np.ndarray | int | None = None,
    mode: str = "cascading",
    n_stages: int = 6,
    norms: bool = False,
    batch_size: int = 32,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    known: Sequence[Stage] = (),
) -> Iterator[Stage]:
    """The maps that `randomisation_test` compares, the trained model's first, one stage at a time.

    ``model``, ``images``, ``methods``, ``targets``, ``mode``, ``n_stages``, ``norms``, ``batch_size``, ``parameters``
    and ``seed`` are its own. Whenever a stage is handed out the model has its own weights. ``known`` stages are handed
    out first and not explained again: both modes share their first two, the trained model and the lost logits.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}; {suggest(mode, list(MODES))}")
    methods, parameters = list(methods), dict(parameters or {})
    resolve(methods, parameters)
    if targets is None:
        targets = predict(model, images, batch_size).argmax(axis=1)
    targets = np.broadcast_to(np.asarray(targets), len(images))

    def explained(name: str, depth: int) -> Stage:
        p = answers(model, images, batch_size)[np.arange(len(images)), targets].mean()
        return Stage(name, depth, explain_all(model, images, targets, methods, batch_size, parameters), float(p))

    yield from known or [explained("none", 0)]
    groups = stages(model, n_stages, norms)
    names = list(groups)
    for depth in progress(range(max(1, len(known)), len(names) + 1), title=f"{mode} randomisation"):
        chosen = names[:depth] if mode == "cascading" else [names[depth - 1]]
        with random_weights([layer for name in chosen for layer in groups[name]], seed):
            found = explained(names[depth - 1], depth)
        yield found


def stage_similarity(
    found: Iterable[Stage],
    image_ids: list[str],
    similarities: Iterable[str] = ("spearman", "ssim"),
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
) -> pd.DataFrame:
    """The table of `randomisation_test` from the stages of `randomised_maps`, the first being the trained model's.

    ``parameters`` of the methods, as `randomised_maps` was given them, say how maps are read.
    """
    similarities = list(similarities)
    trained: dict[str, np.ndarray] = {}
    tables = []
    for stage in found:
        trained = trained or stage.maps
        facts = {"stage": stage.name, "depth": stage.depth, "image_id": image_ids}
        readings = _readings(stage.maps, parameters)
        tables.append(similarity_table(trained, stage.maps, similarities, readings, **facts).assign(p=stage.p))
    return pd.concat(tables, ignore_index=True)


def _readings(maps: Iterable[str], parameters: Mapping[str, Mapping[str, Any]] | None) -> dict[str, str]:
    return {name: given["reading"] for name, given in own_readings(maps, parameters).items()}


# What similarity means ---------------------------------------------------------------------------------------------


def chance_similarity(
    maps: Mapping[str, np.ndarray],
    image_ids: list[str],
    similarities: Iterable[str] = ("spearman", "ssim"),
    n_pairs: int = 50,
    patients: Iterable[str] | None = None,
    seed: int = 0,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
) -> pd.DataFrame:
    """Similarity of the trained model's maps of different images: what a method's maps have in common whatever they
    show (Arun et al. 2021, doi:10.1148/ryai.2021200267, with 50 pairs).

    ``maps``: of the trained model, ``(n, height, width)`` by method. Pairs are drawn without replacement, the same for
    all methods; with few images all pairs are taken. With ``patients`` (of each image) only pairs of two patients.

    ``parameters`` of the methods say how maps are read, as for `stage_similarity`.

    Returns a row for each method, similarity and pair: method, similarity, image_a, image_b, value (NaN where a map is
    constant). Raises ValueError where there is no pair.
    """
    ids, owners = np.asarray(image_ids), np.asarray(image_ids if patients is None else list(patients))
    first, second = np.triu_indices(len(ids), k=1)
    possible = np.flatnonzero(owners[first] != owners[second])
    if len(possible) == 0 or n_pairs < 1:
        raise ValueError(
            f"{len(ids)} images of {len(np.unique(owners))} patients, n_pairs={n_pairs}; pairs need two images of "
            "different patients, and there must be one pair at least."
        )
    kept = np.sort(np.random.default_rng(seed).permutation(possible)[:n_pairs])
    first, second = first[kept], second[kept]
    left, right = ({method: found[chosen] for method, found in maps.items()} for chosen in (first, second))
    facts = {"image_a": ids[first], "image_b": ids[second]}
    table = similarity_table(left, right, list(similarities), _readings(maps, parameters), **facts)
    return table[["method", "image_a", "image_b", "similarity", "value"]]


def verdicts(
    table: pd.DataFrame,
    chance: pd.DataFrame,
    margin: float = 0.1,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Did the maps lose what they had? Each stage of `randomisation_test` against `chance_similarity`.

    Arun et al. 2021: a method reacts to the weights once its mean similarity falls below that of random pairs. But maps
    that lost everything lie *at* that level, so perfect methods would pass by luck. Hence what is left of the
    similarity, (mean - chance) / (1 - chance), 1 for maps that stayed and 0 at chance, has a percentile bootstrap
    interval, for which images are resampled (or patients, where ``table`` has a column patient_id) with all their maps
    and pairs (of fewer than three images: NaN); and ``margin`` is what may be left. With a margin of 0 it is their rule
    with an interval.

    Returns a row for each method, similarity and stage but "none" (and mode, where ``table`` has such a column): these,
    depth, mean, chance, left, low, high, n (images with a value), missing, below (their rule: mean < chance), verdict:
    "passes" where high < ``margin``, "fails" where low > ``margin``, else "undecided". A method has passed the test
    where the last stage of "cascading" passes.
    """
    rows = []
    keys = [k for k in ("mode", "method", "similarity", "stage", "depth") if k in table]
    for key, group in table[table["depth"] > 0].groupby(keys, sort=False):
        like = group.iloc[0]
        same = (chance["method"] == like["method"]) & (chance["similarity"] == like["similarity"])
        pairs = chance[same].dropna(subset="value")
        known = group.dropna(subset="value")
        mean, level = known["value"].mean(), pairs["value"].mean()
        low, high = _interval_of_left(group, known, pairs, n_resamples, confidence, seed)
        verdict = "passes" if high < margin else "fails" if low > margin else "undecided"
        left, missing = (mean - level) / (1 - level), len(group) - len(known)
        rows.append((*key, mean, level, left, low, high, len(known), missing, bool(mean < level), verdict))
    columns = ["mean", "chance", "left", "low", "high", "n", "missing", "below", "verdict"]
    return pd.DataFrame(rows, columns=[*keys, *columns])


def _interval_of_left(
    group: pd.DataFrame, known: pd.DataFrame, pairs: pd.DataFrame, n_resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Interval of what is left of the similarity; a pair counts as often as both its images do."""
    if known["image_id"].nunique() < 3 or pairs.empty:  # two make one pair: all draws that hold it are the same
        return np.nan, np.nan
    ids = group["image_id"].to_numpy()
    units, number = np.unique(group[UNIT].to_numpy() if UNIT in group else ids, return_inverse=True)
    number = pd.Series(number, index=ids)
    drawn = draw_units(len(units), n_resamples, seed)
    of_images = drawn[:, number.loc[known["image_id"]]]
    of_pairs = drawn[:, number.loc[pairs["image_a"]]] * drawn[:, number.loc[pairs["image_b"]]]
    with np.errstate(invalid="ignore"):  # a draw without any pair, or image, that has a value
        mean = of_images @ known["value"].to_numpy() / of_images.sum(axis=1)
        level = of_pairs @ pairs["value"].to_numpy() / of_pairs.sum(axis=1)
    low, high = percentiles((mean - level) / (1 - level), confidence)
    return float(low), float(high)


def entropy_rise(trained: np.ndarray, randomised: np.ndarray, n_bins: int = 100) -> np.ndarray:
    """(H' - H) / H, H the entropy of the histogram of a map's values in ``n_bins`` equal bins from its smallest to its
    largest, H' that of the map of the fully randomised model (eMPRT: Hedstroem et al. 2024, arXiv:2401.06465).

    A method that explains the model should gain: random weights make maps more complex. It compares no pixels, so a
    map's noise cannot pass for forgetting. Maps are taken with their sign. Float64 ``(n,)``; NaN for a constant map of
    the trained model.
    """
    before, after = (np.array([_histogram_entropy(m, n_bins) for m in maps]) for maps in (trained, randomised))
    return np.divide(after - before, before, out=np.full_like(before, np.nan), where=before > 0)


def _histogram_entropy(values: np.ndarray, n_bins: int) -> float:
    return float(stats.entropy(np.histogram(values, bins=n_bins)[0]))
