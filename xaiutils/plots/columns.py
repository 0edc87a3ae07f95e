"""Figures at the width of a journal's columns, with type that can be read there."""

import textwrap

from matplotlib.figure import Figure
from matplotlib.text import Text

COLUMNS = {1: 3.5, 2: 7.2}  # inches
LEAST_TYPE = 6.0  # points
_ONE_HOLDS = 5.0  # inches: what is drawn wider needs two columns


def fit_columns(figure: Figure, columns: int = 0) -> Figure:
    """Bring a figure to the width of 1 or 2 `COLUMNS`, its height in proportion, lay it out, and return it.

    ``columns`` 0, the default: one where it is drawn at most 5 inches wide, else two. Type shrinks with a wider figure,
    to no less than `LEAST_TYPE`; titles that no longer fit are broken into lines. Raises ValueError for other numbers.
    """
    width, height = figure.get_size_inches()
    columns = columns or (1 if width <= _ONE_HOLDS else 2)
    if columns not in COLUMNS:
        raise ValueError(f"columns must be 1, 2 or 0 (as the figure is drawn), got {columns!r}.")
    scale = COLUMNS[columns] / width
    figure.set_size_inches(COLUMNS[columns], height * scale)
    for axes in (axes for axes in figure.axes if axes.axison):
        for axis in (axes.xaxis, axes.yaxis):  # labels that the new size adds or moves
            axis.set_tick_params(labelsize=_fitted(axis.get_major_ticks(1)[0].label1, scale))
    for text in figure.findobj(Text):
        text.set_fontsize(_fitted(text, scale))
    figure.draw_without_rendering()
    broken = [_break(t, axes.bbox.width) for axes in figure.axes for t in (axes.title, axes.xaxis.label)]
    broken += [_break(text, figure.bbox.width) for text in figure.texts]
    if any(broken):
        figure.draw_without_rendering()
    return figure


def _fitted(text: Text, scale: float) -> float:
    return max(LEAST_TYPE, float(text.get_fontsize()) * min(1, scale))


def _break(text: Text, room: float) -> bool:
    """Break the lines of a text that is wider than ``room``, in pixels; whether it was."""
    needed = text.get_window_extent().width if text.get_text() and not text.get_rotation() else 0
    too_wide = bool(needed > 1.05 * room)
    if too_wide:
        lines = text.get_text().split("\n")
        most = max(8, int(max(map(len, lines)) * room / needed))
        broken = (textwrap.fill(line, most, break_long_words=False, break_on_hyphens=False) for line in lines)
        text.set_text("\n".join(broken))
    return too_wide
