"""What the figures of merit say in plain words: the facts. The sentences are in ``templates/verdict.txt.j2``."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from xaiutils.classification.baselines import beats_majority
from xaiutils.classification.predictions import Predictions
from xaiutils.classification.report import Report
from xaiutils.statistics.formatting import p_value, percent, plural, with_interval
from xaiutils.statistics.mcnemar import mcnemar
from xaiutils.templates import render

_FEW = 50  # units of a class under which a warning is given: Wilson's interval is then 0.28 wide at 0.5


def sentences(report: Report) -> tuple[str, ...]:
    """Of a `Report`: against the majority, against chance, which errors, ranking, calibration, caution."""
    text = render("verdict.txt.j2", report=report, plural=plural, with_interval=with_interval, **verdict_facts(report))
    return tuple(line for line in text.splitlines() if line)


def verdict_facts(report: Report) -> dict[str, Any]:
    """What the template decides its sentences by, beside the report itself.

    ``n_classes`` that occur, ``n_right`` answers; the rows ``accuracy``, ``balanced`` (accuracy) and ``auc`` of the
    metrics; ``ranking``, what the AUC says: "better", "chance", "reversed", "perfect", "perfect, no interval",
    "constant", "too few" or "undefined"; ``majority``, ``positive`` (None without a positive class), ``worst`` class
    and ``calibration``, each a mapping; ``rare``, the class with few units, if any; ``only_answer`` and
    ``never_named``.
    """
    found = report.predictions
    return {
        "n_classes": len(np.unique(found.labels)),
        "n_right": int((found.predicted == found.labels).sum()),
        "accuracy": report.metrics.loc["accuracy"],
        "balanced": report.metrics.loc["balanced accuracy"],
        "auc": report.metrics.loc["AUC"],
        "ranking": _ranking(report),
        "majority": _majority(report),
        "positive": _positive(report),
        "worst": _worst_class(report),
        "calibration": _calibration(report),
        "rare": _rare_class(found),
        **_answers(found),
    }


def _majority(report: Report) -> dict[str, Any]:
    found = report.predictions
    counts = np.bincount(found.labels, minlength=len(found.class_names))
    beaten, p = beats_majority(found, report.confidence)
    share = percent(counts.max() / len(found))
    name = found.class_names[counts.argmax()]
    return {"name": name, "n": int(counts.max()), "percent": share, "beaten": beaten, "p": p_value(p)}


def _positive(report: Report) -> dict[str, Any] | None:
    """Errors of a model with a positive class; ``balanced``: misses and false alarms do not differ significantly."""
    found = report.predictions
    if report.positive is None:
        return None
    truly, called = found.labels == report.positive, found.predicted == report.positive
    return {
        "name": found.class_names[report.positive],
        "n": int(truly.sum()),
        "n_others": int((~truly).sum()),
        "misses": int((truly & ~called).sum()),
        "alarms": int((~truly & called).sum()),
        "sensitivity": with_interval(report.metrics.loc["sensitivity"], True),
        "balanced": mcnemar(truly, called, found.units).p >= 1 - report.confidence,
        "said": percent(called.mean()),
        "truly": percent(truly.mean()),
    }


def _worst_class(report: Report) -> dict[str, Any]:
    """The class of the lowest recall, and what it is most often taken for."""
    names, confusion = list(report.predictions.class_names), report.confusion
    support = confusion.sum(axis=1)
    right = pd.Series(np.diag(confusion[names]), index=names)
    name = (right / support.where(support > 0)).dropna().idxmin()
    wrong = confusion.loc[name].drop(name)
    called = {"called": wrong.idxmax(), "n_called": wrong.max()}
    return {"name": name, "n_right": right[name], "n": support[name], **called}


def _answers(found: Predictions) -> dict[str, Any]:
    """``only_answer``, where every image gets the same, and ``never_named``, the classes that occur and are not."""
    named, present = set(found.predicted.tolist()), np.unique(found.labels)
    one = len(named) == 1 and len(present) > 1
    return {
        "only_answer": (*found.class_names, "other classes")[min(named)] if one else "",
        "never_named": [found.class_names[c] for c in present if c not in named],
    }


def _ranking(report: Report) -> str:
    row = report.metrics.loc["AUC"]
    p = report.probabilities if report.positive is None else report.probabilities[:, report.positive]
    if not np.isfinite(row["value"]):
        return "undefined"
    if row["value"] == 1:
        return "perfect" if np.isfinite(row["low"]) else "perfect, no interval"
    if not np.ptp(p, axis=0).any():
        return "constant"
    if not np.isfinite(row["low"]):
        return "too few"
    return "better" if row["low"] > 0.5 else "reversed" if row["high"] < 0.5 else "chance"


def _calibration(report: Report) -> dict[str, Any]:
    row = report.calibration.iloc[0]
    facts = {"ece": f"{row['ECE']:.3f}", "ece_if_calibrated": f"{row['ECE if calibrated']:.3f}"}
    slope = row["slope"]
    if not np.isfinite(slope) or report.positive is None:
        return facts | {"slope": ""}
    # Images of a patient may be copies of each other: as many count as there are patients.
    images_a_unit = len(report.predictions) / report.n_units
    half = stats.norm.ppf((1 + report.confidence) / 2) * row["slope error"] * np.sqrt(images_a_unit)
    low, high = slope - half, slope + half
    kind = "timid" if low > 1 else ""
    if high < 1:
        kind = "extreme" if low > 0 else "extreme or empty" if high >= 0 else "reversed"
    return facts | {"slope": f"{slope:.2f} [{low:.2f} to {high:.2f}]", "slope_kind": kind}


def _rare_class(found: Predictions) -> dict[str, Any] | None:
    """The class with the fewest units, where these are few."""
    counts = {found.class_names[c]: len(np.unique(found.units[found.labels == c])) for c in np.unique(found.labels)}
    name = min(counts, key=lambda name: counts[name])
    return {"name": name, "n": counts[name]} if counts[name] < _FEW and len(counts) > 1 else None
