"""The verdict in plain words: what the figures of merit say, and what they do not."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from xaiutils.classification.predictions import Predictions
from xaiutils.statistics.mcnemar import mcnemar

if TYPE_CHECKING:
    from xaiutils.classification.assess import Report

_FEW = 50  # units of a class under which a warning is given: Wilson's interval is then 0.28 wide at 0.5


def beats_majority(found: Predictions, confidence: float) -> tuple[bool, float]:
    """Whether more answers are right than of always naming the largest class, by the exact test of `mcnemar` over
    units, and its p."""
    largest = np.bincount(found.labels).argmax()
    right, always = found.predicted == found.labels, found.labels == largest
    p = mcnemar(right, always, found.units).p
    return bool(right.sum() > always.sum() and p < 1 - confidence), p


def sentences(report: "Report") -> tuple[str, ...]:
    """Of a `Report`: against the majority, against chance, which errors, ranking, calibration, caution."""
    found = report.predictions
    said = [_accuracy(report), _majority(report)]
    if len(np.unique(found.labels)) > 1:
        said.append(_chance(report))
    said += [_errors_of_two(report) if report.positive is not None else _errors_of_many(report), report.positive_said]
    said.append(_never_named(report))
    said += [_ranking(report), _calibrated(report), _optimism(report), _few(report), *report.notes]
    return tuple(s for s in said if s)


def percent(value: float) -> str:
    """A part of 1 as a percentage, in three figures."""
    return "not defined" if not np.isfinite(value) else f"{100 * value:.1f} %"


def score(value: float) -> str:
    """A figure of merit with two decimals, near 1 with three."""
    return f"{value:.3f}" if 0.985 < value < 1 else f"{value:.2f}"


def interval(row: pd.Series, as_percent: bool = False) -> str:
    """The interval of a row of metrics in brackets; nothing where there is none."""
    if not np.isfinite(row["low"]):
        return ""
    low, high = (f"{100 * v:.1f}" if as_percent else score(v) for v in (row["low"], row["high"]))
    return f" [{low} to {high}{' %' if as_percent else ''}]"


def many(level: str, n: int = 2) -> str:
    """The plural of a level's name, for n other than 1."""
    return level if n == 1 else f"{level}s"


def _accuracy(report: "Report") -> str:
    found = report.predictions
    right, n = int((found.predicted == found.labels).sum()), len(found)
    row = report.metrics.loc["accuracy"]
    return (
        f"{report.name} is right on {right} of {n} {many(report.level, n)}: "
        f"{percent(row['value'])}{interval(row, True)}."
    )


def _majority(report: "Report") -> str:
    found = report.predictions
    counts = np.bincount(found.labels, minlength=len(found.class_names))
    right, best = int((found.predicted == found.labels).sum()), int(counts.max())
    name = found.class_names[counts.argmax()]
    if best == len(found):
        return f"All are '{name}', so that always saying '{name}' is right everywhere: this says nothing of its skill."
    better, p = beats_majority(found, report.confidence)
    always = f"always saying '{name}', which is right on {best} ({percent(best / len(found))})"
    # Balanced accuracy may show skill that accuracy does not: then only accuracy is no better.
    none = f"{'By accuracy it' if report.beats_chance else 'It'} does no better than the majority class"
    if right < best:
        return f"{none}: that is worse than {always}."
    if right == best:
        return f"{none}: that is no more than {always}."
    if not better:
        return f"{none}: {right - best} more than {always}, is within chance ({p_value(p)})."
    return f"That is better than {always} ({p_value(p)})."


def _chance(report: "Report") -> str:
    row = report.metrics.loc["balanced accuracy"]
    chance = row["majority"]
    text = f"Balanced accuracy, in which all classes weigh the same, is {score(row['value'])}{interval(row)}; "
    if report.beats_chance:
        return text + f"guessing gives {chance:.2f}, so that it does tell them apart."
    below = "below the" if row["high"] < chance else "not told apart from the"
    return text + f"that is {below} {chance:.2f} of guessing."


def _errors_of_two(report: "Report") -> str:
    found, positive = report.predictions, report.positive
    truly, called = found.labels == positive, found.predicted == positive
    name, level = found.class_names[positive], report.level
    misses, alarms = int((truly & ~called).sum()), int((~truly & called).sum())
    p, n = int(truly.sum()), int((~truly).sum())
    parts = []
    if p:
        parts.append(f"It misses {misses} of {p} {many(level, p)} that are '{name}'")
    if n:
        parts.append(f"{'and ' if p else 'It '}calls {alarms} of the {n} others '{name}'")
    text = " ".join(parts)
    if not p or not n or not misses + alarms:
        return text + "."
    sensitivity = report.metrics.loc["sensitivity"]
    text += f" (sensitivity {percent(sensitivity['value'])}{interval(sensitivity, True)})"
    if mcnemar(truly, called, found.units).p >= 1 - report.confidence:
        return text + "; it says so about as often as it is so."
    side = "towards missing" if misses > alarms else "towards false alarms of"
    return (
        text
        + f". It errs {side} '{name}': it says '{name}' of {percent(called.mean())}, and {percent(truly.mean())} are."
    )


