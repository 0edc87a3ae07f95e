"""Tests of models on the same images: DeLong for the AUC, McNemar and Cochran for accuracy, Holm over the pairs."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from xaiutils.classification.predictions import Predictions

_EXACT_BELOW = 25  # discordant units; with more, mid-p


def auc_influence(positive: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """The AUC, and what each image adds to its error, float64 ``(n,)``: DeLong's structural components less the AUC,
    divided by the number of images of the class.

    By mid-ranks (Sun & Xu 2014, IEEE Signal Processing Letters 21): O(n log n) for DeLong et al. 1988.
    """
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        raise ValueError("an AUC needs images of the positive class and others.")
    ranks = stats.rankdata(scores)
    influence = np.empty(len(scores))
    v10 = (ranks[positive] - stats.rankdata(scores[positive])) / n
    v01 = 1 - (ranks[~positive] - stats.rankdata(scores[~positive])) / m
    auc = float(v10.mean())
    influence[positive], influence[~positive] = (v10 - auc) / m, (v01 - auc) / n
    return auc, influence


def delong(positive: np.ndarray, scores: np.ndarray, units: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """AUCs ``(models,)`` and their covariance ``(models, models)``, of ``scores`` ``(models, n)`` on the same images.

    DeLong et al. 1988 (Biometrics 44) where each image is a unit of its own; with ``units`` ``(n,)``, images of a
    patient may depend on each other: Obuchowski 1997 (Biometrics 53).
    """
    found = [auc_influence(positive, s) for s in scores]
    influence = np.stack([f[1] for f in found])
    units = np.arange(len(positive)) if units is None else np.unique(units, return_inverse=True)[1]
    of_positives = _sums(np.where(positive, influence, 0), units)
    of_negatives = _sums(np.where(positive, 0, influence), units)
    cross = of_positives @ of_negatives.T
    covariance = (
        _correction(len(np.unique(units[positive]))) * of_positives @ of_positives.T
        + _correction(len(np.unique(units[~positive]))) * of_negatives @ of_negatives.T
        + _correction(of_positives.shape[1]) * (cross + cross.T)
    )
    return np.array([f[0] for f in found]), covariance


def macro_auc_covariance(
    labels: np.ndarray, probabilities: np.ndarray, units: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`delong` for the mean of the one-against-rest AUCs of the classes that occur; ``probabilities`` are
    ``(models, n, classes)``. The influences of an image in the AUCs are averaged before they are squared."""
    present = [c for c in range(probabilities.shape[2]) if 0 < (labels == c).sum() < len(labels)]
    if not present:
        raise ValueError("an AUC needs images of two classes.")
    units = np.arange(len(labels)) if units is None else np.unique(units, return_inverse=True)[1]
    found = [[auc_influence(labels == c, p[:, c]) for c in present] for p in probabilities]
    sums = _sums(np.array([np.mean([f[1] for f in model], axis=0) for model in found]), units)
    aucs = np.array([np.mean([f[0] for f in model]) for model in found])
    return aucs, _correction(sums.shape[1]) * sums @ sums.T


def mcnemar(right_a: np.ndarray, right_b: np.ndarray, units: np.ndarray | None = None) -> dict[str, float | str]:
    """Two-sided test that two models are right equally often on the same images.

    McNemar 1947 in its exact, binomial form, and from 25 discordant images on its mid-p form (Fagerland et al. 2013,
    BMC Medical Research Methodology 13). With ``units``, images of a patient are kept together: the sign of each
    patient's difference (images that only a has right, less those that only b has) is turned at random, and the
    distribution of the sum over all turns is exact; with an image a patient that is McNemar's.

    Returns ``only_a`` and ``only_b`` (images), ``test`` and ``p``.
    """
    difference = right_a.astype(np.int64) - right_b.astype(np.int64)
    units = np.arange(len(difference)) if units is None else np.unique(units, return_inverse=True)[1]
    per_unit = np.bincount(units, difference).round().astype(np.int64)
    sizes, counts = np.unique(np.abs(per_unit[per_unit != 0]), return_counts=True)
    # The sum of k signs of size s takes the values s * (2j - k) with binomial probabilities.
    distribution, reach = np.ones(1), 0
    for size, k in zip(sizes, counts, strict=True):
        steps = np.zeros(2 * size * k + 1)
        steps[:: 2 * size] = stats.binom.pmf(np.arange(k + 1), k, 0.5)
        distribution, reach = np.convolve(distribution, steps), reach + int(size * k)
    values = np.arange(-reach, reach + 1)
    total, discordant = abs(int(per_unit.sum())), int(counts.sum())
    p = float(distribution[np.abs(values) >= total].sum())
    exact = discordant < _EXACT_BELOW
    if not exact and total > 0:
        p -= 0.5 * float(distribution[np.abs(values) == total].sum())
    clustered = units.max() + 1 < len(difference)
    kind = "sign flips of patients" if clustered else "McNemar"
    return {
        "only_a": int((difference > 0).sum()),
        "only_b": int((difference < 0).sum()),
        "test": f"{kind}, {'exact' if exact else 'mid-p'}",
        "p": min(1.0, p),
    }


