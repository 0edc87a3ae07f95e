"""ROC and precision-recall curves, what is read off them, and the decision curve.

An image is called positive if its score is at least the threshold. ``positive`` is bool ``(n,)``, ``scores`` float
``(n,)``, weights ``(n, b)`` as of `xaiutils.statistics.bootstrap.replicates`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

# Sensitivity and specificity of digital screening mammography in the United States: Breast Cancer Surveillance
# Consortium, Lehman et al. 2017, Radiology 283.
SCREENING = {"specificity": 0.889, "sensitivity": 0.869}


@dataclass(frozen=True)
class PositiveRanks:
    """At each distinct score of a positive, from the highest: ``(p, b)`` weights of positives and of negatives at or
    above it, of positives at it, and of negatives above it; and the sums ``(b,)``. All areas follow from these."""

    positives: np.ndarray
    negatives: np.ndarray
    at: np.ndarray
    above: np.ndarray
    n_positive: np.ndarray
    n_negative: np.ndarray

    @classmethod
    def of(cls, positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> "PositiveRanks":
        order = np.argsort(-scores, kind="stable")
        order = order[positive[order]]
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, len(order) > 0))
        thresholds = scores[order][ends]
        taken = np.cumsum(weights[order], axis=0, dtype=np.int32)[ends]
        rest = np.flatnonzero(~positive)
        rest = rest[np.argsort(-scores[rest], kind="stable")]
        passed = np.zeros((len(rest) + 1, weights.shape[1]), np.int32)
        np.cumsum(weights[rest], axis=0, out=passed[1:])
        above = np.searchsorted(-scores[rest], -thresholds, side="left")
        at_least = np.searchsorted(-scores[rest], -thresholds, side="right")
        return cls(
            taken,
            passed[at_least],
            np.diff(taken, axis=0, prepend=0),
            passed[above],
            taken[-1] if len(taken) else np.zeros(weights.shape[1], np.int32),
            passed[-1],
        )

    def auc(self) -> np.ndarray:
        """Area under the ROC curve ``(b,)``: how often a positive scores higher than a negative, ties by half; NaN
        where either is missing."""
        beaten = self.n_negative - (self.negatives + self.above) / 2
        pairs = self.n_positive.astype(float) * self.n_negative
        return ratio(np.einsum("pb,pb->b", self.at, beaten), pairs)

    def average_precision(self) -> np.ndarray:
        """Mean over positives of the precision at their score, ``(b,)``; NaN without positives."""
        precision = self.positives / np.maximum(self.positives + self.negatives, 1)
        return ratio(np.einsum("pb,pb->b", self.at, precision), self.n_positive)

    def sensitivity_at(self, specificity: float) -> np.ndarray:
        """Largest sensitivity among thresholds of at least this specificity, ``(b,)``."""
        allowed = (1 - specificity) * self.n_negative + 1e-9
        rows = (self.negatives <= allowed).sum(axis=0)  # the negatives passed only grow from row to row
        found = np.take_along_axis(self.positives, np.maximum(rows - 1, 0)[None], axis=0)[0]
        return ratio(np.where(rows > 0, found, 0), np.where(self.n_negative > 0, self.n_positive, 0))

    def specificity_at(self, sensitivity: float) -> np.ndarray:
        """Largest specificity among thresholds of at least this sensitivity, ``(b,)``."""
        rows = (self.positives < sensitivity * self.n_positive - 1e-9).sum(axis=0)
        passed = np.take_along_axis(self.negatives, np.minimum(rows, len(self.negatives) - 1)[None], axis=0)[0]
        return 1 - ratio(passed, np.where(self.n_positive > 0, self.n_negative, 0))


def random_average_precision(n_positive: int, n: int) -> float:
    """The average precision of scores at random, expected, with ``n_positive`` among ``n`` images; NaN without any.

    At rank i a positive has 1 + (i - 1) (n_positive - 1) / (n - 1) positives up to it on average, so that the mean is
    above the prevalence, and much so in small sets: with the harmonic number H,
    (H_n + (n_positive - 1) / (n - 1) * (n - H_n)) / n.
    """
    if n_positive < 1:
        return np.nan
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    return (harmonic + (n_positive - 1) / max(n - 1, 1) * (n - harmonic)) / n


def mean_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve, one class against the rest, averaged over classes that occur; NaN if only one does."""
    once = np.ones((len(labels), 1), np.int32)
    present = [c for c in range(probabilities.shape[1]) if 0 < (labels == c).sum() < len(labels)]
    areas = [PositiveRanks.of(labels == c, probabilities[:, c], once).auc()[0] for c in present]
    return float(np.mean(areas)) if areas else np.nan


