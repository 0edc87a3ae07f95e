"""What is known of a classifier on one split: `Report`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from xaiutils.classification.baselines import beats_majority
from xaiutils.classification.calibration import stated_events
from xaiutils.classification.predictions import Predictions
from xaiutils.statistics.proportions import better_than_guessing


@dataclass(frozen=True)
class Report:
    """How a classifier does on one split, at one level (images, or patients, or breasts).

    Attributes:
        name, split: of the model and of the data, for titles.
        predictions: what it is computed from.
        positive: number of the positive class, None for one-vs-rest of more than two.
        metrics: a row a figure of merit: value, low, high (the interval), majority (always naming the largest class)
            and random (guessing with the frequencies of the classes, and scores at random; expected).
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
        """Rows for the model, the majority class and random answers; a column a figure of merit, with low and high."""
        names = self.baseline_names
        rows = {self.name: self.metrics["value"], names[0]: self.metrics["majority"], names[1]: self.metrics["random"]}
        table = pd.DataFrame(rows).T[self.metrics.index]
        for metric in reversed(self.metrics.index):
            place = table.columns.get_loc(metric) + 1
            for end in ("high", "low"):
                table.insert(place, f"{metric} {end}", [self.metrics.loc[metric, end], np.nan, np.nan])
        table.insert(0, "n", len(self.predictions))
        table.insert(0, "level", self.level)
        return table.rename_axis("model").reset_index()

    @property
    def baseline_names(self) -> tuple[str, str]:
        """What the two baselines are called in tables."""
        counts = self.classes["support"].iloc[: len(self.predictions.class_names)]
        return f"always '{counts.idxmax()}'", "random, by class frequency"

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
