"""Maps of patients and classes: what a model looks at in a class as a whole, and where that differs from another class.

The maps lie in one frame (`xaiutils.registration`), NaN beyond an image. The definitions are ours: the thesis that
names such maps (Vijayananth 2022) has their headings alone. A mean of maps is decoration without its interval, without
a test where it differs from that of others, and without its split-half reliability: all three are here. The unit of
all of them is the patient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from xaiutils.evaluation.map_similarity import SIMILARITIES
from xaiutils.registry import check_choice
from xaiutils.statistics.bootstrap import draw_units, percentiles

NORMALISATIONS = ("none", "max_abs", "l1", "rank")
_BLOCK = 2048  # pixels that are resampled at a time


def normalised(maps: np.ndarray, how: str) -> np.ndarray:
    """Maps ``(n, height, width)`` on one scale, each by itself and without its NaNs: float64.

    ``how``: "none"; "max_abs", the largest magnitude is 1; "l1", the mean magnitude is 1; "rank", each pixel's rank
    among the map's, above 0 up to 1, ties sharing theirs. A map of zeros stays one, but for "rank".
    """
    check_choice("how", how, NORMALISATIONS)
    flat = np.array(maps, np.float64).reshape(len(maps), -1)
    for row in flat:
        seen = np.isfinite(row)
        if how == "rank":
            row[seen] = stats.rankdata(row[seen]) / max(seen.sum(), 1)
        elif how != "none" and row[seen].any():
            row[seen] /= np.abs(row[seen]).max() if how == "max_abs" else np.abs(row[seen]).mean()
    return flat.reshape(np.shape(maps))


@dataclass(frozen=True)
class PatientMaps:
    """A map for each patient: ``maps`` float64 ``(p, height, width)``, ``labels`` ``(p,)``, the ``patients``, and of
    how many images each map is the mean, ``counts`` ``(p,)``."""

    maps: np.ndarray
    labels: np.ndarray
    patients: list[str]
    counts: np.ndarray

    def of(self, label: int) -> np.ndarray:
        """The maps of a class's patients."""
        return self.maps[self.labels == label]


def patient_maps(
    maps: np.ndarray, labels: np.ndarray, patients: Sequence[str] | None = None, normalise: str = "l1"
) -> PatientMaps:
    """The mean of each patient's maps ``(n, height, width)``, each `normalised` first; without ``patients`` every image
    is one's. Raises ValueError where a patient has images of two classes, for then classes are not independent."""
    names = [str(i) for i in range(len(maps))] if patients is None else list(map(str, patients))
    table = pd.DataFrame({"patient": names, "label": np.asarray(labels)})
    kinds = table.groupby("patient", sort=False)["label"].nunique()
    if len(both := kinds.index[kinds > 1]):
        raise ValueError(f"patients {', '.join(both[:5])} have images of several classes; leave one class of each out.")
    scaled = normalised(maps, normalise)
    groups = table.groupby("patient", sort=False)["label"]
    rows = [groups.indices[name] for name in kinds.index]
    means = np.stack([_mean(scaled[found]) for found in rows])
    return PatientMaps(means, groups.first().to_numpy(), list(kinds.index), np.array([len(found) for found in rows]))


