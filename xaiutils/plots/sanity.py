"""Figures of the sanity checks: what random weights, changed images and dropout do to maps."""

from collections.abc import Mapping
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xaiutils.plots.maps import draw_map
from xaiutils.plots.style import (
    COLOURS,
    SLANTED,
    WIDEST,
    column_titles,
    heat_map,
    numbers_as_text,
    panels,
    row_title,
    tidy,
    title_of,
)

_MODES = {"cascading": ("o-", COLOURS[0]), "independent": ("s--", COLOURS[1])}


def randomisation_curves(
    summary: pd.DataFrame, chance: Mapping[str, float], titles: Mapping[str, str], similarity: str, columns: int = 4
) -> Figure:
    """A panel for each method: similarity to the trained model's map over the stages that lost their weights.

    ``summary`` has the columns mode ("cascading" or "independent"), method, depth, stage, mean, low, high. The dotted
    line is ``chance`` by method, the similarity of maps of different images: where a map ends that lost everything.
    """
    methods = list(dict.fromkeys(summary["method"]))
    stages = summary.drop_duplicates("depth").sort_values("depth")["stage"].to_list()
    width = 2.2 if len(methods) > 2 else 3.1  # that the legend has room
    figure, grid = panels(len(methods), columns, (width, 2.1), (0.5, 1.0), sharex=True, sharey=True)
    for axes, method in zip(grid, methods, strict=True):
        for mode, part in summary[summary["method"] == method].groupby("mode", sort=False):
            mark, colour = _MODES[mode]
            part = part.sort_values("depth")
            axes.plot(part["depth"], part["mean"], mark, color=colour, markersize=4, linewidth=1.4, label=mode)
            part = part[part["depth"] > 0]  # the trained model's own maps are 1 by definition
            axes.fill_between(part["depth"], part["low"], part["high"], color=colour, alpha=0.15, linewidth=0)
        if np.isfinite(chance.get(method, np.nan)):
            axes.axhline(chance[method], color="0.35", linestyle=":", linewidth=1.2, label="pairs of other images")
        axes.set_title(title_of(method, titles), fontsize=9)
        axes.set_xticks(range(len(stages)))
        axes.tick_params(labelsize=8, labelbottom=True)
        tidy(axes)
    figure.supylabel(fill(f"similarity to the trained model's map ({similarity})", 22), fontsize=9)
    names = ["0 trained", *(f"{i} from {name}" for i, name in enumerate(stages[1:], start=1))]
    figure.supxlabel("weights lost: " + ", ".join(names), fontsize=8)
    handles = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def randomisation_grid(
    image: np.ndarray,
    maps: Mapping[str, Mapping[str, np.ndarray]],
    signed: Mapping[str, bool],
    titles: Mapping[str, str],
    mask: np.ndarray | None = None,
) -> Figure:
    """A row for each method, a column for each stage that lost its weights; the trained model's map comes first.

    ``maps[stage][method]`` is ``(height, width)``. Each map has its own colour limits: maps of networks with random
    weights are of any size.
    """
    stages, methods = list(maps), list(next(iter(maps.values())))
    cell = min(1.35, (WIDEST - 1.1) / len(stages))
    figure = Figure(figsize=(cell * len(stages) + 1.1, 1.04 * cell * len(methods) + 0.5), layout="compressed")
    grid = figure.subplots(len(methods), len(stages), squeeze=False)
    for row, method in enumerate(methods):
        for axes, stage in zip(grid[row], stages, strict=True):
            draw_map(axes, image, maps[stage][method], signed[method], mask, opacity=0.9, outline_width=0.35)
        row_title(grid[row, 0], titles.get(method, method))
    column_titles(figure, grid[0], ["trained" if stage == "none" else stage for stage in stages], cell)
    return figure


def consistency_matrix(table: pd.DataFrame, change: pd.Series, titles: Mapping[str, str], label: str) -> Figure:
    """Heat map of how far maps stay under changes of the image, methods (rows) by transforms (columns).

    ``table``: values with the methods as its index and the transforms as its columns; ``change``: the mean change of
    the prediction by transform, drawn as a separate row on top, with its own scale.
    """
    rows, columns = table.shape
    figure = Figure(figsize=(0.85 * columns + 2.6, 0.42 * rows + 2.1), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(1, rows), sharex=True)
    top = change.reindex(table.columns).to_numpy(float)[None]
    names = list(table.columns)
    heat_map(above, top, numbers_as_text(top, missing="none"), ["change of probability"], names, "Reds", (0, 1))
    values = table.to_numpy(float)
    methods = [titles.get(m, m) for m in table.index]
    texts = numbers_as_text(values, missing="none")
    image = heat_map(below, values, texts, methods, names, "viridis", (0, 1), **SLANTED)
    above.tick_params(axis="x", length=0, labelbottom=False)
    figure.colorbar(image, ax=below, shrink=0.9, extend="min", label=label)
    return figure


def dropout_maps(
    image: np.ndarray,
    plain: Mapping[str, np.ndarray],
    mean: Mapping[str, np.ndarray],
    std: Mapping[str, np.ndarray],
    signed: Mapping[str, bool],
    titles: Mapping[str, str],
    mask: np.ndarray | None = None,
) -> Figure:
    """A row for each method: its map without dropout, its mean and its standard deviation over passes with dropout.

    All are ``(height, width)`` by method. Each picture has its own colour limits; above the last column stands the
    mean standard deviation as a fraction of the mean absolute value of the mean map.
    """
    methods = list(plain)
    figure = Figure(figsize=(4.7, 1.45 * len(methods) + 0.4), layout="compressed")
    grid = figure.subplots(len(methods), 3, squeeze=False)
    for row, method in zip(grid, methods, strict=True):
        draw_map(row[0], image, plain[method], signed[method], mask, opacity=0.9, outline_width=0.35)
        draw_map(row[1], image, mean[method], signed[method], mask, opacity=0.9, outline_width=0.35)
        draw_map(row[2], image, std[method], False, mask, opacity=0.9, outline_width=0.35)
        size = float(np.abs(mean[method]).mean())
        part = f"{float(std[method].mean()) / size:.1f} of the mean" if size > 0 else "the mean is 0"
        row[2].set_title(part, fontsize=7, pad=2)
        row_title(row[0], titles.get(method, method))
    for axes, text in zip(grid[0], ("no dropout", "mean", "standard deviation"), strict=True):
        axes.set_title(f"{text}\n{axes.get_title()}" if axes.get_title() else text, fontsize=8)
    return figure
