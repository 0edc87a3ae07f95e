"""What is known of a classifier on one split, `Report`, and of several in one table."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from xaiutils.classification.baselines import beats_majority
from xaiutils.classification.calibration import stated_events
from xaiutils.classification.predictions import Predictions
from xaiutils.statistics.formatting import with_interval
from xaiutils.statistics.proportions import better_than_guessing


@dataclass(frozen=True)
class Report:
    """How a classifier does on one split, at one level (images, or patients, or breasts).

    Attributes:
        name, split: of the model and of the data, for titles.
        predictions: what it is computed from.
        positive: number of the positive class, None for one-vs-rest of more than two.
        metrics: a row for each figure of merit: value, low, high (the interval), majority (always naming the largest
            class) and random (guessing with the frequencies of the classes, and scores at random; expected).
        classes: precision, recall, F1 and support of each class; then their macro average (over classes that occur or
            are predicted) and their average weighted by support, of the model and of the two baselines.
        class_intervals: low and high of each class's precision, recall, F1, AUC and average precision, with the last
            two's values.
        confusion: true classes in rows, predicted ones in columns; a last column "(other classes)" where the model
            knows more classes than the data.
        operating_points: thresholds on the positive class's probability and what they give: sensitivity,
            specificity, PPV, NPV, with intervals, and by which images the threshold was chosen. None without a positive
            class, or with one class only.
        calibration: rows of `calibration.calibration_row`: the positive class's probability, or the top class's and
            each class's; with ``temperature``, also after scaling by it.
        reliability: the bins of the first row of ``calibration``.
        temperature: fitted on the validation images, NaN without them, or where they fix none.
        decision: `curves.decision_curve` of the positive class, or None.
        confidence, n_resamples, seed: of the intervals; the unit that is drawn is ``predictions.unit``.
        levels: reports of coarser levels by name, such as "patient".
        notes: what could not be measured, and why.
        positive_said: a sentence that names the positive class, says why it is that one, and how to name another.
        sentences: the verdict in plain words, the most important first.
    """

    name: str
    split: str
    predictions: Predictions
    positive: int | None
    metrics: pd.DataFrame
    classes: pd.DataFrame
    class_intervals: pd.DataFrame
    confusion: pd.DataFrame
    operating_points: pd.DataFrame | None
    calibration: pd.DataFrame
    reliability: pd.DataFrame
    temperature: float
    decision: pd.DataFrame | None
    confidence: float
    n_resamples: int
    seed: int
    levels: Mapping[str, "Report"] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    positive_said: str = ""
    sentences: tuple[str, ...] = ()

    @property
    def probabilities(self) -> np.ndarray:
        """As predicted, ``(n, classes)``."""
        return self.predictions.probabilities

    @property
    def level(self) -> str:
        """What a row of the predictions is: "image", "patient", ..."""
        return self.predictions.level

    @property
    def n_units(self) -> int:
        """How many units are drawn in a bootstrap: patients where they are known."""
        return int(self.predictions.units.max()) + 1

    @property
    def summary(self) -> pd.Series:
        """The values of ``metrics``, with n, the lower end of balanced accuracy, and the majority's accuracy."""
        first = {"n": len(self.predictions)}
        last = {
            "balanced accuracy low": self.metrics.loc["balanced accuracy", "low"],
            "majority accuracy": self.metrics.loc["accuracy", "majority"],
            "ECE": self.calibration["ECE"].iloc[0],
        }
        return pd.Series({**first, **self.metrics["value"], **last})

    @property
    def event(self) -> tuple[np.ndarray, np.ndarray]:
        """What ``reliability`` is of: whether it happened, bool ``(n,)``, and its stated probability, float64."""
        return next(iter(stated_events(self.predictions, self.positive).values()))

    @property
    def table(self) -> pd.DataFrame:
        """`results_table` of this report alone, at its own level."""
        return results_table({self.name: replace(self, levels={})})

    @property
    def baseline_names(self) -> tuple[str, str]:
        """What the two baselines are called in tables."""
        counts = self.classes["support"].iloc[: len(self.predictions.class_names)]
        return f"always '{counts.idxmax()}'", "random, by class frequency"

    @property
    def optimistic(self) -> bool:
        """Whether thresholds were chosen on the very images on which they are judged."""
        points = self.operating_points
        return points is not None and bool(points["chosen on"].ne("validation").any())

    @cached_property
    def beats_chance(self) -> bool:
        """Whether balanced accuracy is above that of guessing, by its interval and by `better_than_guessing`
        (the interval alone would not do for few images of many classes); class imbalance fools accuracy, not this."""
        found, row = self.predictions, self.metrics.loc["balanced accuracy"]
        correct = found.predicted == found.labels
        return bool(row["low"] > row["random"]) and better_than_guessing(
            found.labels, correct, found.units, self.confidence, seed=self.seed
        )

    @property
    def beats_majority(self) -> bool:
        """Whether it is right more often than always naming the largest class, by more than chance."""
        return beats_majority(self.predictions, self.confidence)[0]

    @property
    def verdict(self) -> str:
        """`sentences` as one text."""
        return " ".join(self.sentences)


def results_table(reports: Mapping[str, Report], as_text: bool = False) -> pd.DataFrame:
    """All models and the two baselines in one table, level by level: columns level, model, n and the figures of merit.

    With numbers, each figure has its columns "... low" and "... high"; ``as_text`` writes "0.72 [0.61 to 0.80]".
    The models must have been given the same images.
    """
    rows = []
    for level in dict.fromkeys(name for r in reports.values() for name in (r.level, *r.levels)):
        of_level = {name: r if r.level == level else r.levels.get(level) for name, r in reports.items()}
        known = {name: r for name, r in of_level.items() if r is not None}
        rows += [_results_row(name, r, "value", as_text) for name, r in known.items()]
        first = next(iter(known.values()))
        rows += [
            _results_row(name, first, column, as_text)
            for name, column in zip(first.baseline_names, ("majority", "random"), strict=True)
        ]
    return pd.DataFrame(rows)


def _results_row(model: str, report: Report, column: str, as_text: bool) -> dict[str, object]:
    row: dict[str, object] = {"level": report.level, "model": model, "n": len(report.predictions)}
    for metric, figures in report.metrics.iterrows():
        shown = pd.Series({"value": figures[column], "low": np.nan, "high": np.nan})
        if column == "value":
            shown = figures
        if as_text:
            row[str(metric)] = with_interval(shown) if np.isfinite(shown["value"]) else ""
        else:
            row |= {str(metric): shown["value"], f"{metric} low": shown["low"], f"{metric} high": shown["high"]}
    return row