def _errors_of_many(report: "Report") -> str:
    names, confusion = list(report.predictions.class_names), report.confusion
    support = confusion.sum(axis=1)
    right = pd.Series(np.diag(confusion[names]), index=names)
    recall = (right / support.where(support > 0)).dropna()
    worst = recall.idxmin()
    if recall[worst] == 1:
        return "It makes no error."
    wrong = confusion.loc[worst].drop(worst)
    return (
        f"The class that it finds least is '{worst}', {right[worst]} of {support[worst]}; it most often calls these "
        f"'{wrong.idxmax()}' ({wrong.max()})."
    )


def _never_named(report: "Report") -> str:
    found = report.predictions
    named = set(found.predicted.tolist())
    names = found.class_names
    if len(named) == 1 and len(np.unique(found.labels)) > 1:
        only = (*names, "other classes")[named.pop()]
        return f"It gives one answer to every {report.level}: '{only}'."
    never = [names[c] for c in np.unique(found.labels) if c not in named]
    if not never:
        return ""
    return f"It never says {', '.join(repr(n) for n in never[:5])}{' and others' if len(never) > 5 else ''}."


def _ranking(report: "Report") -> str:
    row = report.metrics.loc["AUC"]
    if not np.isfinite(row["value"]):
        return ""
    what = "AUC" if report.positive is not None else "Mean AUC of the classes"
    text = f"{what} {score(row['value'])}{interval(row)}: "
    if row["value"] == 1:
        few = "the interval is what so few of them can show" if np.isfinite(row["low"]) else "it has no interval"
        return text + f"every {report.level} is ranked right; {few}."
    p = report.probabilities if report.positive is None else report.probabilities[:, report.positive]
    if not np.ptp(p, axis=0).any():
        return text + f"it gives every {report.level} the same probability, which ranks nothing."
    if not np.isfinite(row["low"]):
        return text + f"too few {many(report.level)} of a class for an interval."
    if row["low"] > 0.5:
        text += "its probabilities rank the classes better than chance"
        if report.beats_chance:
            return text + "."
        return text + ", though its answers show no skill: another threshold may."
    if row["high"] < 0.5:
        return text + "its probabilities rank the classes the wrong way round; are the labels swapped?"
    return text + "its probabilities rank the classes no better than chance."


def _calibrated(report: "Report") -> str:
    row = report.calibration.iloc[0]
    text = (
        f"Calibration error (ECE) {row['ECE']:.3f}, where exactly right probabilities would show "
        f"{row['ECE if calibrated']:.3f} on so many {many(report.level)}"
    )
    slope = row["slope"]
    if np.isfinite(slope) and report.positive is not None:
        # Images of a patient may be copies of each other: as many count as there are patients.
        images_a_unit = len(report.predictions) / report.n_units
        half = stats.norm.ppf((1 + report.confidence) / 2) * row["slope error"] * np.sqrt(images_a_unit)
        kind = "are not clearly too extreme or too timid"
        if slope + half < 0:
            kind = "point the wrong way"
        elif slope + half < 1:
            kind = "are too extreme" if slope - half > 0 else "are too extreme, or carry no information"
        elif slope - half > 1:
            kind = "are too timid"
        text += f"; slope {slope:.2f} [{slope - half:.2f} to {slope + half:.2f}]: its probabilities {kind}"
    return text + "."


def _optimism(report: "Report") -> str:
    points = report.operating_points
    if points is not None and points["chosen on"].ne("validation").any():
        return "Its thresholds were chosen on the very images that they are judged by: their results are optimistic."
    return ""


def _few(report: "Report") -> str:
    found = report.predictions
    counts = {found.class_names[c]: len(np.unique(found.units[found.labels == c])) for c in np.unique(found.labels)}
    name = min(counts, key=counts.get)
    if counts[name] < _FEW and len(counts) > 1:
        verb = "is" if counts[name] == 1 else "are"
        units = many(found.unit, counts[name])
        return f"There {verb} only {counts[name]} {units} of '{name}': all numbers are uncertain."
    return ""


def p_value(p: float) -> str:
    """A p-value in words; those under 0.001 are not told apart."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
