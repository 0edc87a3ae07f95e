"""Figures of attribution maps: one beside its image, and the grid of images and methods."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from xaiutils.plots.style import COLOURS, MAP_COLOURS, outline, tidy
from xaiutils.text import drawn

CLIP_PERCENTILE = 99.0  # the strongest hundredth of the pixels would else hide the rest


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


def draw_map(
    axes: Axes,
    image: np.ndarray,
    attribution: np.ndarray,
    signed: bool,
    mask: np.ndarray | None = None,
    opacity: float = 0.8,
    limits: Normalize | None = None,
    outline_width: float = 0.8,
) -> ScalarMappable:
    """Lay a map over its image (grey, so that colour means attribution only); returns what a colour bar needs.

    A map that is the same everywhere has no colours of its own, unless ``limits`` give it some: its value is written.
    """
    even = limits is None and is_even(attribution)
    limits = limits or display_range(attribution, signed)
    # Signed maps lie on a lightened image: their colours meet in white, which grey would hide.
    grey = np.asarray(image, np.float32).mean(axis=-1)
    axes.imshow(grey, cmap="gray", vmin=-1000 if signed and not even else 0, vmax=255)
    # Weak attribution is nearly transparent, so that the image shows where the map says nothing.
    strength = np.clip(np.abs(limits(attribution) - 0.5) * 2 if signed else limits(attribution), 0, 1)
    alpha = 0.0 if even else opacity * (0.25 + 0.75 * np.sqrt(strength))
    axes.imshow(attribution, cmap=MAP_COLOURS[signed], norm=limits, alpha=alpha)
    outline(axes, mask, outline_width)
    if is_even(attribution):
        words = f"all {float(np.ravel(attribution)[0]):.3g}"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color="#D55E00")
    axes.set_axis_off()
    return ScalarMappable(limits, MAP_COLOURS[signed])


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
    """An image, its map with a colour bar, and the class probabilities (of the ten largest)."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.18, 0.8))
    left.imshow(np.clip(image, 0, 255).astype(np.uint8))
    outline(left, mask)
    left.set_axis_off()
    left.set_title(drawn(image_title), fontsize=10)
    shown = draw_map(middle, image, attribution, signed, mask, opacity)
    middle.set_title(drawn(title), fontsize=10)
    if not is_even(attribution):
        figure.colorbar(shown, ax=middle, shrink=0.85, label="attribution (raw)")
    top = np.argsort(-probabilities, kind="stable")[:10][::-1]
    bars = right.barh(np.arange(len(top)), probabilities[top], color=COLOURS[0])
    right.set_yticks(np.arange(len(top)), [drawn(class_names[i]) for i in top])
    right.bar_label(bars, fmt="%.2f", fontsize=9, padding=2)
    right.set_xlim(0, 1.2)
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
    figure = Figure(figsize=(1.35 * columns + 0.6, 1.5 * rows + 0.5), layout="compressed")
    grid = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        mask = None if masks is None else masks[row]
        first = grid[row, 0]
        first.imshow(np.clip(images[row], 0, 255).astype(np.uint8))
        outline(first, mask)
        first.set_xticks([])
        first.set_yticks([])
        first.set_ylabel(drawn(row_titles[row]), fontsize=8)
        for axes, (name, found) in zip(grid[row, 1:], maps.items(), strict=True):
            draw_map(axes, images[row], found[row], signed[name], mask, opacity=0.9, outline_width=0.35)
    grid[0, 0].set_title("input", fontsize=9)
    for axes, name in zip(grid[0, 1:], maps, strict=True):
        axes.set_title(drawn(column_titles[name]), fontsize=9)
    figure.suptitle(drawn(title), fontsize=11)
    return figure
