"""Figures of the evaluation of maps."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xaiutils.plots.style import COLOURS, tidy


def forest(
    summary: pd.DataFrame, metric_titles: Mapping[str, str], chance: Mapping[str, float], controls: Sequence[str]
) -> Figure:
    """Mean and interval of each method (rows) and metric (columns, six in a row), one colour for each model.

    ``summary`` has the columns method, metric, model, mean, low, high. Control maps are grey; a dotted line marks
    ``chance``.
    """
    metrics, methods = list(dict.fromkeys(summary["metric"])), list(dict.fromkeys(summary["method"]))
    models = list(dict.fromkeys(summary["model"]))
    columns = min(len(metrics), 6)
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(2.4 * columns + 1.5, (0.3 * len(methods) + 0.9) * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes in grid[len(metrics) :]:
        axes.set_axis_off()
    for axes, metric in zip(grid, metrics, strict=False):
        for i, model in enumerate(models):
            part = summary[(summary["metric"] == metric) & (summary["model"] == model)].set_index("method")
            shift = (i - (len(models) - 1) / 2) * 0.25
            for row, method in enumerate(methods):
                if method in part.index and np.isfinite(part.loc[method, "mean"]):
                    mean, low, high = part.loc[method, ["mean", "low", "high"]].astype(float)
                    colour = "0.55" if method in controls else COLOURS[i]
                    axes.plot([low, high], [row + shift] * 2, color=colour, linewidth=1.5)
                    axes.plot(mean, row + shift, "os^D"[i % 4], color=colour, markersize=4.5)
        if metric in chance:
            axes.axvline(chance[metric], color="0.4", linestyle=":", linewidth=1)
        axes.set_title(metric_titles[metric], fontsize=9)
        tidy(axes)
    first = figure.axes[0]
    first.set_yticks(np.arange(len(methods)), methods, fontsize=9)
    first.invert_yaxis()
    for i, model in enumerate(models):
        first.plot([], [], "os^D"[i % 4], color=COLOURS[i], label=model)
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=len(models), frameon=False)
    return figure
