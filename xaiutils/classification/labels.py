"""How well a classifier of several labels at once does: each label as a classifier of two classes, and their means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from xaiutils.classification.assess import assess
from xaiutils.classification.curves import PositiveRanks, youden_threshold
from xaiutils.classification.predictions import Predictions
from xaiutils.classification.report import Report
from xaiutils.statistics.bootstrap import bootstrap_means, percentile_interval, replicates
from xaiutils.statistics.formatting import with_interval
from xaiutils.statistics.proportions import proportion_interval
from xaiutils.text import counted

_AREAS = ("AUC", "average precision")


@dataclass(frozen=True)
class LabelPredictions:
    """What a classifier said of images that may have several labels each.

    Attributes:
        labels: int8 ``(n, n_labels)`` of 1 (present), 0 (absent) and -1 (unknown: counts for nothing).
        probabilities: float ``(n, n_labels)`` in [0, 1], each by itself.
        label_names, groups, ids: as of `Predictions`, whose ``groups["patient"]`` is the unit of the bootstrap.

    Raises:
        ValueError: shapes disagree, or the probabilities are none; of several labels also where each row sums to one,
            which says that the model's answer is one class for each image.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    label_names: tuple[str, ...]
    groups: Mapping[str, Sequence[str] | np.ndarray] = field(default_factory=dict)
    ids: Sequence[str] | None = None

    def __post_init__(self) -> None:
        labels, p = np.asarray(self.labels), np.asarray(self.probabilities, float)
        expected = (len(labels), len(self.label_names))
        if labels.shape != expected or p.shape != expected or not len(labels):
            raise ValueError(
                f"labels and probabilities must both be (n, {len(self.label_names)}), for {', '.join(self.label_names)}"
                f"; got {labels.shape} and {p.shape}."
            )
        if not np.isin(labels, (-1, 0, 1)).all():
            raise ValueError("labels must be 1 (present), 0 (absent) or -1 (unknown).")
        if not (p.min() >= -1e-6 and p.max() <= 1 + 1e-6):  # true for NaN too
            raise ValueError("probabilities must lie in [0, 1]: give a sigmoid's answers, not logits.")
        if p.shape[1] > 1 and np.abs(p.sum(axis=1) - 1).max() < 1e-3:
            raise ValueError(
                "the probabilities of each image sum to one: this model names one class for each image. Give one with "
                "a sigmoid for each label, or say of raw logits that they are: xaiutils.wrap(model, head='sigmoid')."
            )
        object.__setattr__(self, "labels", labels.astype(np.int8))
        object.__setattr__(self, "probabilities", np.clip(p, 0, 1))

    def of_label(self, name: str) -> Predictions | None:
        """One label as two classes, "no NAME" and "NAME", of the images in which it is known; None without any."""
        column = self.label_names.index(name)
        known = np.flatnonzero(self.labels[:, column] >= 0)
        if not len(known):
            return None
        p = self.probabilities[known, column]
        groups = {level: np.asarray(members)[known] for level, members in self.groups.items()}
        ids = None if self.ids is None else [str(name) for name in np.asarray(self.ids)[known]]
        names = (f"no {name}", name)
        return Predictions(self.labels[known, column], np.stack([1 - p, p], axis=1), names, groups, ids)

    @property
    def units(self) -> np.ndarray:
        """The number of each image's patient, or of the image, int64 ``(n,)``."""
        return pd.factorize(np.asarray(self.groups.get("patient", np.arange(len(self.labels)))))[0]


@dataclass(frozen=True)
class LabelReport:
    """How a classifier of several labels does on one split.

    Attributes:
        name, split: of the model and of the data.
        predictions: what it is computed from.
        reports: the whole `Report` of each label that is known of some image, with its curves, calibration and
            coarser levels; by the label's name.
        table: a row for each label: positive, negative, unknown (images); AUC and average precision with "... low" and
            "... high", NaN where all are of one kind; threshold (Youden 1950, Cancer 3: where sensitivity plus
            specificity is largest) and on which images it was chosen; sensitivity and specificity at it, with
            intervals.
        averages: AUC and average precision with intervals, "macro average" (mean over labels of which there are both
            kinds) and "micro average" (all pairs of image and label in one), and over how many labels.
        confidence, n_resamples, seed: of the intervals; patients are drawn where they are known.
        notes: what could not be measured, and why.
    """

    name: str
    split: str
    predictions: LabelPredictions
    reports: Mapping[str, Report]
    table: pd.DataFrame
    averages: pd.DataFrame
    confidence: float
    n_resamples: int
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """The result in plain words."""
        ranked = self.table["AUC"].dropna()
        if ranked.empty:
            return "No label is present in some images and absent in others: nothing can be said."
        above = int((self.table["AUC low"] > 0.5).sum())
        macro = with_interval(_row(self.averages.loc["macro average"], "AUC"))
        lowest = ranked.idxmin()
        return (
            f"The mean AUC of {counted(len(ranked), 'label')} is {macro}; {above} of them "
            f"{'is' if above == 1 else 'are'} told better than by chance. The lowest is that of '{lowest}': "
            f"{with_interval(_row(self.table.loc[lowest], 'AUC'))}. {' '.join(self.notes)}"
        ).strip()

    def as_text(self) -> pd.DataFrame:
        """``table`` and ``averages`` for the eye: "0.72 [0.61 to 0.80]"."""
        columns = [*_AREAS, "sensitivity", "specificity"]
        whole = pd.concat([self.table, self.averages])
        shown = whole[["positive", "negative", "unknown"]].map(lambda v: "" if v != v else f"{v:.0f}")
        for name in columns:
            texts = [with_interval(_row(row, name)) if row[name] == row[name] else "" for _, row in whole.iterrows()]
            shown[name] = texts
        return shown


