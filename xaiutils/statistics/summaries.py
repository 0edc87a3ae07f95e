"""From one value an image to means with error bars.

Images of one patient are not independent: where a table has a column ``patient_id``, the bootstrap draws patients.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xaiutils.statistics.bootstrap import bootstrap_means, percentiles
from xaiutils.statistics.proportions import proportion_interval

UNIT = "patient_id"


def summarise(
    table: pd.DataFrame, by: Sequence[str] | str, n_resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Mean of ``value`` in each group of ``by`` with an interval over images: percentile bootstrap, or Wilson's
    where all values are 0 or 1 and every image is a unit of its own, or all values agree (a bootstrap of all zeros
    would claim certainty; see `xaiutils.statistics.proportions.proportion_interval`).

    With a column ``patient_id`` the bootstrap draws patients, each with all images; the mean stays that of images.

    Returns a row for each group, in the order of first appearance: the columns ``by``, mean, low, high, n (images with
    a value) and missing (NaN values, left out). The interval is NaN where fewer than two images, or patients, have a
    value. Raises ValueError where a group holds the same maps by several readings (a column ``reading``).
    """
    by = [by] if isinstance(by, str) else list(by)
    check_one_reading(table, by)
    if "image_id" in table and "image_id" not in by and table.duplicated([*by, "image_id"]).any():
        # Several values of an image in a group are one observation: the bootstrap draws images.
        keys = [*by, "image_id", *([UNIT] if UNIT in table else [])]
        table = table.groupby(keys, sort=False, observed=True, dropna=False, as_index=False)["value"].mean()
    rows = []
    for key, group in table.groupby(by, sort=False, observed=True, dropna=False):
        known = group[group["value"].notna()]
        values = known["value"].to_numpy(float)
        units = known[UNIT].to_numpy() if UNIT in table else np.arange(len(values))
        low, high = _interval(values, units, n_resamples, confidence, seed)
        mean = float(values.mean()) if len(values) else np.nan
        rows.append((*key, mean, low, high, len(values), len(group) - len(values)))
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n", "missing"])


def check_one_reading(table: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """The table, if each group of ``by`` has each method by one reading of its maps and of one model's weights; else
    ValueError, for what they say of an image would be averaged."""
    for column, said, pick in (
        ("reading", "by several readings", "of_reading(table, reading)"),
        ("weights", "of several weights", "of_methods(table)"),
    ):
        keys = [c for c in dict.fromkeys([*by, "metric", "method"]) if c in table]
        if column not in table or column in by or not keys:
            continue
        counts = table.groupby(keys, sort=False, observed=True, dropna=False)[column].nunique()
        if (counts > 1).any():
            which, several = (
                ", ".join(map(str, np.atleast_1d(counts.idxmax()))),
                ", ".join(dict.fromkeys(table[column])),
            )
            raise ValueError(
                f"the table has the same maps {said} ({several}), such as of {which}; compare by one: "
                f"xaiutils.evaluation.score_tables.{pick}."
            )
    return table


def summarise_parts(
    table: pd.DataFrame, by: Sequence[str] | str, parts: Sequence[str] = ("correct", "label"), **options
) -> pd.DataFrame:
    """`summarise` of all images and of subsets of them, to be read beside each other.

    ``parts`` are columns that split the images, such as whether the model is right, or the class; one that the table
    lacks is left out. The result has the column ``part`` before those of `summarise` (which takes ``options``): "all",
    then "correct" and "not correct" for a column of that name of True and False, and the values of any other.
    """
    by = [by] if isinstance(by, str) else list(by)
    found = [table.assign(part="all")]
    for column in (name for name in parts if name in table):
        values = table[column]
        if values.dropna().isin((True, False)).all():
            values = values.map({True: column, False: f"not {column}"})
        found += [group.assign(part=str(name)) for name, group in table.groupby(values, sort=False)]
    return summarise(pd.concat(found), ["part", *by], **options)


def as_text(summary: pd.DataFrame, rows: Sequence[str] | str, columns: Sequence[str] | str) -> pd.DataFrame:
    """A `summarise` table for the eye: "mean [low, high]" with a row for each of ``rows`` and a column for each of
    ``columns``, in the order of first appearance; empty where nothing is known."""
    written = [
        f"{mean:.2f}" + (f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else "") if np.isfinite(mean) else ""
        for mean, low, high in summary[["mean", "low", "high"]].to_numpy(float)
    ]
    wide = summary.assign(text=written).pivot_table("text", rows, columns, aggfunc="first", sort=False, observed=True)
    return wide.fillna("")


def _interval(
    values: np.ndarray, units: np.ndarray, n_resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    n_units = len(np.unique(units))
    if n_units < 2:
        return np.nan, np.nan
    binary = bool(np.isin(values, (0, 1)).all())
    if binary and n_units == len(values):
        return proportion_interval(values == 1, units, None, confidence)
    means = bootstrap_means(values[:, None], units, n_resamples, seed)[:, 0]
    if binary:
        return proportion_interval(values == 1, units, means, confidence)
    low, high = percentiles(means, confidence)
    return float(low), float(high)
