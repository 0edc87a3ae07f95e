"""How well a classifier does, and an image of which it is sure."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics

from xaiutils.attribution import predict
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset


@dataclass(frozen=True)
class Report:
    """How a classifier does on one split. ``summary`` holds accuracy, AUC, balanced accuracy with the lower end of its
    95 % interval (Jeffreys), and the accuracy of always naming the largest class; ``classes`` precision,
    recall, F1 and support; ``confusion`` true classes in rows; ``probabilities`` float32 ``(n, classes)``."""

    summary: pd.Series
    classes: pd.DataFrame
    confusion: pd.DataFrame
    probabilities: np.ndarray

    @property
    def beats_chance(self) -> bool:
        """Whether the interval of balanced accuracy lies above chance: accuracy alone is fooled by class imbalance."""
        return bool(self.summary["balanced accuracy low"] > 1 / len(self.classes))


def classification_report(model: keras.Model, ds: ImageDataset, batch_size: int = 32) -> Report:
    """Evaluate ``model`` on ``ds``. The AUC is one-vs-rest, averaged over classes that occur; NaN if only one does."""
    probabilities = _predict_all(model, ds, batch_size, probabilities=True)
    predicted, names = probabilities.argmax(axis=1), list(ds.class_names)
    numbers = np.arange(len(names))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        ds.labels, predicted, labels=numbers, zero_division=0
    )
    classes = pd.DataFrame({"precision": precision, "recall": recall, "F1": f1, "support": support}, index=names)
    summary = {
        "n": len(ds),
        "accuracy": float((predicted == ds.labels).mean()),
        "AUC": mean_auc(ds.labels, probabilities),
        "balanced accuracy": float(recall[support > 0].mean()),
        "balanced accuracy low": _balanced_accuracy_low(ds.labels, predicted == ds.labels),
        "majority accuracy": float(support.max() / len(ds)),
    }
    confusion = pd.DataFrame(metrics.confusion_matrix(ds.labels, predicted, labels=numbers), index=names, columns=names)
    return Report(pd.Series(summary), classes, confusion, probabilities)


def mean_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve, one class against the rest, averaged over classes that occur; NaN if only one does."""
    present = [c for c in range(probabilities.shape[1]) if 0 < (labels == c).sum() < len(labels)]
    one_vs_rest = [metrics.roc_auc_score(labels == c, probabilities[:, c]) for c in present]
    return float(np.mean(one_vs_rest)) if one_vs_rest else np.nan


def _balanced_accuracy_low(labels: np.ndarray, correct: np.ndarray, n_resamples: int = 1000) -> float:
    """2.5th percentile of balanced accuracy, each class's recall drawn from its Jeffreys posterior.

    A bootstrap would be certain of a recall of 1 seen on a single image.
    """
    rng = np.random.default_rng(0)
    groups = [correct[labels == label] for label in np.unique(labels)]
    recalls = [rng.beta(group.sum() + 0.5, (~group).sum() + 0.5, n_resamples) for group in groups]
    return float(np.percentile(np.mean(recalls, axis=0), 2.5))


def _predict_all(model: keras.Model, ds: ImageDataset, batch_size: int = 32, **options: Any) -> np.ndarray:
    """`predict` for a data set, without making all its images float32 at once."""
    return np.concatenate([predict(model, images, batch_size, **options) for images, _ in ds.batches(8 * batch_size)])


def clear_example(model: keras.Model, ds: ImageDataset, label: int = -1) -> int:
    """Position of the image of class ``label`` (-1: the last) whose logit leads the others by most.

    Images with evidence come first where there are masks; without any image of that class, the first image.
    """
    label = label % len(ds.class_names)
    members = np.flatnonzero(ds.labels == label)
    if ds.masks is not None and ds.masks[members].any():
        members = members[ds.masks[members].any(axis=(1, 2))]
    if len(members) == 0:
        return 0
    logits = _predict_all(model, ds.select(members))
    others = np.delete(logits, label, axis=1).max(axis=1)
    return int(members[(logits[:, label] - others).argmax()])
