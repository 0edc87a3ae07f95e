"""Every pair of models on the same images: by AUC (DeLong) and by accuracy (McNemar), Holm over the pairs."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from xaiutils.classification.predictions import Predictions
from xaiutils.statistics.delong import delong, macro_auc_covariance
from xaiutils.statistics.mcnemar import accuracy_difference_interval, cochran_q, mcnemar
from xaiutils.statistics.multiple_comparisons import holm


class Comparison(NamedTuple):
    """Two models, by their places, in a quantity: both values, the interval of their difference, a test and its p."""

    a: int
    b: int
    quantity: str
    value_a: float
    value_b: float
    low: float
    high: float
    test: str
    p: float


def compare_models(
    predictions: Mapping[str, Predictions], positive: str | int | None = None, confidence: float = 0.95
) -> pd.DataFrame:
    """Every pair of models on the same images, by AUC and by accuracy.

    The AUC is that of the positive class (default: see `Predictions.positive`), of more classes the mean over classes,
    one against the rest. Patients, where known, are the units of all tests but Cochran's.

    Returns:
        A row for each pair and quantity ("AUC", "accuracy"), and for accuracy of three or more models one for all:
        a, b, quantity, value_a, value_b, difference (a less b), low, high (of the difference: for AUC normal, by
        DeLong's covariance, for accuracy see `accuracy_difference_interval`; NaN where the two models do not differ on
        any unit), test, p, p_holm (over the pairs of the quantity), unit, n. With one class only there is no AUC.

    Raises:
        ValueError: fewer than two models, or predictions of different images.
    """
    if len(predictions) < 2:
        raise ValueError("two or more models are needed for a comparison.")
    names, first = list(predictions), next(iter(predictions.values()))
    for name, other in predictions.items():
        if not _same_images(first, other):
            raise ValueError(f"{name!r} and {names[0]!r} were not given the same images in the same order.")
    several_classes = len(np.unique(first.labels)) > 1
    rows = list(_auc_rows(predictions, positive, confidence)) if several_classes else []
    table = pd.DataFrame([*rows, *_accuracy_rows(predictions, confidence)])
    table.insert(5, "difference", table["value_a"] - table["value_b"])
    table = table.assign(
        a=[names[i] for i in table["a"]],
        b=[names[i] for i in table["b"]],
        unit=first.unit,
        n=len(np.unique(first.units)),
    )
    table.insert(table.columns.get_loc("p") + 1, "p_holm", table.groupby("quantity")["p"].transform(holm))
    if len(names) < 3:
        return table
    of_all = {"a": "all", "b": "", "quantity": "accuracy", "test": "Cochran's Q, images as units"}
    together = pd.DataFrame([{**of_all, "p": cochran_q(_right(predictions))[1], "unit": first.level, "n": len(first)}])
    return pd.concat([table, together.reindex(columns=table.columns)], ignore_index=True)


def _same_images(one: Predictions, other: Predictions) -> bool:
    same = len(one) == len(other) and bool((one.labels == other.labels).all()) and one.class_names == other.class_names
    return same and (one.ids is None or other.ids is None or list(one.ids) == list(other.ids))


def _right(predictions: Mapping[str, Predictions]) -> np.ndarray:
    """Which answers are right, bool ``(models, n)``."""
    return np.stack([p.predicted == p.labels for p in predictions.values()])


def _auc_rows(
    predictions: Mapping[str, Predictions], positive: str | int | None, confidence: float
) -> Iterator[Comparison]:
    first = next(iter(predictions.values()))
    units, labels, k = first.units, first.labels, len(first.class_names)
    test = "DeLong" if len(np.unique(units)) == len(first) else "DeLong, Obuchowski's for patients"
    probabilities = np.stack([p.probabilities[:, :k] for p in predictions.values()])
    chosen = first.positive(positive)
    if chosen is None:
        aucs, covariance = macro_auc_covariance(labels, probabilities, units)
    elif 0 < (labels == chosen).sum() < len(labels):
        aucs, covariance = delong(labels == chosen, probabilities[:, :, chosen], units)
    else:
        raise ValueError(f"positive={first.class_names[chosen]!r} has no image, or every image is of it.")
    z = stats.norm.ppf((1 + confidence) / 2)
    for i, j in combinations(range(len(aucs)), 2):
        difference = aucs[i] - aucs[j]
        error = np.sqrt(max(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j], 0))
        # Rankings that never differ have an error of 0, which is not certainty.
        ends, p = (np.nan, np.nan), 1.0 if difference == 0 else np.nan
        if error > 1e-12:
            ends, p = (difference - z * error, difference + z * error), 2 * stats.norm.sf(abs(difference) / error)
        yield Comparison(i, j, "AUC", aucs[i], aucs[j], *ends, test, p)


def _accuracy_rows(predictions: Mapping[str, Predictions], confidence: float) -> Iterator[Comparison]:
    units, right = next(iter(predictions.values())).units, _right(predictions)
    for i, j in combinations(range(len(right)), 2):
        found = mcnemar(right[i], right[j], units)
        ends = accuracy_difference_interval(right[i], right[j], units, confidence)
        yield Comparison(i, j, "accuracy", right[i].mean(), right[j].mean(), *ends, found.test, found.p)
