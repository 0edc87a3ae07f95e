"""Means along a quantity that was varied, with their intervals."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xaiutils.plots.style import legend_below, line_style, panels, tidy, title_of


def summary_lines(
    table: pd.DataFrame,
    x: str,
    by: str,
    panel: str,
    labels: Mapping[str, str] = MappingProxyType({}),
    expected: str = "",
    logarithmic: bool = True,
    small: bool = False,
) -> Figure:
    """A panel for each value of the column ``panel``, a line for each of ``by``: mean along ``x`` (``logarithmic``: on
    a scale of logarithms), and a band from low to high, which `xaiutils.evaluation.summarise` makes.

    ``labels``: what to call columns and their values; "mean": the y axis. ``expected``: a column that is dotted beside
    them. ``small``: many small panels with one scale of ``mean``, to compare them by.
    """
    names = list(dict.fromkeys(table[panel]))
    figure, grid = panels(len(names), 4, (2.3, 2.0) if small else (3.1, 2.7), (0.0, 0.5), sharey=small)
    for axes, name in zip(grid, names, strict=True):
        part = table[table[panel] == name]
        for i, line in enumerate(dict.fromkeys(table[by])):
            own, style = part[part[by] == line].sort_values(x), line_style(i)
            axes.plot(own[x], own["mean"], marker="o", markersize=3.5, label=title_of(str(line), labels), **style)
            axes.fill_between(own[x].astype(float), own["low"], own["high"], color=style["color"], alpha=0.15, lw=0)
            if expected:
                axes.plot(own[x], own[expected], color=style["color"], linestyle=":", linewidth=1)
        axes.set(xscale="log" if logarithmic else "linear", xlabel=title_of(x, labels))
        axes.set_title(title_of(str(name), labels), fontsize=9)
        if small:
            axes.xaxis.label.set_fontsize(8)
        if logarithmic:
            ticks = sorted(set(table[x]))
            ticks = [a for a, b in zip(ticks, [*ticks[1:], np.inf], strict=True) if b >= 1.2 * a]  # else texts overlap
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
            axes.minorticks_off()
        axes.tick_params(labelsize=8)
        tidy(axes)
    figure.supylabel(labels.get("mean", ""), fontsize=9)
    legend_below(figure, grid[0], 4)
    return figure
