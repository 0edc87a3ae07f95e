"""Thresholds on the positive class's probability, chosen to reach a screening reader's specificity or sensitivity."""

from dataclasses import dataclass

import numpy as np

from xaiutils.classification.curves import SCREENING, PositiveRanks, choose_threshold
from xaiutils.classification.predictions import Predictions

_ON_THESE = "these images (optimistic)"


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold at which ``held`` ("specificity" or "sensitivity") is at least ``target``, and on which images it was
    chosen: "validation", or the judged ones."""

    held: str
    target: float
    threshold: float
    chosen_on: str

    @property
    def optimistic(self) -> bool:
        """Whether the threshold was chosen on the images that it is judged by."""
        return self.chosen_on == _ON_THESE

    def key(self, name: str) -> str:
        """The key of a figure at this threshold."""
        return f"{name} at {self.held} {self.target}"

    @property
    def other_key(self) -> str:
        """The key of what is not held: sensitivity at a specificity, and the other way round."""
        return self.key("sensitivity" if self.held == "specificity" else "specificity")

    def other_at_target(self, ranks: PositiveRanks) -> np.ndarray:
        """What is not held, at the best threshold of each replicate: ``(b,)``."""
        return (ranks.sensitivity_at if self.held == "specificity" else ranks.specificity_at)(self.target)

    def proportions(self, truly: np.ndarray, scores: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Hits, and the images that count, of sensitivity, specificity, PPV and NPV: bool ``(n,)`` each."""
        called = scores >= self.threshold
        return {
            self.key("sensitivity"): (called, truly),
            self.key("specificity"): (~called, ~truly),
            self.key("PPV"): (truly, called),
            self.key("NPV"): (~truly, ~called),
        }


def choose_operating_points(
    found: Predictions, validation: Predictions | None, positive: int
) -> tuple[list[OperatingPoint], list[str]]:
    """One for each target of `SCREENING`, on the validation images where these are of both classes; and notes."""
    source, where, notes = found, _ON_THESE, []
    if validation is not None:
        if 0 < (validation.labels == positive).sum() < len(validation):
            source, where = validation, "validation"
        else:
            notes.append("The validation images are of one class: thresholds are chosen on the judged images.")
    truly, scores = source.labels == positive, source.probabilities[:, positive].astype(float)
    points = [
        OperatingPoint(held, target, choose_threshold(truly, scores, held, target), where)
        for held, target in SCREENING.items()
    ]
    return points, notes
