"""Several models and the baselines in one table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from xaiutils.classification.report import Report
from xaiutils.statistics.formatting import with_interval


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
        text[metric] = [with_interval(row) if np.isfinite(row["value"]) else "" for _, row in ends.iterrows()]
    return text