def _row(row: pd.Series, name: str) -> pd.Series:
    return pd.Series({"value": row[name], "low": row[f"{name} low"], "high": row[f"{name} high"]})


def assess_labels(
    predictions: LabelPredictions,
    validation: LabelPredictions | None = None,
    combine: str = "max",
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    name: str = "model",
    split: str = "test",
) -> LabelReport:
    """Report on ``predictions`` of several labels, each as `assess` reports on two classes.

    ``validation``: of other images, on which thresholds are chosen; without them, or without both kinds of a label
    among them, they are chosen on the judged images, and said to be optimistic. ``combine``, ``n_resamples``,
    ``confidence``, ``seed``, ``name`` and ``split`` are those of `assess`.

    Raises ValueError where an argument is out of range, or the labels of ``validation`` differ.
    """
    names = predictions.label_names
    if validation is not None and validation.label_names != names:
        raise ValueError(f"validation has the labels {validation.label_names}, not {names}.")
    reports, rows, notes = {}, {}, []
    for label in names:
        found = predictions.of_label(label)
        column = predictions.labels[:, names.index(label)]
        row: dict[str, object] = {w: int((column == y).sum()) for w, y in _COUNTS.items()}
        if found is None:
            notes.append(f"'{label}' is known of no image.")
        else:
            tuned = None if validation is None else validation.of_label(label)
            reports[label] = assess(found, tuned, 1, combine, n_resamples, confidence, seed, f"{name}: {label}", split)
            for area in _AREAS:
                row |= _columns(area, *reports[label].metrics.loc[area, ["value", "low", "high"]])
            if 0 < found.labels.sum() < len(found):
                row |= _at_threshold(found, tuned, n_resamples, confidence, seed)
            else:
                notes.append(f"All images are '{found.class_names[found.labels[0]]}': '{label}' has no AUC.")
        rows[label] = row
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=_COLUMNS)
    if (optimistic := table["chosen on"].eq(_ON_THESE)).any():
        who = "Thresholds" if optimistic.sum() == len(table) else f"Thresholds of {', '.join(table.index[optimistic])}"
        notes.append(f"{who} are chosen on the judged images: sensitivity and specificity are optimistic.")
    averages = _averages(predictions, table, n_resamples, confidence, seed)
    notes = [*_of_ranking(table, reports), *notes, *_without_interval(table, averages)]
    return LabelReport(name, split, predictions, reports, table, averages, confidence, n_resamples, seed, tuple(notes))


_COUNTS = {"positive": 1, "negative": 0, "unknown": -1}
_ON_THESE = "these images (optimistic)"


def _columns(name: str, value: float, low: float, high: float) -> dict[str, object]:
    return {name: float(value), f"{name} low": float(low), f"{name} high": float(high)}


_COLUMNS = [
    *_COUNTS,
    *(c for area in _AREAS for c in _columns(area, 0, 0, 0)),
    "threshold",
    "chosen on",
    *(c for rate in ("sensitivity", "specificity") for c in _columns(rate, 0, 0, 0)),
]


def _at_threshold(
    found: Predictions, validation: Predictions | None, n_resamples: int, confidence: float, seed: int
) -> dict[str, object]:
    """The threshold, on which images it was chosen, and sensitivity and specificity at it."""
    tuned = validation is not None and 0 < validation.labels.sum() < len(validation)
    source = validation if validation is not None and tuned else found
    threshold = youden_threshold(source.labels == 1, source.probabilities[:, 1])
    row: dict[str, object] = {"threshold": threshold, "chosen on": "validation" if tuned else _ON_THESE}
    called = found.probabilities[:, 1] >= threshold
    for rate, hits, among in (
        ("sensitivity", called, found.labels == 1),
        ("specificity", ~called, found.labels == 0),
    ):
        hits, units = hits[among], found.units[among]
        means = bootstrap_means(hits[:, None].astype(float), units, n_resamples, seed)[:, 0]
        row |= _columns(rate, hits.mean(), *proportion_interval(hits, units, means, confidence))
    return row