def mean_label_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean AUC of the labels ``(n, k)`` of 1, 0 and -1 (left out) of which there are both kinds; NaN without any."""
    areas = []
    for y, s in zip(labels.T, scores.T, strict=True):
        known = y >= 0
        if 0 < (y == 1).sum() < known.sum():
            once = np.ones((int(known.sum()), 1), np.int32)
            areas.append(PositiveRanks.of(y[known] == 1, s[known], once).auc()[0])
    return float(np.mean(areas)) if areas else np.nan


def threshold_table(positive: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """Every threshold that changes an answer, from infinity down: columns threshold, sensitivity, specificity,
    precision (1 where nothing is called positive) and called (how many are). Sensitivity is NaN without positives."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.append(0, np.cumsum(positive[order])[ends])
    called = np.append(0, ends + 1)
    p, n = int(positive.sum()), int((~positive).sum())
    return pd.DataFrame(
        {
            "threshold": np.append(np.inf, scores[order][ends]),
            "sensitivity": hits / p if p else np.nan,
            "specificity": 1 - (called - hits) / n if n else np.nan,
            "precision": np.where(called > 0, hits / np.maximum(called, 1), 1.0),
            "called": called,
        }
    )


def choose_threshold(positive: np.ndarray, scores: np.ndarray, what: str, target: float) -> float:
    """The threshold at which ``what`` ("specificity" or "sensitivity") is at least ``target`` and the other is largest.

    It lies on a score that occurs; infinity, where nothing is called positive, if no score is specific enough.
    """
    table = threshold_table(positive, scores)
    # From row to row sensitivity grows and specificity falls: the last row that is specific enough, or the first
    # that is sensitive enough.
    fits = np.flatnonzero(table[what] >= target - 1e-12)
    return float(table["threshold"][fits[-1] if what == "specificity" else fits[0]])


def youden_threshold(positive: np.ndarray, scores: np.ndarray) -> float:
    """The threshold at which sensitivity plus specificity is largest (Youden 1950, Cancer 3), of equals the highest;
    infinity where no threshold is better than calling nothing positive."""
    table = threshold_table(positive, scores)
    return float(table["threshold"][(table["sensitivity"] + table["specificity"]).argmax()])


def decision_curve(positive: np.ndarray, scores: np.ndarray, thresholds: np.ndarray | None = None) -> pd.DataFrame:
    """Net benefit by threshold probability (Vickers & Elkin 2006, Medical Decision Making 26).

    TP/n - FP/n * t / (1 - t): true positives, less the false ones at the price that threshold t puts on them. Columns
    threshold (default 0.01 to 0.99), model, "treat all" and "treat none". The scores must be calibrated probabilities
    to be read so.
    """
    t = np.arange(1, 100) / 100 if thresholds is None else np.asarray(thresholds, float)
    called = scores[None, :] >= t[:, None]
    price, n = t / (1 - t), len(scores)
    benefit = (called & positive).sum(axis=1) / n - price * (called & ~positive).sum(axis=1) / n
    prevalence = positive.mean()
    everyone = prevalence - price * (1 - prevalence)
    return pd.DataFrame({"threshold": t, "model": benefit, "treat all": everyone, "treat none": 0.0})


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b; NaN where b is not above 0."""
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=np.asarray(b) > 0)