class ClassMap(NamedTuple):
    """The mean over patients, the ends of its pixelwise interval, and of how many patients each pixel's mean is; all
    ``(height, width)``, NaN where there is no patient."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


def class_map(maps: np.ndarray, n_resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> ClassMap:
    """The mean of the maps of a class's patients ``(p, height, width)``, with a bootstrap over patients (percentiles,
    each pixel by itself)."""
    values, seen = _zeroed(maps)
    drawn = draw_units(len(maps), n_resamples, seed).astype(np.float64)
    ends = np.full((2, values.shape[1]), np.nan)
    for block in _blocks(np.flatnonzero(seen.any(axis=0))):
        with np.errstate(invalid="ignore"):
            ends[:, block] = percentiles((drawn @ values[:, block]) / (drawn @ seen[:, block]), confidence)
    shape = maps.shape[1:]
    low, high = (end.reshape(shape) for end in ends)
    return ClassMap(_mean(maps), low, high, seen.sum(axis=0).astype(int).reshape(shape))


@dataclass(frozen=True)
class Difference:
    """Where two class maps differ. ``mean`` (a less b), ``t`` and ``p`` float64 ``(height, width)``, p corrected for
    all pixels; ``differs`` bool, p at most the level asked for; ``n`` patients of a and b."""

    mean: np.ndarray
    t: np.ndarray
    p: np.ndarray
    differs: np.ndarray
    n: tuple[int, int]


def difference(
    a: np.ndarray,
    b: np.ndarray,
    alpha: float = 0.05,
    n_permutations: int = 1000,
    same_n: bool = False,
    seed: int = 0,
) -> Difference:
    """Max-T permutation test of patients' maps ``(p, height, width)``, two-sided (Nichols & Holmes 2002, Hum Brain Mapp
    15): labels of patients are permuted, and the largest |t| of all pixels is the yardstick of each. Where the classes
    do not differ anywhere, any pixel is outlined with a probability of at most ``alpha``.

    ``b`` may be healthy controls; ``same_n`` draws as many patients of the larger set as there are in the smaller.
    Raises ValueError for too few patients to reject at ``alpha``.
    """
    rng = np.random.default_rng(seed)
    if same_n:
        least = min(len(a), len(b))
        a, b = (x[np.sort(rng.permutation(len(x))[:least])] for x in (a, b))
    n = len(a), len(b)
    if min(n) < 2 or alpha * comb(sum(n), n[0]) < 1 + (n[0] == n[1]):  # labels turned over give the same |t|
        raise ValueError(f"{n[0]} and {n[1]} patients are too few for a test at {alpha}.")
    own = np.arange(sum(n)) < n[0]
    groups = np.stack([own, *(rng.permutation(own) for _ in range(n_permutations))]).astype(np.float64)
    values, seen = _zeroed(np.concatenate([a, b]), centred=True)
    t, largest = np.zeros(values.shape[1]), np.zeros(len(groups))
    for block in _blocks(np.arange(values.shape[1])):
        found = _t(groups, values[:, block], seen[:, block])
        t[block], largest = found[0], np.maximum(largest, np.abs(found).max(axis=1))
    p = (largest[:, None] >= np.abs(t) * (1 - 1e-9)).mean(axis=0)  # its own row is among them
    mean, shape = _mean(a) - _mean(b), a.shape[1:]
    return Difference(mean, t.reshape(shape), p.reshape(shape), (p <= alpha).reshape(shape), n)


def _t(groups: np.ndarray, values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Student's t of each grouping (rows, 1 for a) and pixel; 0 where fewer than two patients of a group see it."""
    n_a, sum_a = groups @ seen, groups @ values
    n_b, sum_b = seen.sum(axis=0) - n_a, values.sum(axis=0) - sum_a
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sum_a / n_a - sum_b / n_b
        rest = np.maximum((values**2).sum(axis=0) - sum_a**2 / n_a - sum_b**2 / n_b, 0)
        t = gap / np.sqrt(rest / (n_a + n_b - 2) * (1 / n_a + 1 / n_b))
    return np.where((n_a >= 2) & (n_b >= 2) & (gap != 0), t, 0.0)


def split_half(
    maps: np.ndarray, sizes: Sequence[int] = (), others: np.ndarray | None = None, n_splits: int = 100, seed: int = 0
) -> pd.DataFrame:
    """How alike (Pearson) the class maps of two disjoint halves of ``n`` patients each are: their reliability.

    Args:
        maps: patients' maps ``(p, height, width)``.
        sizes: of a half; empty: 1, 2, 4, ... and the largest.
        others: maps of another class, of which the second half is drawn: as alike as this are maps that share the
            frame and the breast in it, and not the class.

    Returns a row for each n: n, mean, low, high (2.5 to 97.5 % of the splits, which share patients: no interval), and
    ``predicted``: what Spearman & Brown (1910) expect by the largest n, which also has a row for twice that.
    """
    most = len(maps) // 2 if others is None else min(len(maps), len(others))
    if most < 1:
        raise ValueError(f"{len(maps)} patients cannot be halved.")
    sizes = sizes or sorted({*(2**k for k in range(most.bit_length()) if 2**k <= most), most})
    if max(sizes) > most:
        raise ValueError(f"a half of {max(sizes)} patients is more than there are, {most}.")
    rng, rows = np.random.default_rng(seed), []
    for n in sizes:
        found = []
        for _ in range(n_splits):
            order = rng.permutation(len(maps))
            rest = maps[order[n : 2 * n]] if others is None else others[rng.permutation(len(others))[:n]]
            found.append(_pearson(_mean(maps[order[:n]]), _mean(rest)))
        rows.append((n, np.nanmean(found), *percentiles(np.array(found), 0.95)))
    table = pd.DataFrame(rows, columns=["n", "mean", "low", "high"])
    last = table.iloc[-1]
    table.loc[len(table), "n"] = 2 * last["n"]
    return table.assign(n=table["n"].astype(int), predicted=spearman_brown(last["mean"], table["n"] / last["n"]))


