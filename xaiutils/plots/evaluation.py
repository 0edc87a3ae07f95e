"""Figures of the evaluation of maps."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xaiutils.evaluation.score_tables import of_random_weights, without_random_weights
from xaiutils.plots.style import COLOURS, legend_below, panels, tidy
from xaiutils.text import drawn

_WIDTH = 0.8  # of a row's models beside each other


def forest(
    summary: pd.DataFrame,
    metric_titles: Mapping[str, str],
    chance: Mapping[str, float],
    controls: Sequence[str],
    images: pd.DataFrame | None = None,
) -> Figure:
    """Mean and interval of each method (rows) and metric (columns, four in a row), one colour for each model.

    ``summary`` has the columns method, metric, model, mean, low, high, and weights where there are maps of random
    weights (`xaiutils.evaluation.score_tables`): these are hollow grey marks in the row of their method. Control maps
    are grey; a dotted line marks ``chance``. ``images``, columns method, metric, model and value, adds a dot for each
    image.
    """
    metrics, methods = list(dict.fromkeys(summary["metric"])), list(dict.fromkeys(summary["method"]))
    random, others = of_random_weights(summary), without_random_weights(summary)
    models = list(dict.fromkeys(summary["model"]))
    figure, grid = panels(len(metrics), 4, (2.0, 0.3 * len(methods) + 0.9), (1.5, 0.4), sharey=True)
    for axes, metric in zip(grid, metrics, strict=True):
        if images is not None:
            _strip(axes, without_random_weights(images[images["metric"] == metric]), methods, models)
        for i, model in enumerate(models):
            shift = (i - (len(models) - 1) / 2) * _WIDTH / len(models)
            for hollow, rows in ((True, random), (False, others)):
                part = rows[(rows["metric"] == metric) & (rows["model"] == model) & np.isfinite(rows["mean"])]
                for name, mean, low, high in part[["method", "mean", "low", "high"]].itertuples(index=False):
                    known = not hollow and name not in controls
                    colour, row = COLOURS[i % len(COLOURS)] if known else "0.55", methods.index(name) + shift
                    axes.plot([low, high], [row] * 2, color=colour, linewidth=1.5 if known else 0.8)
                    inside = "white" if hollow else colour
                    axes.plot(mean, row, "os^D"[i % 4], color=colour, markerfacecolor=inside, markersize=4.5)
        if metric in chance:
            axes.axvline(chance[metric], color="0.4", linestyle=":", linewidth=1)
        axes.set_title(metric_titles[metric], fontsize=9)
        tidy(axes)
    first = grid[0]
    first.set_yticks(np.arange(len(methods)), list(map(drawn, methods)), fontsize=9)
    first.invert_yaxis()
    for i, model in enumerate(models):
        first.plot([], [], "os^D"[i % 4], color=COLOURS[i % len(COLOURS)], label=drawn(model))
    if len(random):
        first.plot([], [], "o", color="0.55", markerfacecolor="white", label="same method, random weights")
    legend_below(figure, first, len(models) + 1)
    return figure


def _strip(axes: Axes, images: pd.DataFrame, methods: Sequence[str], models: Sequence[str]) -> None:
    """The values of single images in the rows of their methods."""
    known = images[images["method"].isin(methods) & images["model"].isin(models)].dropna(subset="value")
    rows = known["method"].map(methods.index).astype(float)
    colours = {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(models)}
    sns.stripplot(
        x=known["value"], y=rows, hue=known["model"], hue_order=models, palette=colours, dodge=len(models) > 1,
        native_scale=True, orient="h", jitter=False, size=2.5, alpha=0.4, linewidth=0, zorder=1, legend=False, ax=axes,
    )  # fmt: skip
    axes.set(xlabel="", ylabel="")
