"""What all figures share: colours, panels, cells with numbers, and how axes and outlines look."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from xaiutils.text import drawn

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
LINES = ("-", "--", "-.", ":")
OUTLINE = "#E69F00"
WIDEST = 9.6  # inches: at two columns of a journal, three quarters of it, 8 points are 6 (`xaiutils.plots.columns`)
MAP_COLOURS = {True: "RdBu_r", False: "viridis"}  # by whether the map is signed


def outline(axes: Axes, mask: np.ndarray | None, width: float = 0.8) -> None:
    """Draw the border of a bool mask ``(height, width)``; nothing for None or an empty one."""
    if mask is not None and mask.any() and not mask.all():
        axes.contour(mask, levels=[0.5], colors=OUTLINE, linewidths=width)


def tidy(axes: Axes) -> None:
    """Leave out the frame's upper and right side."""
    axes.spines[["top", "right"]].set_visible(False)


def title_of(name: str, titles: Mapping[str, str]) -> str:
    """The title of a method, or its name where it has none, to be drawn."""
    return drawn(titles.get(name, name))


def line_style(i: int) -> dict[str, Any]:
    """Colour and line of the ``i``-th curve: they differ in print without colours too."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}


def panels(
    n: int,
    most: int,
    size: tuple[float, float],
    around: tuple[float, float] = (0, 0),
    layout: Literal["constrained", "compressed"] = "constrained",
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure and its ``n`` panels, at most ``most`` in a row and as many as `WIDEST` has room for; ``size`` of a
    panel and what lies ``around``, in inches."""
    columns = max(1, min(n, most, int((WIDEST - around[0]) / size[0])))
    rows = -(-n // columns)
    figure = Figure(figsize=(size[0] * columns + around[0], size[1] * rows + around[1]), layout=layout)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).ravel()
    for axes in grid[n:]:
        axes.set_axis_off()
    return figure, list(grid[:n])


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """One legend for the whole figure, of what ``axes`` show, in ``columns`` at most."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(columns, int(figure.get_figwidth() / (0.75 + 0.075 * max(map(len, labels), default=0)))) or 1
    figure.set_figheight(figure.get_figheight() + 0.18 * (-(-len(labels) // columns) - 1))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def column_titles(figure: Figure, grid: Sequence[Axes], titles: Sequence[str], inches: float) -> None:
    """Titles above the first row of a figure's ``grid``, whose columns are ``inches`` wide: upright where one of their
    words is wider."""
    upright = 0.07 * max((len(word) for title in titles for word in title.split()), default=0) > inches
    figure.set_figheight(figure.get_figheight() + 1.3 * upright)
    for axes, title in zip(grid, titles, strict=True):
        axes.set_title(drawn(textwrap.fill(title, 22) if upright else title), fontsize=8, rotation=90 * upright)


def row_title(axes: Axes, text: str) -> None:
    """The title of a grid's row, left of its first panel."""
    lines = "\n".join(textwrap.fill(line, 16, break_long_words=False) for line in text.split("\n"))
    axes.text(-0.06, 0.5, drawn(lines), transform=axes.transAxes, fontsize=8, ha="right", va="center")


def heat_map(
    axes: Axes,
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    colours: str,
    limits: tuple[float, float],
    **column_labels: Any,
) -> AxesImage:
    """Cells coloured by ``values`` ``(rows, columns)``, with a text in each that can be read on its colour."""
    image = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if texts[row][column]:
            red, green, blue, opaque = image.to_rgba(value)  # NaN is transparent
            colour = "white" if opaque and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
            axes.text(column, row, texts[row][column], ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(columns)), list(map(drawn, columns)), **column_labels)
    axes.set_yticks(range(len(rows)), list(map(drawn, rows)), fontsize=9)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


SLANTED = {"rotation": 40, "ha": "right", "rotation_mode": "anchor", "fontsize": 8}  # long names below columns


def numbers_as_text(values: np.ndarray, form: str = "{:.2f}", missing: str = "") -> list[list[str]]:
    """Numbers ``(rows, columns)`` as texts; ``missing`` for those that are not finite."""
    return [[form.format(v) if np.isfinite(v) else missing for v in row] for row in values]
