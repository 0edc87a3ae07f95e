"""How well a classifier does: everything that accuracy alone would hide, per image and per patient."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from xaiutils.class_names import positive_class
from xaiutils.classification import calibration, curves
from xaiutils.classification.predictions import COMBINE, Predictions
from xaiutils.classification.scores import class_scores, confusion_counts, overall_scores
from xaiutils.classification.verdict import beats_majority, interval, score, sentences
from xaiutils.statistics.bootstrap import percentile_interval, replicates
from xaiutils.statistics.delong import auc_interval
from xaiutils.statistics.proportions import balanced_accuracy_interval, better_than_guessing, proportion_interval

_LEAST_RESAMPLES = 1000
_OPTIMISTIC = "these images (optimistic)"


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
        return next(iter(_events(self.predictions, self.positive, self.probabilities).values()))

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
        """Whether balanced accuracy is above that of guessing, by its interval and by `resampling.better_than_guessing`
        (few images of many classes are too few for the interval): accuracy alone is fooled by class imbalance."""
        found, row = self.predictions, self.metrics.loc["balanced accuracy"]
        correct = found.predicted == found.labels
        return bool(row["low"] > row["random"]) and better_than_guessing(
            found.labels, correct, found.units, self.confidence, seed=self.seed
        )

    @property
    def beats_majority(self) -> bool:
        """Whether it is right more often than always naming the largest class, by more than chance."""
        return beats_majority(self.predictions, self.confidence)[0]

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """The verdict in plain words, the most important first."""
        return sentences(self)

    @property
    def verdict(self) -> str:
        """`sentences` as one text."""
        return " ".join(self.sentences)


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
        positive: class that is looked for, by name or number. Default: of two classes the one whose name speaks of
            disease, or is left when the other's speaks against it, else the last, which the report says; of more, none,
            and then there are no operating points and no decision curve.
        combine: how a group's probability is made of its images', "max" or "mean"; see `Predictions.per`.
        n_resamples: of the bootstrap, at least 1000.
        confidence: of all intervals. Proportions (accuracy, recall, precision, sensitivity, specificity) have
            Wilson's interval where images are the units, balanced accuracy
            `resampling.balanced_accuracy_interval`, all else percentiles of the bootstrap over units.
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
    settings = (chosen, n_resamples, confidence, seed, name, split, said)
    levels, notes = {}, []
    for level in predictions.groups:
        if len(set(predictions.groups[level])) == len(predictions):
            notes.append(f"Each {level} has one image: per {level} is per image.")
            continue
        try:
            coarse = predictions.per(level, chosen, combine)
        except ValueError as reason:
            notes.append(f"Per {level} nothing is given: {reason}")
            continue
        known = validation is not None and level in validation.groups
        levels[level] = _assess(coarse, _or_none(validation, level, chosen, combine) if known else None, *settings)
    return _assess(predictions, validation, *settings, levels=levels, notes=notes)


def results_table(reports: Mapping[str, Report], as_text: bool = False) -> pd.DataFrame:
    """All models and the two baselines in one table, level by level: columns level, model, n and the figures of merit.

    With numbers, each figure has its columns "... low" and "... high"; ``as_text`` writes "0.72 [0.61 to 0.80]".
    The models must have been given the same images.
    """
    parts = []
    for level in dict.fromkeys(name for r in reports.values() for name in (r.level, *r.levels)):
        of_level = {name: r if r.level == level else r.levels.get(level) for name, r in reports.items()}
        shown = [r.table.assign(model=[name, *r.baseline_names]) for name, r in of_level.items() if r is not None]
        parts += [table.iloc[:1] for table in shown] + [shown[0].iloc[1:]]
    table = pd.concat(parts, ignore_index=True)
    table = table[["level", "model", *table.columns.drop(["level", "model"])]]
    if not as_text:
        return table
    metrics = [c for c in table.columns if f"{c} low" in table.columns]
    text = table[["level", "model", "n"]].copy()
    for metric in metrics:
        ends = table[[metric, f"{metric} low", f"{metric} high"]].set_axis(["value", "low", "high"], axis=1)
        text[metric] = [
            f"{score(r['value'])}{interval(r)}" if r["value"] == r["value"] else "" for _, r in ends.iterrows()
        ]
    return text


def _or_none(validation: Predictions, level: str, positive: int | None, combine: str) -> Predictions | None:
    try:
        return validation.per(level, positive, combine)
    except ValueError:  # a group of several classes: the level cannot be used there
        return None


def _assess(
    found: Predictions,
    validation: Predictions | None,
    positive: int | None,
    n_resamples: int,
    confidence: float,
    seed: int,
    name: str,
    split: str,
    positive_said: str,
    levels: Mapping[str, Report] | None = None,
    notes: list[str] | None = None,
) -> Report:
    notes = list(notes or [])
    names, k = found.class_names, len(found.class_names)
    counts = np.bincount(found.labels, minlength=k)
    two_sided = positive is not None and 0 < counts[positive] < len(found)
    if found.probabilities.shape[1] > k:
        more = found.probabilities.shape[1] - k
        other = int((found.predicted == k).sum())
        notes.append(
            f"The model knows {more} more class{'es' if more > 1 else ''} than the data: {other} of {len(found)} "
            "answers name one and count as wrong."
        )
    if (counts > 0).sum() == 1:
        notes.append(f"All are '{names[counts.argmax()]}': AUC, average precision and thresholds have no meaning.")
    elif missing := [n for n, c in zip(names, counts, strict=True) if c == 0]:
        notes.append(f"No {found.level} is {_listed(missing)}: means are over the other classes.")
    points = _thresholds(found, validation, positive, notes) if two_sided else []
    once = np.ones((len(found), 1), np.int32)
    value = _scores(found, positive, points, once)
    blocks = [_scores(found, positive, points, w) for w in replicates(found.units, n_resamples, seed, k * (k + 1))]
    samples = {key: np.concatenate([b[key] for b in blocks], axis=-1) for key in value}
    intervals = _Intervals(found, value, samples, confidence, seed)
    temperature = np.nan
    if validation is not None:
        temperature = calibration.fit_temperature(validation.labels, validation.probabilities)
        if not np.isfinite(temperature):
            notes.append(
                "The validation images fix no temperature: all are answered right, or the most likely one is extreme."
            )
    table, bins = _calibration(found, positive, temperature, confidence, seed)
    decision = None
    if two_sided:
        decision = curves.decision_curve(found.labels == positive, found.probabilities[:, positive].astype(float))
    return Report(
        name,
        split,
        found,
        positive,
        _metrics(found, positive, value, intervals),
        _classes(found, value),
        _class_intervals(found, value, intervals),
        _confusion(found),
        _operating_points(found, positive, points, value, intervals) if two_sided else None,
        table,
        bins,
        temperature,
        decision,
        confidence,
        n_resamples,
        seed,
        levels or {},
        tuple(notes),
        positive_said,
    )


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{n}'" for n in names[:5]) + (
        f" or {len(names) - 5} more class{'es' if len(names) > 6 else ''}" if len(names) > 5 else ""
    )


def _confusion(found: Predictions) -> pd.DataFrame:
    names = list(found.class_names)
    counts = confusion_counts(found.labels, found.predicted, len(names), np.ones((len(found), 1), np.int32))[..., 0]
    columns = [*names, "(other classes)"]
    table = pd.DataFrame(counts.astype(np.int64), index=names, columns=columns)
    return table if found.probabilities.shape[1] > len(names) else table[names]


def _thresholds(found, validation, positive, notes) -> list[tuple[str, float, float, str]]:
    """Of each screening target: what is held, its target, the threshold, and where that was chosen."""
    source, where = found, _OPTIMISTIC
    if validation is not None:
        both = 0 < (validation.labels == positive).sum() < len(validation)
        source, where = (validation, "validation") if both else (found, _OPTIMISTIC)
        if not both:
            notes.append("The validation images are of one class: thresholds are chosen on the judged images.")
    scores = source.probabilities[:, positive].astype(float)
    return [
        (what, target, curves.choose_threshold(source.labels == positive, scores, what, target), where)
        for what, target in curves.SCREENING.items()
    ]


def _scores(found: Predictions, positive: int | None, points: list, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that has an interval: ``(b,)`` of the whole, ``(classes, b)`` of classes (keys "class ...")."""
    labels, p, k = found.labels, found.probabilities.astype(float), len(found.class_names)
    counts = confusion_counts(labels, found.predicted, k, weights)
    by_class = class_scores(counts)
    result = overall_scores(counts) | {f"class {key}": v for key, v in by_class.items()}
    auc = np.full((k, weights.shape[1]), np.nan)
    precision = auc.copy()
    for c in range(k):
        is_c = labels == c
        if not is_c.any() or is_c.all():
            continue
        ranks = curves.PositiveRanks.of(is_c, p[:, c], weights)
        auc[c], precision[c] = ranks.auc(), ranks.average_precision()
        if c == positive:
            result |= _at_points(is_c, p[:, c], points, weights, ranks)
    result |= {"class AUC": auc, "class average precision": precision}
    if positive is None:
        result |= {"AUC": _nan_mean(auc), "average precision": _nan_mean(precision)}
    else:
        result |= {"AUC": auc[positive], "average precision": precision[positive]}
        called = found.predicted == positive
        result["sensitivity"] = by_class["recall"][positive]
        result["specificity"] = _part(~called, labels != positive, weights)
    result["Brier"] = (_squared_errors(found, positive) @ weights) / weights.sum(axis=0)
    return result