def cochran_q(right: np.ndarray) -> tuple[float, float]:
    """Cochran's Q (1950) and its p, by chi-square with models - 1 degrees of freedom: whether ``right`` bool
    ``(models, n)`` has models that are right more often. NaN where all models agree on every image."""
    k = len(right)
    of_models, of_images = right.sum(axis=1).astype(float), right.sum(axis=0).astype(float)
    spread = k * of_images.sum() - (of_images**2).sum()
    if spread == 0:
        return np.nan, np.nan
    q = (k - 1) * (k * (of_models**2).sum() - of_models.sum() ** 2) / spread
    return float(q), float(stats.chi2.sf(q, k - 1))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's (1979) adjusted p-values: the i-th smallest of m times m - i + 1, never falling; NaN stays NaN."""
    p = np.asarray(p, float)
    adjusted, known = np.full(len(p), np.nan), np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def compare_models(
    predictions: Mapping[str, Predictions], positive: str | int | None = None, confidence: float = 0.95
) -> pd.DataFrame:
    """Every pair of models on the same images, by AUC and by accuracy.

    The AUC is that of the positive class (default: see `Predictions.positive`), of more classes the mean over classes,
    one against the rest. Patients, where known, are the units of all tests but Cochran's.

    Returns:
        A row a pair and quantity ("AUC", "accuracy"), and for accuracy of three or more models one for all of them:
        a, b, quantity, value_a, value_b, difference (a less b), low, high (of the difference: normal, by DeLong's
        covariance; of accuracies see `_accuracy_gap`; NaN where the two models do not differ on any unit), test, p,
        p_holm (over the pairs of the quantity), unit,
        n. With one class only there is no AUC.

    Raises:
        ValueError: fewer than two models, or predictions of different images.
    """
    if len(predictions) < 2:
        raise ValueError("two or more models are needed for a comparison.")
    names, all_of = list(predictions), list(predictions.values())
    first = all_of[0]
    for name, other in predictions.items():
        same = len(other) == len(first) and (other.labels == first.labels).all()
        ids = first.ids is None or other.ids is None or list(first.ids) == list(other.ids)
        if not (same and ids and other.class_names == first.class_names):
            raise ValueError(f"{name!r} and {names[0]!r} were not given the same images in the same order.")
    units, labels = first.units, first.labels
    facts = {"unit": first.unit, "n": len(np.unique(units))}
    z = stats.norm.ppf((1 + confidence) / 2)
    rows = []
    if len(np.unique(labels)) > 1:
        aucs, covariance = _aucs(all_of, first.positive(positive), units)
        test = "DeLong" if facts["n"] == len(first) else "DeLong, Obuchowski's for patients"
        for i, j in combinations(range(len(names)), 2):
            gap = aucs[i] - aucs[j]
            error = np.sqrt(max(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j], 0))
            p = 2 * stats.norm.sf(abs(gap) / error) if error > 1e-12 else (1.0 if gap == 0 else np.nan)
            # Rankings that never differ have an error of 0, which is not certainty.
            ends = (gap - z * error, gap + z * error) if error > 1e-12 else (np.nan, np.nan)
            rows.append(_row(names, (i, j), "AUC", aucs, ends, test, p, facts))
    right = np.stack([p.predicted == p.labels for p in all_of])
    accuracies = right.mean(axis=1)
    for i, j in combinations(range(len(names)), 2):
        found = mcnemar(right[i], right[j], units)
        ends = _accuracy_gap(right[i], right[j], units, z)
        rows.append(_row(names, (i, j), "accuracy", accuracies, ends, found["test"], found["p"], facts))
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p") + 1, "p_holm", table.groupby("quantity")["p"].transform(holm))
    if len(names) > 2:
        together = {"a": "all", "b": "", "quantity": "accuracy", "test": "Cochran's Q, images as units"}
        together |= {"p": cochran_q(right)[1], "unit": first.level, "n": len(first)}
        table = pd.concat([table, pd.DataFrame([together]).reindex(columns=table.columns)], ignore_index=True)
    return table


def _aucs(all_of: list[Predictions], positive: int | None, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, k = all_of[0].labels, len(all_of[0].class_names)
    if positive is not None:
        if 0 < (labels == positive).sum() < len(labels):
            return delong(labels == positive, np.stack([p.probabilities[:, positive] for p in all_of]), units)
        raise ValueError(f"positive={all_of[0].class_names[positive]!r} has no image, or all of them.")
    return macro_auc_covariance(labels, np.stack([p.probabilities[:, :k] for p in all_of]), units)


def _accuracy_gap(right_a: np.ndarray, right_b: np.ndarray, units: np.ndarray, z: float) -> tuple[float, float]:
    """Interval of the difference of accuracies: that of Bonett & Price 2012 (Journal of Educational and Behavioral
    Statistics 37), the normal one with an image more on which either alone is right, where each image is a unit of its
    own; else by the spread of the units' differences, NaN where these are all the same."""
    n, n_units = len(right_a), len(np.unique(units))
    if n_units == n:
        a, b = (((x & ~y).sum() + 1) / (n + 2) for x, y in ((right_a, right_b), (right_b, right_a)))
        half = z * np.sqrt((a + b - (a - b) ** 2) / (n + 2))
        return max(-1.0, float(a - b - half)), min(1.0, float(a - b + half))
    difference = right_a.astype(float) - right_b
    gap = difference.mean()
    error = np.sqrt(_correction(n_units) * (np.bincount(units, difference - gap) ** 2).sum()) / n
    return (float(gap - z * error), float(gap + z * error)) if error > 1e-12 else (np.nan, np.nan)


def _row(names, pair, quantity, values, ends, test, p, facts) -> dict:
    i, j = pair
    low, high = ends
    return {
        "a": names[i], "b": names[j], "quantity": quantity, "value_a": values[i], "value_b": values[j],
        "difference": values[i] - values[j], "low": low, "high": high, "test": test, "p": p, **facts,
    }  # fmt: skip


def _sums(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Sums ``(rows, units)`` of values ``(rows, n)``."""
    return np.stack([np.bincount(units, row) for row in values])


def _correction(n: int) -> float:
    return n / (n - 1) if n > 1 else np.nan
