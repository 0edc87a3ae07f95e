"""Figures of merit with the interval that suits each, and the tables of a report that are made of them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from xaiutils.classification.baselines import average_baselines, metric_baselines
from xaiutils.classification.curves import random_average_precision
from xaiutils.classification.figures_of_merit import (
    Proportion,
    class_proportions,
    figures_of_merit,
    of_class,
    proportions,
)
from xaiutils.classification.operating_points import OperatingPoint
from xaiutils.classification.predictions import Predictions
from xaiutils.statistics.bootstrap import percentile_interval, replicates
from xaiutils.statistics.delong import auc_interval
from xaiutils.statistics.proportions import balanced_accuracy_interval, proportion_interval


@dataclass(frozen=True)
class Estimates:
    """Values and bootstrap replicates of `figures_of_merit`, by key."""

    found: Predictions
    positive: int | None
    points: list[OperatingPoint]
    values: dict[str, float]
    samples: dict[str, np.ndarray]
    proportions: dict[str, Proportion]
    confidence: float

    def with_interval(self, key: str) -> tuple[float, float, float]:
        """Value, low and high."""
        return self.values[key], *self._interval(key)

    def _interval(self, key: str) -> tuple[float, float]:
        found, samples = self.found, self.samples[key]
        rechosen = any(point.optimistic and key == point.other_key for point in self.points)
        if key in self.proportions:
            hits, among = self.proportions[key]
            low, high = percentile_interval(samples, self.confidence) if rechosen else (np.nan, np.nan)
            if np.isfinite(low):
                return low, high
            return proportion_interval(hits[among], found.units[among], samples, self.confidence)
        if key == "balanced accuracy":
            return balanced_accuracy_interval(
                found.labels, found.predicted == found.labels, found.units, self.confidence
            )
        ranked = {of_class("AUC", c): c for c in range(len(found.class_names))}
        if self.positive is not None:
            ranked["AUC"] = self.positive
        if key not in ranked:
            return percentile_interval(samples, self.confidence)
        if not np.isfinite(self.values[key]):
            return np.nan, np.nan
        is_c = found.labels == ranked[key]
        n_units = (len(np.unique(found.units[is_c])), len(np.unique(found.units[~is_c])))
        return auc_interval(self.values[key], samples, *n_units, self.confidence)

    def metrics(self) -> pd.DataFrame:
        """`Report.metrics`."""
        baselines = metric_baselines(self.found, self.positive)
        rows = {key: (*self.with_interval(key), *baseline) for key, baseline in baselines.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high", "majority", "random"])

    def classes(self) -> pd.DataFrame:
        """`Report.classes`."""
        columns = ["precision", "recall", "F1", "support"]
        names = self.found.class_names
        table = pd.DataFrame(
            {name: [self.values[of_class(name, c)] for c in range(len(names))] for name in columns}, index=list(names)
        )
        support = table["support"].to_numpy()
        named = np.bincount(self.found.predicted, minlength=len(names) + 1)[: len(names)]
        rows = average_baselines(table[columns[:3]].fillna(0).to_numpy(), support, named)
        averages = pd.DataFrame.from_dict(rows, orient="index", columns=columns[:3])
        return pd.concat([table, averages.assign(support=support.sum())]).astype({"support": np.int64})

    def class_intervals(self) -> pd.DataFrame:
        """`Report.class_intervals`."""
        rows = []
        for c in range(len(self.found.class_names)):
            row: dict[str, float] = {}
            for name in ("precision", "recall", "F1", "AUC", "average precision"):
                value, low, high = self.with_interval(of_class(name, c))
                if name in ("AUC", "average precision"):
                    row[name] = value
                row |= {f"{name} low": low, f"{name} high": high}
            count = int((self.found.labels == c).sum())
            rows.append(row | {"average precision of chance": random_average_precision(count, len(self.found))})
        return pd.DataFrame(rows, index=pd.Index(self.found.class_names, name="class"))

    def operating_points(self) -> pd.DataFrame:
        """`Report.operating_points`."""
        rows = []
        for point in self.points:
            row: dict[str, object] = {"held": point.held, "target": point.target}
            row |= {"threshold": point.threshold, "chosen on": point.chosen_on}
            for name in ("sensitivity", "specificity", "PPV", "NPV"):
                row[name], row[f"{name} low"], row[f"{name} high"] = self.with_interval(point.key(name))
            # Random answers that are as specific (or sensitive) as the target.
            for name in ("sensitivity", "specificity"):
                row[f"random {name}"] = point.target if name == point.held else 1 - point.target
            rows.append(row)
        return pd.DataFrame(rows)


def estimate(
    found: Predictions,
    positive: int | None,
    points: list[OperatingPoint],
    n_resamples: int,
    confidence: float,
    seed: int,
) -> Estimates:
    """All figures of merit of ``found``, with ``n_resamples`` replicates over its units."""
    k = len(found.class_names)
    once = figures_of_merit(found, positive, points, np.ones((len(found), 1), np.int32))
    blocks = [
        figures_of_merit(found, positive, points, weights)
        for weights in replicates(found.units, n_resamples, seed, cells_per_replicate=k * (k + 1))
    ]
    return Estimates(
        found,
        positive,
        points,
        {key: float(value[0]) for key, value in once.items()},
        {key: np.concatenate([block[key] for block in blocks]) for key in once},
        proportions(found, positive, points) | class_proportions(found),
        confidence,
    )
