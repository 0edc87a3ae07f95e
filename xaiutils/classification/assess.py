"""How well a classifier does: everything that accuracy alone would hide, per image and per patient."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from xaiutils.class_names import positive_class
from xaiutils.classification import calibration, curves
from xaiutils.classification.estimates import estimate
from xaiutils.classification.figures_of_merit import confusion_counts
from xaiutils.classification.operating_points import OperatingPoint, choose_operating_points
from xaiutils.classification.predictions import COMBINE, Predictions
from xaiutils.classification.report import Report
from xaiutils.classification.verdict import sentences

_LEAST_RESAMPLES = 1000


def assess(
    predictions: Predictions,
    validation: Predictions | None = None,
    positive: str | int | None = None,
    combine: str = "max",
    n_resamples: int = _LEAST_RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
    name: str = "model",
    split: str = "test",
) -> Report:
    """Report on ``predictions``, per image and, where groups are known, per group.

    Args:
        predictions: of the images to be judged; its groups decide units and levels.
        validation: of other images, on which thresholds are chosen and the temperature is fitted; without them
            thresholds are chosen on the judged images themselves, and said to be optimistic.
        positive: the class to detect, by name or number. Default: of two classes the one whose name speaks of
            disease, or is left when the other's speaks against it, else the last, which the report says; of more, none,
            and then there are no operating points and no decision curve.
        combine: how a group's probability is made of its images', "max" or "mean"; see `Predictions.per`.
        n_resamples: of the bootstrap, at least 1000.
        confidence: of all intervals. Proportions (accuracy, recall, precision, sensitivity, specificity) have
            Wilson's interval where images are the units, balanced accuracy
            `balanced_accuracy_interval`, all else percentiles of the bootstrap over units.
        seed: of the bootstrap.
        name, split: for titles and sentences.

    Raises:
        ValueError: an argument is out of range, or the classes of ``validation`` differ.
    """
    if n_resamples < _LEAST_RESAMPLES:
        raise ValueError(f"n_resamples={n_resamples}; at least {_LEAST_RESAMPLES} are needed.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}; expected a number between 0 and 1, such as 0.95.")
    if combine not in COMBINE:
        raise ValueError(f"combine={combine!r}; choose one of {', '.join(COMBINE)}.")
    if validation is not None and validation.class_names != predictions.class_names:
        raise ValueError(f"validation has the classes {validation.class_names}, not {predictions.class_names}.")
    chosen = predictions.positive(positive)
    given = "" if positive in (None, "") or chosen is None else predictions.class_names[chosen]
    said = positive_class(predictions.class_names, given)[1]
    settings = Settings(chosen, n_resamples, confidence, seed, name, split, said)
    levels: dict[str, Report] = {}
    notes = []
    for level in predictions.groups:
        if len(set(predictions.groups[level])) == len(predictions):
            notes.append(f"Each {level} has one image: per {level} is per image.")
            continue
        try:
            coarse = predictions.per(level, chosen, combine)
        except ValueError as reason:
            notes.append(f"Per {level} nothing is given: {reason}")
            continue
        levels[level] = _assess(coarse, _validation_per(validation, level, chosen, combine), settings, {}, [])
    return _assess(predictions, validation, settings, levels, notes)


@dataclass(frozen=True)
class Settings:
    """What holds for all levels of a report; see `assess`."""

    positive: int | None
    n_resamples: int
    confidence: float
    seed: int
    name: str
    split: str
    positive_said: str


def _validation_per(
    validation: Predictions | None, level: str, positive: int | None, combine: str
) -> Predictions | None:
    """The validation images by ``level``; None where they have no such groups, or groups of several classes."""
    if validation is None or level not in validation.groups:
        return None
    try:
        return validation.per(level, positive, combine)
    except ValueError:
        return None


def _assess(
    found: Predictions, validation: Predictions | None, given: Settings, levels: dict[str, Report], notes: list[str]
) -> Report:
    positive, confidence = given.positive, given.confidence
    points: list[OperatingPoint] = []
    said: list[str] = []
    decision = None
    if positive is not None and 0 < (found.labels == positive).sum() < len(found):
        points, said = choose_operating_points(found, validation, positive)
        decision = curves.decision_curve(found.labels == positive, found.probabilities[:, positive].astype(float))
    temperature, unfitted = _temperature(validation)
    estimates = estimate(found, positive, points, given.n_resamples, confidence, given.seed)
    table, bins = calibration.calibration_tables(found, positive, temperature, confidence, given.seed)
    report = Report(
        name=given.name,
        split=given.split,
        predictions=found,
        positive=positive,
        metrics=estimates.metrics(),
        classes=estimates.classes(),
        class_intervals=estimates.class_intervals(),
        confusion=_confusion(found),
        operating_points=estimates.operating_points() if points else None,
        calibration=table,
        reliability=bins,
        temperature=temperature,
        decision=decision,
        confidence=confidence,
        n_resamples=given.n_resamples,
        seed=given.seed,
        levels=levels,
        notes=(*notes, *_class_notes(found), *said, *unfitted),
        positive_said=given.positive_said,
    )
    return replace(report, sentences=sentences(report))


def _temperature(validation: Predictions | None) -> tuple[float, list[str]]:
    if validation is None:
        return np.nan, []
    found = calibration.fit_temperature(validation.labels, validation.probabilities)
    if np.isfinite(found):
        return found, []
    return found, [
        "The validation images fix no temperature: all are answered right, or the most likely one is extreme."
    ]


def _class_notes(found: Predictions) -> list[str]:
    """Classes that only the model has, or that have no image here."""
    names, k, notes = found.class_names, len(found.class_names), []
    if (more := found.probabilities.shape[1] - k) > 0:
        other = int((found.predicted == k).sum())
        notes.append(
            f"The model knows {more} more {'class' if more == 1 else 'classes'} than the data: {other} of {len(found)} "
            "answers name one and count as wrong."
        )
    counts = np.bincount(found.labels, minlength=k)
    missing = [f"'{name}'" for name, count in zip(names, counts, strict=True) if count == 0]
    if len(missing) == k - 1:
        notes.append(f"All are '{names[counts.argmax()]}': AUC, average precision and thresholds have no meaning.")
    elif missing:
        rest = len(missing) - 5
        more_classes = f" or {rest} more {'class' if rest == 1 else 'classes'}" if rest > 0 else ""
        notes.append(f"No {found.level} is {', '.join(missing[:5])}{more_classes}: means are over the other classes.")
    return notes


def _confusion(found: Predictions) -> pd.DataFrame:
    names = list(found.class_names)
    counts = confusion_counts(found.labels, found.predicted, len(names), np.ones((len(found), 1), np.int32))[..., 0]
    table = pd.DataFrame(counts.astype(np.int64), index=names, columns=[*names, "(other classes)"])
    return table if found.probabilities.shape[1] > len(names) else table[names]
