"""Figures of merit of a classifier, one column for each set of weights.

A weight says how often an image counts: all 1 for the estimate, the draws of a bootstrap for its replicates (see
`xaiutils.statistics.bootstrap.replicates`), so that both come from the same code.
"""

import numpy as np

from xaiutils.classification.curves import PositiveRanks, ratio
from xaiutils.classification.operating_points import OperatingPoint
from xaiutils.classification.predictions import Predictions

Proportion = tuple[np.ndarray, np.ndarray]  # which images are hits, and which count: two bool arrays (n,)


def figures_of_merit(
    found: Predictions, positive: int | None, points: list[OperatingPoint], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Everything that has an interval, float64 ``(b,)`` each, for ``weights`` ``(n, b)``.

    Keys are the names of the figures, those of a class as `of_class` writes them, those of an operating point as
    `OperatingPoint.key`. The sensitivity (or specificity) of a threshold that was chosen on these very images is that
    of the threshold chosen again on each replicate.
    """
    labels, p, k = found.labels, found.probabilities.astype(float), len(found.class_names)
    counts = confusion_counts(labels, found.predicted, k, weights)
    by_class = class_scores(counts)
    auc = np.full((k, weights.shape[1]), np.nan)
    precision = auc.copy()
    rechosen = {}
    for c in range(k):
        is_c = labels == c
        if is_c.any() and not is_c.all():
            ranks = PositiveRanks.of(is_c, p[:, c], weights)
            auc[c], precision[c] = ranks.auc(), ranks.average_precision()
            if c == positive:
                rechosen = {point.other_key: point.other_at_target(ranks) for point in points if point.optimistic}
    by_class |= {"AUC": auc, "average precision": precision}
    result = {of_class(name, c): values[c] for name, values in by_class.items() for c in range(k)}
    for name, values in (("AUC", auc), ("average precision", precision)):
        result[name] = mean_of_known(values) if positive is None else values[positive]
    for key, (hits, among) in proportions(found, positive, points).items():
        result[key] = ratio(weights[among & hits].sum(axis=0), weights[among].sum(axis=0))
    brier = (squared_errors(found, positive) @ weights) / weights.sum(axis=0)
    return result | rechosen | overall_scores(counts) | {"Brier": brier}


def of_class(name: str, c: int) -> str:
    """The key of a figure of class number ``c``."""
    return f"{name} of class {c}"


def proportions(found: Predictions, positive: int | None, points: list[OperatingPoint]) -> dict[str, Proportion]:
    """The figures of the whole that are a fraction of images: which are hits, and which count."""
    result = {"accuracy": (found.predicted == found.labels, np.ones(len(found), bool))}
    if positive is not None:
        truly, called = found.labels == positive, found.predicted == positive
        result |= {"sensitivity": (called, truly), "specificity": (~called, ~truly)}
        for point in points:
            result |= point.proportions(truly, found.probabilities[:, positive].astype(float))
    return result


def class_proportions(found: Predictions) -> dict[str, Proportion]:
    """Precision and recall of each class, as `proportions`."""
    result: dict[str, Proportion] = {}
    for c in range(len(found.class_names)):
        truly, named = found.labels == c, found.predicted == c
        result |= {of_class("precision", c): (truly, named), of_class("recall", c): (named, truly)}
    return result


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, n_classes: int, weights: np.ndarray) -> np.ndarray:
    """Sums of ``weights`` ``(n, b)`` by true class and predicted class: float64 ``(n_classes, n_classes + 1, b)``.

    The last column of predictions is for classes that the data do not have.
    """
    cell = labels * (n_classes + 1) + predicted
    order = np.argsort(cell, kind="stable")
    cells, starts = np.unique(cell[order], return_index=True)
    counts = np.zeros((n_classes * (n_classes + 1), weights.shape[1]))
    counts[cells] = np.add.reduceat(weights[order], starts, axis=0)
    return counts.reshape(n_classes, n_classes + 1, -1)


def class_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and support ``(classes, b)`` of `confusion_counts`.

    Precision is 0 of a class that is never predicted, recall NaN of one that does not occur, F1 NaN of one that does
    neither.
    """
    right = np.einsum("kkb->kb", counts[:, :-1])
    support, predicted = counts.sum(axis=1), counts.sum(axis=0)[:-1]
    return {
        "precision": right / np.maximum(predicted, 1),
        "recall": ratio(right, support),
        "F1": ratio(2 * right, support + predicted),
        "support": support,
    }


def overall_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, balanced accuracy, macro F1, MCC and kappa ``(b,)`` of `confusion_counts`.

    Balanced accuracy is the mean recall of the classes that occur. Macro F1 is over classes that occur or are
    predicted. MCC is the multi-class form (Gorodkin 2004), 0 where all answers, or all truths, are one class. Kappa is
    Cohen's (1960), NaN where chance agreement is 1.
    """
    n = counts.sum(axis=(0, 1))
    right = np.einsum("kkb->b", counts[:, :-1])
    classes = class_scores(counts)
    true, said = counts.sum(axis=1), counts.sum(axis=0)
    product = (true * said[:-1]).sum(axis=0)
    norm = np.sqrt((n**2 - (said**2).sum(axis=0)) * (n**2 - (true**2).sum(axis=0)))
    chance = product / n**2
    return {
        "accuracy": right / n,
        "balanced accuracy": mean_of_known(classes["recall"]),
        "macro F1": mean_of_known(classes["F1"]),
        "MCC": np.where(norm > 0, ratio(right * n - product, norm), 0.0),
        "kappa": ratio(right / n - chance, 1 - chance),
    }


def squared_errors(found: Predictions, positive: int | None) -> np.ndarray:
    """What each image adds to the Brier score ``(n,)``: of two classes, of the positive one's probability alone."""
    p = found.probabilities.astype(float)
    if len(found.class_names) == 2 and positive is not None:
        return (p[:, positive] - (found.labels == positive)) ** 2
    return ((p - (found.labels[:, None] == np.arange(p.shape[1]))) ** 2).sum(axis=1)


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Means of the columns of ``values`` without their NaNs; NaN of a column that has nothing else."""
    known = np.isfinite(values)
    return ratio(np.where(known, values, 0).sum(axis=0), known.sum(axis=0))