def spearman_brown(reliability: float, times: float | pd.Series) -> float | pd.Series:
    """The reliability of the mean of so many ``times`` the patients."""
    return times * reliability / (1 + (times - 1) * reliability)


def patients_needed(reliability: float, n: int, wanted: float = 0.9) -> float:
    """Of how many patients a class map must be to have the reliability ``wanted``, where that of ``n`` has this one;
    inf where it has none."""
    if reliability <= 0:
        return float("inf")
    return n * wanted * (1 - reliability) / (reliability * (1 - wanted))


class Composite(NamedTuple):
    """The mean and median image ``(height, width)`` or with channels, the mean's `sharpness`, and that of the means of
    random sets of as many images."""

    mean: np.ndarray
    median: np.ndarray
    sharpness: float
    controls: np.ndarray


def composite(images: np.ndarray, chosen: np.ndarray, n_controls: int = 20, seed: int = 0) -> Composite:
    """The composite of the ``chosen`` (bool or positions) of registered images. Its sharpness tells of the class only
    beyond that of sets of any class: the fewer images, the sharper."""
    own, rng = images[chosen], np.random.default_rng(seed)
    draws = (rng.permutation(len(images))[: len(own)] for _ in range(n_controls))
    controls = np.array([sharpness(_mean(images[drawn])) for drawn in draws])
    mean = _mean(own)
    median = np.full(mean.shape, np.nan)
    seen = np.isfinite(mean)
    median[seen] = np.nanmedian(own[:, seen], axis=0)
    return Composite(mean, median, sharpness(mean), controls)


def sharpness(image: np.ndarray) -> float:
    """Root mean square of the differences of neighbouring pixels, down and along, NaNs left out."""
    steps = [np.diff(image, axis=axis).ravel() ** 2 for axis in (0, 1)]
    return float(np.sqrt(np.nanmean(np.concatenate(steps))))


def similarity_of_classes(maps: Mapping[str, np.ndarray], similarity: str = "spearman") -> pd.DataFrame:
    """How alike class maps ``(height, width)`` are, by name: a square table, for `xaiutils.plots.cluster_map`."""
    check_choice("similarity", similarity, SIMILARITIES)
    pairs = [(a, b) for a in maps.values() for b in maps.values()]
    first, second = (np.stack([pair[k] for pair in pairs]) for k in (0, 1))
    valid = np.isfinite(first) & np.isfinite(second)
    values = SIMILARITIES[similarity](np.where(valid, first, 0), np.where(valid, second, 0), valid)
    return pd.DataFrame(values.reshape(len(maps), -1), index=list(maps), columns=list(maps))


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis without NaNs; NaN where there is nothing else."""
    seen = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(seen, values, 0).sum(axis=0, dtype=np.float64) / seen.sum(axis=0)


def _zeroed(maps: np.ndarray, centred: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Maps as rows, 0 for NaN, and where they are known; ``centred``: less the mean of all, so that squares keep their
    digits."""
    rows = maps.reshape(len(maps), -1).astype(np.float64)
    seen = np.isfinite(rows)
    return np.where(seen, rows - _mean(rows) if centred else rows, 0), seen.astype(np.float64)


def _blocks(pixels: np.ndarray) -> list[np.ndarray]:
    return [pixels[start : start + _BLOCK] for start in range(0, len(pixels), _BLOCK)]


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    seen = np.isfinite(a) & np.isfinite(b)
    x, y = a[seen], b[seen]
    return float(np.corrcoef(x, y)[0, 1]) if x.size and np.ptp(x) > 0 and np.ptp(y) > 0 else np.nan