def _of_ranking(table: pd.DataFrame, reports: Mapping[str, Report]) -> list[str]:
    """The labels that are told by chance at most, in words."""
    said = []
    for label, row in table[table["AUC"] <= 0.5].iterrows():
        auc = f"(AUC {with_interval(_row(row, 'AUC'))})"
        if not np.ptp(reports[str(label)].predictions.probabilities):
            said.append(f"'{label}' has one probability for all images, which ranks nothing.")
        elif row["AUC high"] < 0.5:
            said.append(f"'{label}' is told the wrong way round {auc}: images without it score higher. Is the model's "
                        "output another label, or its absence?")  # fmt: skip
        else:
            said.append(f"'{label}' is told no better than by chance {auc}.")
    return said


def _without_interval(table: pd.DataFrame, averages: pd.DataFrame) -> list[str]:
    """Why macro averages have no interval, in words."""
    said: dict[tuple[str, ...], list[str]] = {}
    for area in _AREAS:
        unknown = tuple(f"'{name}'" for name in table.index[table[area].notna() & table[f"{area} low"].isna()])
        if unknown and np.isnan(averages.loc["macro average", f"{area} low"]):
            said.setdefault(unknown, []).append(area)
    return [f"The macro average of {' and '.join(areas)} has no interval, as that of {', '.join(names)} has none: all "
            "draws agree, or too few images show it." for names, areas in said.items()]  # fmt: skip


def _averages(
    predictions: LabelPredictions, table: pd.DataFrame, n_resamples: int, confidence: float, seed: int
) -> pd.DataFrame:
    """`LabelReport.averages`: all labels are resampled together, patient by patient."""
    units = predictions.units
    once = _areas(predictions, np.ones((len(units), 1), np.int32))
    blocks = [_areas(predictions, w) for w in replicates(units, n_resamples, seed, predictions.labels.size)]
    rows: dict[str, dict[str, object]] = {}
    for (average, area), value in once.items():
        samples = np.concatenate([block[average, area] for block in blocks])
        interval = percentile_interval(samples, confidence)
        if average == "macro average":
            interval = _macro_interval(area, float(value[0]), interval, table.dropna(subset=[area]))
        rows.setdefault(average, {}).update(_columns(area, float(value[0]), *interval))
    both = ((predictions.labels == 1).any(axis=0) & (predictions.labels == 0).any(axis=0)).sum()
    return pd.DataFrame.from_dict(rows, orient="index").assign(labels=int(both))


def _macro_interval(area: str, value: float, drawn: tuple[float, float], each: pd.DataFrame) -> tuple[float, float]:
    """The interval of a mean over labels, ``each`` a row of the table; NaN where a label has none.

    An AUC of 1 (or 0) is the same in all draws, which know nothing of its error: to what was ``drawn`` the mean of
    these AUCs adds its own bound. It is that of the label of fewest images: a lower mean has a label with a lower AUC.
    """
    if each[f"{area} low"].isna().any():
        return np.nan, np.nan
    if area != "AUC" or each.empty:
        return drawn
    low, high = (value, value) if each[area].isin((0, 1)).all() else drawn
    ones, zeros = each[each[area] == 1], each[each[area] == 0]
    below = (1 - ones["AUC low"]).max() * len(ones) / len(each) if len(ones) else 0
    above = zeros["AUC high"].max() * len(zeros) / len(each) if len(zeros) else 0
    return low - below, high + above


def _areas(predictions: LabelPredictions, weights: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Macro and micro averages of both areas for weights ``(n, b)`` of the images, each ``(b,)``."""
    labels, p = predictions.labels, predictions.probabilities
    image, column = np.nonzero(labels >= 0)
    positive, scores = labels[image, column] == 1, p[image, column]
    pooled = PositiveRanks.of(positive, scores, weights[image])
    each = [PositiveRanks.of(positive[column == c], scores[column == c], weights[image[column == c]])
            for c in range(labels.shape[1]) if 0 < positive[column == c].sum() < (column == c).sum()]  # fmt: skip
    nothing = np.full(weights.shape[1], np.nan)
    found = {}
    for area, of in (("AUC", PositiveRanks.auc), ("average precision", PositiveRanks.average_precision)):
        # A replicate without any positive of a label has no macro average.
        found["macro average", area] = np.mean([of(ranks) for ranks in each], axis=0) if each else nothing
        found["micro average", area] = of(pooled)
    return found
