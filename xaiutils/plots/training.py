"""Figures of training: loss and accuracy by epoch, and what an optimiser can learn at all."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xaiutils.classification.model_card import kept_epoch
from xaiutils.plots.style import COLOURS, WIDEST, legend_below, line_style, tidy
from xaiutils.text import drawn

_ROWS = {"loss": "loss", "accuracy": "accuracy", "mae": "mean absolute error", "auc": "AUC"}


def training_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss and accuracy (of a measured quantity the mean absolute error) of training and validation, and the validation
    AUC where it was recorded; a column for each model.

    A dot marks the epoch whose weights were kept (see `xaiutils.classification.model_card.kept_epoch`).
    Grey lines separate the stages of a history that has a column ``stage``.
    """
    rows = [what for what in _ROWS if any(f"val_{what}" in h for h in histories.values())]
    figure = Figure(figsize=(min(WIDEST, 4 * len(histories)), 2.5 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(histories), squeeze=False)
    for column, (name, history) in enumerate(histories.items()):
        kept = history["epoch"] == kept_epoch(history)
        for axes, what in zip(grid[:, column], rows, strict=True):
            if f"val_{what}" not in history:
                axes.set_axis_off()
                continue
            if what in history:
                axes.plot(history["epoch"], history[what], color=COLOURS[0], label="training")
            axes.plot(history["epoch"], history[f"val_{what}"], color=COLOURS[1], linestyle="--", label="validation")
            axes.plot(history["epoch"][kept], history[f"val_{what}"][kept], "o", color=COLOURS[1])
            axes.set_ylabel(_ROWS[what])
            if what == "accuracy":
                axes.set_ylim(0, 1.03)
            _part_stages(axes, history, named=what == rows[1])
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            tidy(axes)
        grid[0, column].set_title(drawn(name), fontsize=9)
        used = [a for a in grid[:, column] if a.axison]
        used[-1].set_xlabel("epoch")
    legend_below(figure, grid[0, 0], 2)
    return figure


def _part_stages(axes: Axes, history: pd.DataFrame, named: bool) -> None:
    """A line between two stages; their names below."""
    if "stage" not in history:
        return
    starts = history.index[history["stage"] != history["stage"].shift()]
    for place in starts:
        epoch = history["epoch"][place]
        if place != starts[0]:
            axes.axvline(epoch - 0.5, color="0.6", linewidth=1)
        if named and len(starts) > 1:
            axes.annotate(
                str(history["stage"][place]),
                (epoch - 0.4, 0),
                (2, 2),
                ("data", "axes fraction"),
                "offset points",
                fontsize=8,
                color="0.35",
            )


def toy_accuracy(table: pd.DataFrame, bayes: float = 0.99) -> Figure:
    """Accuracy and the length of the first kernel by step, a line for each recipe of `training.toy_optimisers`.

    Dotted lines mark chance and ``bayes``, the best possible accuracy.
    """
    figure = Figure(figsize=(8.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, part) in enumerate(table.groupby("recipe", sort=False)):
        for axes, column in ((left, "accuracy"), (right, "weight_norm")):
            axes.plot(part["step"], part[column], label=name, **line_style(i))
    for level, text in ((0.5, "chance"), (bayes, "best possible")):
        left.axhline(level, color="0.4", linestyle=":", linewidth=1)
        left.annotate(text, (1, level), (-2, 3), ("axes fraction", "data"), "offset points", ha="right", fontsize=8)
    left.set_ylim(0.4, 1.06)
    left.set_ylabel("accuracy on new points")
    right.set_ylabel("L2 norm of the first kernel")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlabel("step")
        tidy(axes)
    legend_below(figure, left, 3)
    return figure
