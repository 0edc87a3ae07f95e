"""The poster's experiment (Marchadour et al. 2022): thirty kinds of gradient maps of a classifier, by three metrics.

Five bases, plain, smoothed (SG) and smoothed squares (SG2), each by pixel and by XRAI's regions, all in magnitude: SG
is the magnitude of the mean over noisy copies, SG2 is a mean of squares, and a region is ranked by its mean magnitude.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.attribution import METHODS, explain
from xaiutils.attribution.smoothgrad import mean_and_square
from xaiutils.attribution.xrai import rank_regions, regions
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.evaluate import evaluate_all
from xaiutils.evaluation.metrics.insertion_deletion import perturbation_curve
from xaiutils.evaluation.metrics.metric import Case
from xaiutils.evaluation.ranking import Ranking, paired_tests, rank
from xaiutils.evaluation.score_tables import ORACLES, UNDECIDED, ScoreTable, by_image
from xaiutils.evaluation.studies.controls import control_maps
from xaiutils.graph.precision import computing_in
from xaiutils.graph.predict import predict, prepared
from xaiutils.progress import progress
from xaiutils.registry import check_parameters
from xaiutils.statistics.multiple_comparisons import holm
from xaiutils.statistics.summaries import UNIT

BASES = {
    "BP": "vanilla_gradients",
    "IGB": "integrated_gradients",
    "IGBW": "integrated_gradients_bw",
    "EG": "expected_gradients",
    "D": "deconvolution",
}
SMOOTHINGS, KINDS = ("plain", "SG", "SG2"), ("pixel", "region")
NAMES = tuple(f"{base} {how} {kind}" for kind in KINDS for base in BASES for how in SMOOTHINGS)
CONTROLS = ("random", "centre", "edges", "laplace", "intensity")  # of `control_maps`
CONTROL_NAMES = tuple(f"{name} plain {kind}" for kind in KINDS for name in CONTROLS)
MASK = "mask plain pixel"  # the evidence itself
METRICS = ("roc_auc", "best_dice", "fidelity_area")
HOLDS, CONTRADICTED = "holds", "contradicted"
_Pick = Callable[[str, str, str], bool]  # of base, smoothing and kind
CONTRASTS: dict[str, tuple[_Pick, _Pick]] = {
    "SG2 - plain": (lambda _, how, __: how == "SG2", lambda _, how, __: how == "plain"),
    "SG2 - SG": (lambda _, how, __: how == "SG2", lambda _, how, __: how == "SG"),
    "region - pixel": (lambda _, __, kind: kind == "region", lambda _, __, kind: kind == "pixel"),
    "black - black and white": (lambda base, _, __: base == "IGB", lambda base, _, __: base == "IGBW"),
    "IG black - others": (lambda base, _, __: base == "IGB", lambda base, _, __: base not in ("IGB", "D")),
    "deconvolution - others": (lambda base, _, __: base == "D", lambda base, _, __: base not in ("IGB", "D")),
}
# What the poster says of a metric: a contrast, and its sign.
CLAIMS = (
    ("SG2 improves ROC", "roc_auc", "SG2 - plain", 1),
    ("SG2 improves Dice", "best_dice", "SG2 - plain", 1),
    ("regions are better than pixels by ROC", "roc_auc", "region - pixel", 1),
    ("regions are better than pixels by Dice", "best_dice", "region - pixel", 1),
    ("pixels are better than regions by fidelity", "fidelity_area", "region - pixel", -1),
    ("deconvolution is poor by fidelity", "fidelity_area", "deconvolution - others", -1),
    ("IG from black is poor by fidelity", "fidelity_area", "IG black - others", -1),
)


@dataclass(frozen=True)
class Effort:
    """What the poster does not state: noisy copies and their noise (a fraction of an image's range), steps of an
    integral, and draws of expected gradients."""

    n_samples: int = 25
    noise: float = 0.15
    n_steps: int = 20
    n_draws: int = 100


def require_accuracy(model: keras.Model, ds: ImageDataset, least: float = 0.97) -> float:
    """The accuracy on ``ds``. Raises ValueError below ``least``: maps of a model that errs are not ranked."""
    found = float((predict(model, ds.images).argmax(axis=1) == ds.labels).mean())
    if found < least:
        raise ValueError(f"the model is right on {found:.1%} of {len(ds)} images; ranking its maps needs {least:.0%}.")
    return found


def poster_maps(
    model: keras.Model,
    ds: ImageDataset,
    background: np.ndarray,
    effort: Effort = Effort(),
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The thirty maps of the true class by `NAMES`: float32 ``(n, height, width)`` >= 0.

    ``background``: training images ``(k, height, width, C)``, of which expected gradients draw. Regions are those of
    `xaiutils.attribution.xrai`, ranked by the pixel maps.
    """
    cases = prepared(model, ds.images, ds.labels, batch_size)
    steps = {"n_steps": effort.n_steps}
    given: dict[str, dict[str, Any]] = {"IGB": steps, "IGBW": steps}
    given["EG"] = {"n_samples": effort.n_draws, "background": background, "seed": seed}
    smooth = METHODS["smoothgrad"]
    found: dict[str, np.ndarray] = {}
    for base, method in progress(BASES.items(), title="maps"):
        own = given.get(base, {})
        plain = explain(model, cases.images, cases.targets, method, batch_size=batch_size, **own)
        options = {"n_samples": effort.n_samples, "noise": effort.noise, "seed": seed, "base": method}
        chosen = check_parameters("SmoothGrad", smooth.parameters, {**options, "base_parameters": own})
        with computing_in(smooth.own_precision):
            both = mean_and_square(cases.network, cases.images, cases.targets, cases.batch_size, **chosen)
        found |= {f"{base} {how} pixel": np.abs(m) for how, m in zip(SMOOTHINGS, (plain, *both), strict=True)}
    return found | by_region(cases.images, found)


def by_region(images: np.ndarray, maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """XRAI's ranking of regions by each map of ``maps``, whose names end in "pixel": float32 ``(n, height, width)`` by
    the names with "region" instead. An image ``(n, height, width, C)`` is segmented once for all its maps."""
    found = {name.removesuffix("pixel") + "region": np.empty(m.shape, np.float32) for name, m in maps.items()}
    for i in progress(range(len(images)), title="regions"):
        segments = [regions(images[i])]
        for ranked, pixels in zip(found.values(), maps.values(), strict=True):
            ranked[i : i + 1] = rank_regions(images[i : i + 1], pixels[i : i + 1], segments=segments)
    return found


def poster_controls(ds: ImageDataset, seed: int = 0) -> dict[str, np.ndarray]:
    """Maps that know no model, by pixel and by region (`CONTROL_NAMES`), and the evidence itself (`MASK`)."""
    found = control_maps(ds, seed)
    pixels = {f"{name} plain pixel": found[name] for name in CONTROLS}
    mask = {MASK: found[ORACLES[1]]} if ORACLES[1] in found else {}
    return pixels | by_region(ds.images, pixels) | mask


def scores(
    model: keras.Model, ds: ImageDataset, maps: Mapping[str, np.ndarray], n_steps: int = 10, score: str = "accuracy"
) -> ScoreTable:
    """The three metrics of each map, as `evaluate_all` has them: the area under the ROC curve, the best Dice of
    percentages kept, and the area over the curve of the accuracy, or of the probability by ``score`` (`METRICS`); and
    the patients where ``ds`` knows them."""
    how = {"fidelity_area": {"n_steps": n_steps, "score": score}}
    table = evaluate_all(model, ds, maps, METRICS, ds.labels, parameters=how, reading="magnitude")
    if ds.patients is not None:
        table[UNIT] = table["image_id"].map(dict(zip(ds.ids, ds.patients, strict=True)))
    return table


def with_parts(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with what the names of its maps say: the columns base, smoothing and kind after the others."""
    parts = table["method"].str.split(" ", expand=True).set_axis(["base", "smoothing", "kind"], axis=1)
    return pd.concat([table, parts], axis=1)


def fidelity_curves(
    model: keras.Model, ds: ImageDataset, maps: Mapping[str, np.ndarray], n_steps: int = 10, fill: str = "mean"
) -> pd.DataFrame:
    """Whether the class of each image is still the answer where the top ``replaced`` of the pixels show ``fill``:
    columns image_id, method, replaced, value (1 or 0, the mean over images is the accuracy)."""
    cases = prepared(model, ds.images, ds.labels, 32)
    rows = []
    for name, found in progress(maps.items(), title="curves"):
        case = Case(found, model=model, images=cases.images, targets=cases.targets)
        at, margins = perturbation_curve(case, n_steps=n_steps, fill=fill, insert=False, score="margin")
        right = {"image_id": np.repeat(ds.ids, len(at)), "value": (margins > 0).astype(float).ravel()}
        rows.append(pd.DataFrame({**right, "method": name, "replaced": np.tile(at, len(ds))}))
    return pd.concat(rows, ignore_index=True)[["image_id", "method", "replaced", "value"]]


def contrasts(
    table: pd.DataFrame, n_resamples: int = 2000, seed: int = 0, names: Sequence[str] = NAMES
) -> pd.DataFrame:
    """`CONTRASTS` of each metric, paired by image (patients drawn where known): the mean of one group of maps less that
    of the other. Of other ``names`` than the poster's, those contrasts that have maps on both sides. Columns metric,
    contrast, difference, low, high, effect, p, n."""
    rows = []
    for metric in METRICS:
        wide, units = by_image(table[table["method"].isin(names)], metric)
        groups = [
            tuple(wide[[n for n in wide if pick(*n.split())]].mean(axis=1) for pick in both)
            for both in CONTRASTS.values()
        ]
        pairs = [(name, "", a - b) for name, (a, b) in zip(CONTRASTS, groups, strict=True)]
        rows.append(paired_tests(pairs, units, n_resamples, seed).assign(metric=metric))
    found = pd.concat(rows, ignore_index=True).rename(columns={"a": "contrast"})
    return found[["metric", "contrast", "difference", "low", "high", "effect", "p", "n"]]


def friedman_table(table: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """Do the thirty maps differ at all? A row for each metric: metric, n, p of Friedman's test, critical (Nemenyi's
    difference of mean ranks), first (the first in rank), tied (how many maps it is not told from, itself included)."""
    found = [rank(table[table["method"].isin(NAMES)], metric, alpha) for metric in METRICS]
    rows = [(r.metric, r.n, r.p, r.critical, r.ranks.index[0], len(first_in_rank(r))) for r in found]
    return pd.DataFrame(rows, columns=["metric", "n", "p", "critical", "first", "tied"])


def first_in_rank(ranking: Ranking) -> list[str]:
    """The maps that Nemenyi's test does not tell from the first in rank; all, where Friedman's finds no difference."""
    if ranking.p >= ranking.alpha:
        return list(ranking.ranks.index)
    return list(ranking.ranks.index[ranking.ranks <= ranking.ranks.iloc[0] + ranking.critical])


def verdicts(table: pd.DataFrame, alpha: float = 0.05, seed: int = 0) -> pd.DataFrame:
    """The poster's claims one by one: claim, metric, difference, low, high, p_holm (over the claims), n and verdict.

    "holds" or "contradicted" where p_holm < ``alpha`` and the interval lies on that side of 0, else "undecided". Then
    for ROC and Dice whether SG2 on regions is best of all, by `best_is_smoothed_region`.
    """
    found = contrasts(table, seed=seed).set_index(["metric", "contrast"])
    rows = []
    for claim, metric, contrast, sign in CLAIMS:
        one = found.loc[metric, contrast]
        rows.append((claim, metric, sign, one["difference"], one["low"], one["high"], one["p"], one["n"]))
    names = ["claim", "metric", "sign", "difference", "low", "high", "p", "n"]
    judged = pd.DataFrame(rows, columns=names)
    judged.insert(7, "p_holm", holm(judged["p"].to_numpy(float)))
    side = np.where(judged["low"] > 0, 1, np.where(judged["high"] < 0, -1, 0)) * judged["sign"]
    clear = judged["p_holm"] < alpha
    judged["verdict"] = np.select([clear & (side > 0), clear & (side < 0)], [HOLDS, CONTRADICTED], UNDECIDED)
    best = []
    for metric in METRICS[:2]:
        ranking = rank(table[table["method"].isin(NAMES)], metric, alpha)
        words = "SG2 on regions is best of all"
        best.append({"claim": words, "metric": metric, "n": ranking.n, "verdict": best_is_smoothed_region(ranking)})
    return pd.concat([judged.drop(columns=["sign", "p"]), pd.DataFrame(best)], ignore_index=True)


def best_is_smoothed_region(ranking: Ranking) -> str:
    """Of the maps that Nemenyi's test does not tell from the first in rank, all are SG2 on regions: "holds"; none of
    them is: "contradicted"; else, and where Friedman's test finds no difference, "undecided"."""
    if ranking.p >= ranking.alpha:
        return UNDECIDED
    among = [name.endswith("SG2 region") for name in first_in_rank(ranking)]
    return HOLDS if all(among) else UNDECIDED if any(among) else CONTRADICTED
