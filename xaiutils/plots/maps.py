"""Figures of attribution maps: one beside its image, and the grid of images and methods.

`draw_map` is the one place where a map becomes a picture; the panel of `xaiutils.widgets` draws through it too.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from xaiutils.images import as_rgb
from xaiutils.plots.style import COLOURS, MAP_COLOURS, WIDEST, outline, row_title, tidy
from xaiutils.plots.style import column_titles as set_column_titles
from xaiutils.text import drawn

CLIP_PERCENTILE = 99.0  # the strongest hundredth of the pixels would otherwise hide the rest
STYLES = ("overlay", "contour", "alone")


def display_range(maps: np.ndarray, signed: bool) -> Normalize:
    """Colour limits of raw maps: symmetric about 0 if signed, else from the smallest value, up to a high percentile."""
    if signed:
        top = float(np.percentile(np.abs(maps), CLIP_PERCENTILE)) or float(np.abs(maps).max()) or 1.0
        return Normalize(-top, top)
    low, top = float(maps.min()), float(np.percentile(maps, CLIP_PERCENTILE))
    top = top if top > low else float(maps.max())
    return Normalize(low, top if top > low else low + 1.0)


def is_even(attribution: np.ndarray) -> bool:
    """Whether a map has one value everywhere: no range of colours stands for it."""
    return bool(attribution.min() == attribution.max())


def overlay(
    image: np.ndarray, attribution: np.ndarray, signed: bool, opacity: float, limits: Normalize, colours: str
) -> np.ndarray:
    """A map laid over its image in grey, so that colour means attribution only: uint8 ``(height, width, 3)``.

    The image is lightened under a signed map, whose colours meet in white, which grey would hide. Weak attribution is
    nearly transparent, so that the image shows where the map says nothing.
    """
    grey = _grey(image)
    grey = (grey * 255 + 1000) / 1255 if signed else grey
    position = np.clip(limits(attribution), 0, 1).data
    strength = np.abs(position - 0.5) * 2 if signed else position
    alpha = (opacity * (0.25 + 0.75 * np.sqrt(strength)))[..., None]
    return np.rint(255 * (alpha * colormaps[colours](position)[..., :3] + (1 - alpha) * grey)).astype(np.uint8)


def _grey(image: np.ndarray) -> np.ndarray:
    """The mean of the channels in [0, 1], ``(height, width, 1)``."""
    return np.asarray(image, np.float32).mean(axis=-1, keepdims=True) / 255


def draw_map(
    axes: Axes,
    image: np.ndarray,
    attribution: np.ndarray,
    signed: bool,
    mask: np.ndarray | None = None,
    opacity: float = 0.8,
    limits: Normalize | None = None,
    outline_width: float = 0.8,
    style: str = "overlay",
    colours: str = "",
) -> ScalarMappable:
    """Draw a map with its image; returns what a colour bar needs.

    A map that is the same everywhere has no colours of its own, unless ``limits`` give it some: its value is written
    on the grey image.

    Args:
        axes: in whose data coordinates one unit is one pixel of the image.
        image: ``(height, width, C)`` in [0, 255].
        attribution: ``(height, width)``, raw.
        signed: whether 0 is the middle of the colour scale.
        mask: bool ``(height, width)`` whose border is drawn.
        opacity: of the strongest attribution of an overlay, 0..1.
        limits: of the colours; by default `display_range` of the map.
        outline_width: of the mask's border, in points.
        style: "overlay" on the grey image, "contour" (lines of equal attribution on it), or "alone".
        colours: name of a matplotlib colour map; by default `MAP_COLOURS`.
    """
    colours = colours or MAP_COLOURS[signed]
    even = limits is None and is_even(attribution)
    limits = limits or display_range(attribution, signed)
    if style == "overlay" and not even:
        axes.imshow(overlay(image, attribution, signed, opacity, limits, colours))
    elif style == "alone" and not even:
        axes.imshow(np.asarray(colormaps[colours](limits(attribution), bytes=True))[..., :3])
    else:
        axes.imshow(np.repeat(np.rint(_grey(image) * 255).astype(np.uint8), 3, axis=-1))
    if style == "contour" and not is_even(attribution):
        levels = np.array((0.1, 0.3, 0.7, 0.9) if signed else (0.25, 0.5, 0.75))
        lines = axes.contour(attribution, limits.inverse(levels), cmap=colours, norm=limits, linewidths=1.3)
        lines.set_path_effects([withStroke(linewidth=2.7, foreground="black" if signed else "white")])
    outline(axes, mask, outline_width)
    if is_even(attribution):
        words = f"all {float(np.ravel(attribution)[0]):.3g}"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color="#D55E00")
    axes.set_axis_off()
    return ScalarMappable(limits, colours)


def draw_image(axes: Axes, image: np.ndarray, mask: np.ndarray | None = None, outline_width: float = 0.8) -> None:
    """Draw an image ``(height, width, C)`` in [0, 255] (`xaiutils.images.as_rgb`) without ticks, with the border of its
    mask."""
    axes.imshow(as_rgb(np.clip(image, 0, 255).astype(np.uint8)))
    outline(axes, mask, outline_width)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def probability_bars(
    axes: Axes,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    most: int = 10,
    before: np.ndarray | None = None,
    chosen: int | None = None,
) -> None:
    """Bars of the ``most`` probable classes, the most probable on top, with the numbers beside them.

    ``before``: probabilities to compare with, as grey bars; ``chosen``: a class that is shown in any case, in bold.
    """
    order = np.argsort(-probabilities, kind="stable")[:most]
    if chosen is not None and chosen not in order:
        order[-1] = chosen
    rows = np.arange(len(order))
    if before is None:
        axes.barh(rows, probabilities[order], color=COLOURS[0])
        texts = [f"{p:.2f}" for p in probabilities[order]]
    else:
        axes.barh(rows - 0.2, before[order], 0.4, color="0.6")
        axes.barh(rows + 0.2, probabilities[order], 0.4, color=COLOURS[0])
        texts = [f"{old:.2f} → {new:.2f}" for old, new in zip(before[order], probabilities[order], strict=True)]
    for row, text in enumerate(texts):
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    axes.set_yticks(rows, [drawn(class_names[i]) for i in order])
    for label, i in zip(axes.get_yticklabels(), order, strict=True):
        label.set_fontweight("bold" if i == chosen else "normal")
    axes.set(xlim=(0, 1), ylim=(len(order) - 0.5, -0.5))


def explanation(
    image: np.ndarray,
    attribution: np.ndarray,
    signed: bool,
    title: str,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    mask: np.ndarray | None = None,
    opacity: float = 0.8,
    image_title: str = "input",
) -> Figure:
    """An image, its map with a colour bar, and the ten largest class probabilities.

    Args:
        image: ``(height, width, C)`` in [0, 255].
        attribution: ``(height, width)``, raw.
        signed: whether 0 is the middle of the colour scale.
        title: of the map.
        probabilities: ``(classes,)``.
        class_names: of the classes.
        mask: bool ``(height, width)`` whose border is drawn.
        opacity: of the strongest attribution, 0..1.
        image_title: of the image.
    """
    figure = Figure(figsize=(WIDEST, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.18, 0.8))
    draw_image(left, image, mask)
    left.set_title(drawn(image_title), fontsize=10)
    shown = draw_map(middle, image, attribution, signed, mask, opacity)
    middle.set_title(drawn(title), fontsize=10)
    if not is_even(attribution):
        figure.colorbar(shown, ax=middle, shrink=0.85, label="attribution (raw)")
    probability_bars(right, probabilities, class_names)
    right.set_xticks([0, 0.5, 1])
    right.set_title("probability", fontsize=10)
    tidy(right)
    return figure


def attribution_grid(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    signed: Mapping[str, bool],
    row_titles: Sequence[str],
    column_titles: Mapping[str, str],
    masks: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """The thesis' grid: a row for each image ``(rows, height, width, 3)``, a column for the input and for each method.

    ``maps[name]`` is ``(rows, height, width)``. Each map has its own colour limits: maps of different methods share
    no unit.
    """
    rows, columns = len(images), len(maps) + 1
    cell = min(1.35, (WIDEST - 0.6) / columns)
    figure = Figure(figsize=(cell * columns + 0.6, 1.1 * cell * rows + 0.5), layout="compressed")
    grid = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        mask = None if masks is None else masks[row]
        first = grid[row, 0]
        draw_image(first, images[row], mask)
        row_title(first, row_titles[row])
        for axes, (name, found) in zip(grid[row, 1:], maps.items(), strict=True):
            draw_map(axes, images[row], found[row], signed[name], mask, opacity=0.9, outline_width=0.35)
    set_column_titles(figure, grid[0], ["input", *(column_titles[name] for name in maps)], cell)
    figure.suptitle(drawn(title), fontsize=11)
    return figure


def gallery(
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    families: Mapping[str, str],
    signed: Mapping[str, bool],
    titles: Mapping[str, str],
    mask: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Many maps ``(height, width)`` of one image by the methods' names, those of a family beside each other.

    ``families``, ``signed`` and ``titles`` are by method; families stand in the order of their first method, with six
    pictures in a row, or seven where the image, which comes first, would push a map into a row of its own. Each map has
    its own colour limits.
    """
    rows: list[tuple[str, list[str]]] = []
    across = 7 if sum(families[name] == families[next(iter(maps))] for name in maps) == 6 else 6
    for family in dict.fromkeys(families[name] for name in maps):
        names = [name for name in maps if families[name] == family]
        names = names if rows else ["", *names]
        rows += [(family if i == 0 else "", names[i : i + across]) for i in range(0, len(names), across)]
    figure = Figure(figsize=(WIDEST, 1.6 * len(rows) + 0.4), layout="compressed")
    grid = figure.subplots(len(rows), 1 + across, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for row, (family, names) in zip(grid, rows, strict=True):
        words = textwrap.fill(drawn(family), 14, break_long_words=False)
        row[0].text(1, 0.5, words, ha="right", va="center", fontsize=9, fontweight="bold", transform=row[0].transAxes)
        for axes, name in zip(row[1:], names, strict=False):
            if name:
                draw_map(axes, image, maps[name], signed[name], mask, opacity=0.9, outline_width=0.35)
            else:
                draw_image(axes, image, mask)
            axes.set_title(textwrap.fill(drawn(titles.get(name, "input")), 22), fontsize=8)
    figure.suptitle(drawn(title), fontsize=11)
    return figure
