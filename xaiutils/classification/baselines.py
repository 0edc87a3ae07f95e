"""What two classifiers without knowledge score: one always names the largest class, one guesses by class frequency."""

import warnings
from collections.abc import Mapping

import numpy as np

from xaiutils.classification.curves import random_average_precision
from xaiutils.classification.predictions import Predictions
from xaiutils.statistics.mcnemar import mcnemar


def beats_majority(found: Predictions, confidence: float) -> tuple[bool, float]:
    """Whether more answers are right than of always naming the largest class, by the exact test of `mcnemar` over
    units, and its p."""
    return _beats_majority(found.predicted == found.labels, found.labels, found.units, confidence)


def warn_untaught(
    right: Mapping[str, np.ndarray], labels: np.ndarray, units: np.ndarray | None = None, confidence: float = 0.95
) -> list[str]:
    """Warn of networks that are not right more often than always naming the largest class, by more than chance
    (`beats_majority`), and return their names: what their maps show says nothing of networks that have learnt.

    ``right`` is bool ``(n,)`` by name, of images with ``labels`` int ``(n,)``; ``units`` as `mcnemar` takes them.
    """
    untaught = [name for name, found in right.items() if not _beats_majority(found, labels, units, confidence)[0]]
    if untaught:
        shares = ", ".join(f"{name} {np.mean(right[name]):.1%}" for name in untaught[:4])
        more = f" and {len(untaught) - 4} more" if len(untaught) > 4 else ""
        most = np.bincount(labels).max() / len(labels)
        warnings.warn(
            f"not surely right more often than always naming the largest class ({most:.1%} of {len(labels)} images): "
            f"{shares}{more}. What the maps of such networks show says nothing of networks that have learnt.",
            stacklevel=3,
        )
    return untaught


def _beats_majority(
    right: np.ndarray, labels: np.ndarray, units: np.ndarray | None, confidence: float
) -> tuple[bool, float]:
    always = labels == np.bincount(labels).argmax()
    p = mcnemar(right, always, units).p
    return bool(right.sum() > always.sum() and p < 1 - confidence), p


def metric_baselines(found: Predictions, positive: int | None) -> dict[str, tuple[float, float]]:
    """Each figure of merit of the majority class and, expected, of random answers; NaN where it has no meaning.

    Random scores rank nothing; guesses have the frequencies of the classes as their probabilities.
    """
    counts = np.bincount(found.labels, minlength=len(found.class_names))
    frequency = counts / len(found)
    present, top, agreement = int((counts > 0).sum()), float(frequency.max()), float((frequency**2).sum())
    even, nothing = 1 / present, (np.nan, np.nan)
    ranked = present > 1 and (positive is None or 0 < frequency[positive] < 1)
    prevalence = even if positive is None else float(frequency[positive])
    ranked_classes = counts[counts > 0] if positive is None else counts[[positive]]
    lucky = float(np.mean([random_average_precision(int(n), len(found)) for n in ranked_classes]))
    two = len(counts) == 2 and positive is not None
    baselines = {
        "accuracy": (top, agreement),
        "balanced accuracy": (even, even),
        "macro F1": (2 * top / (1 + top) / present, even),
        "MCC": (0.0, 0.0),
        "kappa": (0.0, 0.0) if present > 1 else nothing,
        "AUC": (0.5, 0.5) if ranked else nothing,
        "average precision": (prevalence, lucky) if ranked else nothing,
        "Brier": (1 - top, 1 - agreement) if two else (2 * (1 - top), 2 * (1 - agreement)),
    }
    if positive is not None:
        named = float(counts.argmax() == positive)
        baselines["sensitivity"] = (named, prevalence) if prevalence > 0 else nothing
        baselines["specificity"] = (1 - named, 1 - prevalence) if prevalence < 1 else nothing
    return baselines


def average_baselines(scores: np.ndarray, support: np.ndarray, named: np.ndarray) -> dict[str, np.ndarray]:
    """Averages over classes of precision, recall and F1, of a model and of the two baselines.

    ``scores`` ``(classes, 3)``; ``support`` ``(classes,)``, how many images each class has; ``named`` ``(classes,)``,
    how many answers name it. Macro averages are over classes that occur or are named.
    """
    frequency = support / support.sum()
    always = np.zeros((len(frequency), 3))
    top = frequency.max()
    always[frequency.argmax()] = top, 1, 2 * top / (1 + top)
    random = np.repeat(frequency[:, None], 3, axis=1)
    present = support > 0
    return {
        "macro average": scores[present | (named > 0)].mean(axis=0),
        "weighted average": frequency @ scores,
        "macro average, majority": always[present].mean(axis=0),
        "weighted average, majority": frequency @ always,
        "macro average, random": random[present].mean(axis=0),
        "weighted average, random": frequency @ random,
    }
