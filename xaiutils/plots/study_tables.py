"""Figures of a study: tables of methods by layers beside each other, and two scores against each other."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xaiutils.plots.style import COLOURS, heat_map, legend_below, numbers_as_text, panels, tidy, title_of
from xaiutils.text import drawn

_MARKS = "os^DvP*X"


def cell_tables(
    tables: Mapping[str, pd.DataFrame],
    titles: Mapping[str, str] = MappingProxyType({}),
    form: str = "{:.2f}",
    logarithmic: bool = False,
    flagged: Mapping[str, pd.DataFrame] = MappingProxyType({}),
) -> Figure:
    """Tables of methods (rows) by layers as heat maps side by side, by title, each in colours from its least to its
    largest value (``logarithmic``: of their logarithms); rows keep their order.

    ``flagged``: by the same titles, bool tables of the cells that are drawn struck through: they are known to be wrong.
    """
    widest, tallest = (max(t.shape[axis] for t in tables.values()) for axis in (1, 0))
    figure, grid = panels(len(tables), 2, (0.44 * widest + 1.5, 0.25 * tallest + 0.8))
    for axes, (title, table) in zip(grid, tables.items(), strict=True):
        values = table.to_numpy(float)
        shown = np.log10(np.maximum(values, 1e-6)) if logarithmic else values
        known = shown[np.isfinite(shown)]
        limits = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        texts, rows = numbers_as_text(values, form), [title_of(m, titles) for m in table.index]
        columns = [str(c).replace("layer", "") for c in table]
        heat_map(axes, shown, texts, rows, columns, "viridis", limits, fontsize=8)
        axes.set_title(drawn(title), fontsize=9)
        axes.tick_params(axis="y", labelsize=8)
        for row, column in np.argwhere(flagged[title].to_numpy(bool)) if title in flagged else ():
            axes.plot([column - 0.4, column + 0.4], [row + 0.35, row - 0.35], color="red", linewidth=1.2)
    return figure


def pareto(cells: pd.DataFrame, labels: tuple[str, str], titles: Mapping[str, str] = MappingProxyType({})) -> Figure:
    """Two scores of each method and layer, higher is better of both: a colour for each method, a mark for each layer,
    and a line through those that no other is better than, or as good in one and better in the other.

    ``cells``: a row for each, with method, layer, x and y; ``labels`` of both axes.
    """
    figure = Figure(figsize=(6.2, 4.4), layout="constrained")
    axes = figure.subplots()
    layers = list(dict.fromkeys(cells["layer"]))
    for i, (method, rows) in enumerate(cells.groupby("method", sort=False)):
        for layer, one in rows.groupby("layer", sort=False):
            mark = _MARKS[layers.index(layer) % len(_MARKS)]
            axes.scatter(one["x"], one["y"], s=34, color=COLOURS[i % len(COLOURS)], marker=mark, linewidths=0)
        axes.plot([], [], "o", color=COLOURS[i % len(COLOURS)], label=title_of(str(method), titles))
    for layer, mark in zip(layers, _MARKS, strict=False):
        axes.plot([], [], mark, color="0.4", markersize=5, label=f"layer {str(layer).replace('layer', '')}")
    points = cells[["x", "y"]].to_numpy(float)
    no_less, more = ((points[None] >= points[:, None]).all(-1), (points[None] > points[:, None]).any(-1))
    front = cells[~(no_less & more).any(axis=1)].sort_values("x")
    axes.plot(front["x"], front["y"], color="0.6", linewidth=1, zorder=0)
    axes.set_xlabel(drawn(labels[0]))
    axes.set_ylabel(drawn(labels[1]))
    tidy(axes)
    legend_below(figure, axes, 5)
    return figure
