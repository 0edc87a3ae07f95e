"""What CheXlocalize reports: mean IoU and hit rate of each finding with intervals, the difference to the human reader,
and the regression on the geometry of the finding (Saporta et al. 2022, Nature Machine Intelligence 4).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xaiutils.datasets import ImageDataset
from xaiutils.datasets.loaders.chexlocalize import OUTLINES
from xaiutils.evaluation.evidence_shape import count_parts, fitted_rectangle
from xaiutils.evaluation.studies.chexlocalize import HUMAN, masked_cases
from xaiutils.statistics.bootstrap import bootstrap_means, percentile_interval
from xaiutils.statistics.regression import regress
from xaiutils.statistics.summaries import UNIT

AVERAGE = "average"  # the label of the rows of the mean over labels
GEOMETRY = ("instances", "area_ratio", "elongation", "irrectangularity")
N_RESAMPLES = 1000  # the authors' number


def localisation_table(
    scores: pd.DataFrame, n_resamples: int = N_RESAMPLES, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Mean of each method, label and metric of ``scores`` (`localisation_scores`, `human_scores`) with its interval.

    The bootstrap draws patients where they are known, else images (the authors: images), the same for all labels,
    methods and the human reader, so that differences are paired. The rows "average" are the mean over labels.

    Returns a row for each metric, method, weights and label: mean, low, high, n (images with a value); human, the
    reader's mean; difference, human minus method, with difference_low and difference_high; decrease, the difference in
    per cent of the human mean, with its interval. NaN where there is no human row, or an interval has no meaning.
    """
    tables = []
    for metric, rows in scores.groupby("metric", sort=False):
        units = [UNIT, "image_id"] if UNIT in rows else ["image_id"]
        wide = rows.pivot(index=units, columns=["method", "weights", "label"], values="value")
        wide = wide[pd.MultiIndex.from_frame(rows[["method", "weights", "label"]].drop_duplicates())]
        values, known = np.nan_to_num(wide.to_numpy(float)), wide.notna().to_numpy().astype(float)
        drawn = wide.index.get_level_values(0).to_numpy()
        with np.errstate(invalid="ignore"):  # a draw without a case of the label
            means = values.sum(axis=0) / known.sum(axis=0)
            sums = bootstrap_means(np.hstack([values, known]), drawn, n_resamples, seed)
            samples = sums[:, : values.shape[1]] / sums[:, values.shape[1] :]
        found = {
            key: (means[i], samples[:, i], int(known[:, i].sum()))
            for i, key in enumerate(wide.columns)
            if known[:, i].any()
        }
        tables.append(_with_human(_with_average(found), confidence).assign(metric=metric))
    table = pd.concat(tables, ignore_index=True)
    return table[["metric", *table.columns.drop("metric")]]


_Found = dict[tuple[str, str, str], tuple[float, np.ndarray, int]]  # mean, samples and images of method, weights, label


def _with_average(found: _Found) -> _Found:
    whole = dict(found)
    for method, weights in dict.fromkeys(key[:2] for key in found):
        own = [one for key, one in found.items() if key[:2] == (method, weights)]
        mean, samples = np.mean([one[0] for one in own]), np.mean([one[1] for one in own], axis=0)
        whole[method, weights, AVERAGE] = float(mean), samples, sum(one[2] for one in own)
    return whole


def _with_human(found: _Found, confidence: float) -> pd.DataFrame:
    reader = {label: one for (method, _, label), one in found.items() if method == HUMAN}
    rows = []
    for (method, weights, label), (mean, samples, n) in found.items():
        low, high = percentile_interval(samples, confidence)
        row = {"method": method, "weights": weights, "label": label, "mean": mean, "low": low, "high": high, "n": n}
        if method != HUMAN and label in reader:
            human, of_human, _ = reader[label]
            row["human"] = human
            row["difference"] = human - mean
            row["difference_low"], row["difference_high"] = percentile_interval(of_human - samples, confidence)
            with np.errstate(divide="ignore", invalid="ignore"):
                row["decrease"] = 100 * (human - mean) / human if human > 0 else np.nan
                decreases = 100 * (of_human - samples) / of_human
            row["decrease_low"], row["decrease_high"] = percentile_interval(decreases, confidence)
        rows.append(row)
    differences = ["human", "difference", "difference_low", "difference_high"]
    columns = ["method", "weights", "label", "mean", "low", "high", "n", *differences]
    return pd.DataFrame(rows, columns=[*columns, "decrease", "decrease_low", "decrease_high"])


# Geometry ---------------------------------------------------------------------------------------------------------


def finding_geometry(ds: ImageDataset, labels: Sequence[str] | None = None) -> pd.DataFrame:
    """Four numbers on each marked finding: columns image_id, label and `GEOMETRY`.

    instances: the outlines that were drawn where the metadata have a column "outlines of LABEL" (overlapping ones count
    apart), else the connected parts of the mask; area_ratio: the part of the image that is marked; elongation: longer
    over shorter side of the smallest rectangle around the largest part; irrectangularity: the part of that rectangle
    that the part leaves empty. The last two are NaN for a part that is a pixel or a line.
    """
    rows = []
    for label in ds.class_names if labels is None else labels:
        cases, masks = masked_cases(ds, label, "positive")
        drawn = cases.metadata.get(f"{OUTLINES}{label}")
        for i, (image_id, mask) in enumerate(zip(cases.ids, masks, strict=True)):
            instances = count_parts(mask) if drawn is None or np.isnan(drawn.iloc[i]) else int(drawn.iloc[i])
            elongation, filled = fitted_rectangle(mask)
            rows.append((image_id, label, instances, float(mask.mean()), elongation, 1 - filled))
    return pd.DataFrame(rows, columns=["image_id", "label", *GEOMETRY])


def regress_on_geometry(
    scores: pd.DataFrame,
    geometry: pd.DataFrame,
    n_resamples: int = N_RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """`regress` of the IoU and the hit of all findings together on each of `GEOMETRY` by itself, scaled to [0, 1] from
    its smallest to its largest value, and of what the human reader has more: metrics "iou" and "hit_rate" of each
    method, and "iou, human minus method" where ``scores`` have a human row.

    ``slope`` is the authors' coefficient: by how much the metric changes from the smallest to the largest value. Their
    intervals and p values are those of the linear model, of which low and high here are the bootstrap's, of
    ``coefficient``, over patients where they are known. Four features: ``confidence=1 - 0.05 / 4`` corrects as they do
    (Bonferroni).
    """
    keys = ["image_id", "label"]
    own, human = scores[scores["method"] != HUMAN], scores[scores["method"] == HUMAN]
    paired = own.merge(human[[*keys, "metric", "value"]], on=[*keys, "metric"], suffixes=("", "_human"))
    gaps = paired.assign(
        value=paired["value_human"] - paired["value"], metric=paired["metric"] + ", human minus method"
    ).drop(columns="value_human")
    scaled = geometry.copy()
    for column in GEOMETRY:
        low, high = geometry[column].min(), geometry[column].max()
        scaled[column] = (geometry[column] - low) / (high - low) if high > low else geometry[column]
    table = pd.concat([own, gaps], ignore_index=True).merge(scaled, on=keys)
    by = ("method", "weights", "metric")
    return regress(table, GEOMETRY, by, n_resamples=n_resamples, confidence=confidence, seed=seed)