def _squared_errors(found: Predictions, positive: int | None) -> np.ndarray:
    p = found.probabilities.astype(float)
    if len(found.class_names) == 2 and positive is not None:
        return (p[:, positive] - (found.labels == positive)) ** 2
    return ((p - (found.labels[:, None] == np.arange(p.shape[1]))) ** 2).sum(axis=1)


def _at_points(is_positive, scores, points, weights, ranks) -> dict[str, np.ndarray]:
    """Of each threshold the four proportions; one chosen on these very images is chosen anew in each replicate."""
    result = {}
    for what, target, threshold, where in points:
        called = scores >= threshold
        key = f"{what} {target}"
        result[f"{key} sensitivity"] = _part(called, is_positive, weights)
        result[f"{key} specificity"] = _part(~called, ~is_positive, weights)
        result[f"{key} PPV"] = _part(is_positive, called, weights)
        result[f"{key} NPV"] = _part(~is_positive, ~called, weights)
        if where == _OPTIMISTIC:
            if what == "specificity":
                result[f"{key} sensitivity"] = ranks.sensitivity_at(target)
            else:
                result[f"{key} specificity"] = ranks.specificity_at(target)
    return result


def _part(hits: np.ndarray, among: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted part of ``hits`` within ``among``, ``(b,)``; NaN of none."""
    whole = weights[among].sum(axis=0)
    return np.divide(weights[among & hits].sum(axis=0), whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _nan_mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    n = known.sum(axis=0)
    return np.divide(np.where(known, values, 0).sum(axis=0), n, out=np.full(len(n), np.nan), where=n > 0)


class _Intervals:
    """The interval that suits each figure of merit."""

    def __init__(self, found: Predictions, value: dict, samples: dict, confidence: float, seed: int):
        self.found, self.value, self.samples, self.confidence, self.seed = found, value, samples, confidence, seed
        self.units = found.units

    def whole(self, key: str, positive: int | None) -> tuple[float, float]:
        labels, predicted = self.found.labels, self.found.predicted
        if key == "accuracy":
            return self.proportion(predicted == labels, np.ones(len(labels), bool), key)
        if key == "balanced accuracy":
            return balanced_accuracy_interval(labels, predicted == labels, self.units, self.confidence)
        if key == "sensitivity":
            return self.proportion(predicted == positive, labels == positive, key)
        if key == "specificity":
            return self.proportion(predicted != positive, labels != positive, key)
        if key == "AUC" and positive is not None:
            return self.auc(positive, self.value[key][0], self.samples[key])
        return percentile_interval(self.samples[key], self.confidence)

    def auc(self, c: int, value: float, samples: np.ndarray) -> tuple[float, float]:
        if not np.isfinite(value):
            return np.nan, np.nan
        is_c = self.found.labels == c
        units = len(np.unique(self.units[is_c])), len(np.unique(self.units[~is_c]))
        return auc_interval(value, samples, *units, self.confidence)

    def proportion(self, hits: np.ndarray, among: np.ndarray, samples: str | np.ndarray) -> tuple[float, float]:
        drawn = self.samples[samples] if isinstance(samples, str) else samples
        return proportion_interval(hits[among], self.units[among], drawn, self.confidence)


def _metrics(found: Predictions, positive: int | None, value: dict, intervals: _Intervals) -> pd.DataFrame:
    part = np.bincount(found.labels, minlength=len(found.class_names)) / len(found)
    present, top = int((part > 0).sum()), float(part.max())
    even, agreement = 1 / present, float((part**2).sum())
    two = len(part) == 2 and positive is not None
    ranked = present > 1 and (positive is None or 0 < part[positive] < 1)
    share = even if positive is None else float(part[positive])
    counts = np.bincount(found.labels, minlength=len(part))
    chosen = counts[counts > 0] if positive is None else counts[[positive]]
    lucky = float(np.mean([curves.random_average_precision(int(n), len(found)) for n in chosen]))
    baselines = {
        "accuracy": (top, agreement),
        "balanced accuracy": (even, even),
        "macro F1": (2 * top / (1 + top) / present, even),
        "MCC": (0.0, 0.0),
        "kappa": (0.0, 0.0) if present > 1 else (np.nan, np.nan),
        "AUC": (0.5, 0.5) if ranked else (np.nan, np.nan),
        "average precision": (share, lucky) if ranked else (np.nan, np.nan),
        "Brier": (1 - top, 1 - agreement) if two else (2 * (1 - top), 2 * (1 - agreement)),
    }
    if positive is not None:
        named = float(part.argmax() == positive)
        has, lacks = part[positive] > 0, part[positive] < 1
        baselines["sensitivity"] = (named, share) if has else (np.nan, np.nan)
        baselines["specificity"] = (1 - named, 1 - share) if lacks else (np.nan, np.nan)
    rows = {key: (value[key][0], *intervals.whole(key, positive), *base) for key, base in baselines.items()}
    return pd.DataFrame.from_dict(rows, "index", columns=["value", "low", "high", "majority", "random"])


def _classes(found: Predictions, value: dict) -> pd.DataFrame:
    table = pd.DataFrame(
        {key: value[f"class {key}"][:, 0] for key in ("precision", "recall", "F1", "support")},
        index=list(found.class_names),
    )
    counts = table["support"].to_numpy()
    part = counts / counts.sum()
    named = np.bincount(found.predicted, minlength=len(part) + 1)[: len(part)]
    always = np.zeros((len(part), 3))
    always[part.argmax()] = part.max(), 1, 2 * part.max() / (1 + part.max())
    random = np.repeat(part[:, None], 3, axis=1)
    shown = table[["precision", "recall", "F1"]].fillna(0).to_numpy()
    rows = {
        "macro average": shown[(counts > 0) | (named > 0)].mean(axis=0),
        "weighted average": part @ shown,
        "macro average, majority": always[counts > 0].mean(axis=0),
        "weighted average, majority": part @ always,
        "macro average, random": random[counts > 0].mean(axis=0),
        "weighted average, random": part @ random,
    }
    averages = pd.DataFrame.from_dict(rows, "index", columns=["precision", "recall", "F1"])
    averages["support"] = counts.sum()
    return pd.concat([table, averages]).astype({"support": np.int64})


def _class_intervals(found: Predictions, value: dict, intervals: _Intervals) -> pd.DataFrame:
    rows = []
    for c, name in enumerate(found.class_names):
        truly, named = found.labels == c, found.predicted == c
        row: dict[str, object] = {"class": name}
        row["precision low"], row["precision high"] = intervals.proportion(
            truly, named, intervals.samples["class precision"][c]
        )
        row["recall low"], row["recall high"] = intervals.proportion(named, truly, intervals.samples["class recall"][c])
        row["F1 low"], row["F1 high"] = percentile_interval(intervals.samples["class F1"][c], intervals.confidence)
        row["AUC"] = value["class AUC"][c, 0]
        row["AUC low"], row["AUC high"] = intervals.auc(c, row["AUC"], intervals.samples["class AUC"][c])
        row["average precision"] = value["class average precision"][c, 0]
        row["average precision low"], row["average precision high"] = percentile_interval(
            intervals.samples["class average precision"][c], intervals.confidence
        )
        row["average precision of chance"] = curves.random_average_precision(int(truly.sum()), len(truly))
        rows.append(row)
    return pd.DataFrame(rows).set_index("class")


def _operating_points(found, positive, points, value, intervals: _Intervals) -> pd.DataFrame:
    truly, scores = found.labels == positive, found.probabilities[:, positive].astype(float)
    rows = []
    for what, target, threshold, where in points:
        called, key = scores >= threshold, f"{what} {target}"
        row = {"held": what, "target": target, "threshold": threshold, "chosen on": where}
        cases = {
            "sensitivity": (called, truly),
            "specificity": (~called, ~truly),
            "PPV": (truly, called),
            "NPV": (~truly, ~called),
        }
        for name, (hits, among) in cases.items():
            samples = intervals.samples[f"{key} {name}"]
            row[name] = value[f"{key} {name}"][0]
            chosen_anew = where == _OPTIMISTIC and name in curves.SCREENING and name != what
            low, high = percentile_interval(samples, intervals.confidence) if chosen_anew else (np.nan, np.nan)
            if not np.isfinite(low):
                low, high = intervals.proportion(hits, among, samples)
            row[f"{name} low"], row[f"{name} high"] = low, high
        # Random answers that are as specific (or sensitive) as the target.
        row["random sensitivity"] = 1 - target if what == "specificity" else target
        row["random specificity"] = target if what == "specificity" else 1 - target
        rows.append(row)
    return pd.DataFrame(rows)


def _events(
    found: Predictions, positive: int | None, probabilities: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What is stated with a probability: the positive of two classes, or the top class, then each."""
    p, names = probabilities.astype(float), [f"'{name}'" for name in found.class_names]
    each = {name: (found.labels == c, p[:, c]) for c, name in enumerate(names)}
    if positive is not None and len(names) == 2:
        return {names[positive]: each[names[positive]]}
    return {"the top class": (found.predicted == found.labels, p.max(axis=1)), **each}


def _calibration(found, positive, temperature, confidence, seed) -> tuple[pd.DataFrame, pd.DataFrame]:
    stated = _events(found, positive, found.probabilities)
    rows = {f"probability of {name}": calibration.calibration_row(*event, seed=seed) for name, event in stated.items()}
    if np.isfinite(temperature):
        scaled = _events(found, positive, calibration.apply_temperature(found.probabilities, temperature))
        name, event = next(iter(scaled.items()))
        rows[f"probability of {name}, temperature {temperature:.3g}"] = calibration.calibration_row(*event, seed=seed)
    y, p = next(iter(stated.values()))
    rows["always its frequency"] = calibration.calibration_row(y, np.full(len(y), y.mean()), seed=seed)
    return pd.DataFrame.from_dict(rows, "index"), calibration.reliability_table(y, p, confidence=confidence)
