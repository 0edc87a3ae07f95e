"""Figures of the checks that retrain models."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from xaiutils.plots.style import COLOURS, WIDEST, legend_below, tidy
from xaiutils.text import drawn


def retraining_curves(table: pd.DataFrame, controls: Sequence[str] = (), majority: float | None = None) -> Figure:
    """Accuracy and AUC by the fraction of pixels; ``table`` is that of `remove_and_retrain`.

    One column for each mode (remove, keep, shape). A line joins the means over seeds, whose models are the dots;
    ``controls`` are grey and dashed. The black line and its band are mean and range of the models trained on unchanged
    images.
    Dotted: ``majority``, the accuracy of always the most frequent class, and an AUC of 0.5.
    """
    modes = list(dict.fromkeys(table["mode"]))
    words = {"accuracy": "test accuracy", "auc": "test AUC"}
    verbs = {"remove": "replaced", "keep": "kept", "shape": "replaced, the others white"}
    figure = Figure(figsize=(min(WIDEST, 4.2 * len(modes)), 5.4), layout="constrained")
    grid = figure.subplots(2, len(modes), sharey="row", sharex="col", squeeze=False)
    for column, mode in enumerate(modes):
        part = table[table["mode"] == mode]
        unchanged = part[part["method"] == "unchanged"]
        names = [name for name in dict.fromkeys(part["method"]) if name != "unchanged"]
        methods = [name for name in names if name not in controls]
        for axes, (score, level) in zip(grid[:, column], (("accuracy", majority), ("auc", 0.5)), strict=True):
            if level is not None:
                axes.axhline(level, color="0.4", linestyle=":", linewidth=1)
            if len(unchanged):
                axes.axhspan(unchanged[score].min(), unchanged[score].max(), color="0.9")
                axes.axhline(unchanged[score].mean(), color="black", linewidth=1, label="unchanged")
            for name in names:
                own = part[part["method"] == name]
                means = own.groupby("fraction")[score].mean()
                grey = name in controls
                number = (controls if grey else methods).index(name)
                colour = ("0.45", "0.6", "0.7", "0.3", "0.8")[number % 5] if grey else COLOURS[number % len(COLOURS)]
                marker = "sv<>d"[number % 5] if grey else "o^DPX*ph"[number % 8]
                style = {"color": colour, "marker": marker, "markersize": 5}
                axes.plot(means.index, means, linestyle="--" if grey else "-", label=drawn(name), **style)
                axes.plot(own["fraction"], own[score], linestyle="", alpha=0.35, **style | {"markersize": 3.5})
            axes.set_ylabel(words[score] if column == 0 else "")
            tidy(axes)
        grid[1, column].set_xlabel(f"fraction of pixels, highest first, {verbs[mode]}")
    legend_below(figure, grid[0, 0], 4)
    return figure
