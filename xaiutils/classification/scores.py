"""Figures of merit of named classes, from confusion counts: one column for each set of weights."""

import numpy as np


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
        "recall": _divide(right, support),
        "F1": _divide(2 * right, support + predicted),
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
    mcc = _divide(right * n - product, norm)
    return {
        "accuracy": right / n,
        "balanced accuracy": _mean_of_known(classes["recall"]),
        "macro F1": _mean_of_known(classes["F1"]),
        "MCC": np.where(norm > 0, mcc, 0.0),
        "kappa": _divide(right / n - chance, 1 - chance),
    }


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    return _divide(np.where(known, values, 0).sum(axis=0), known.sum(axis=0))
