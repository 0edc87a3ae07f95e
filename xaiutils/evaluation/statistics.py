"""From one value an image to means with error bars."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats


def summarise(
    table: pd.DataFrame, by: Sequence[str] | str, n_resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Mean of ``value`` in each group of ``by`` with an interval over images: percentile bootstrap, or Wilson's
    where all values are 0 or 1 (a bootstrap of all zeros would claim certainty).

    Returns a row a group, in the order of first appearance: the columns ``by``, mean, low, high, n (images with a
    value) and missing (NaN values, left out). The interval is NaN where fewer than two images have a value.
    """
    by = [by] if isinstance(by, str) else list(by)
    if "image_id" in table and "image_id" not in by and table.duplicated([*by, "image_id"]).any():
        # Several values of an image in a group are one observation: images are what is drawn anew.
        table = table.groupby([*by, "image_id"], sort=False, observed=True, dropna=False, as_index=False)[
            "value"
        ].mean()
    rows = []
    for key, group in table.groupby(by, sort=False, observed=True, dropna=False):
        values = group["value"].dropna().to_numpy(float)
        low = high = np.nan
        if len(values) > 1 and np.isin(values, (0, 1)).all():
            interval = stats.binomtest(int(values.sum()), len(values)).proportion_ci(confidence, method="wilson")
            low, high = float(interval.low), float(interval.high)
        elif len(values) > 1:
            rng = np.random.default_rng(seed)
            interval = stats.bootstrap(
                (values,),
                np.mean,
                n_resamples=n_resamples,
                confidence_level=confidence,
                method="percentile",
                rng=rng,
            ).confidence_interval
            low, high = float(interval.low), float(interval.high)
        mean = float(values.mean()) if len(values) else np.nan
        rows.append((*key, mean, low, high, len(values), len(group) - len(values)))
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n", "missing"])
