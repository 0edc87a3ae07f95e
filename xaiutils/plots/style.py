"""What all figures share: colours, and how axes and outlines look."""

import numpy as np
from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
OUTLINE = "#E69F00"
MAP_COLOURS = {True: "RdBu_r", False: "viridis"}  # by whether the map is signed


def outline(axes: Axes, mask: np.ndarray | None, width: float = 0.8) -> None:
    """Draw the border of a bool mask ``(height, width)``; nothing for None or an empty one."""
    if mask is not None and mask.any() and not mask.all():
        axes.contour(mask, levels=[0.5], colors=OUTLINE, linewidths=width)


def tidy(axes: Axes) -> None:
    """Leave out the frame's upper and right side."""
    axes.spines[["top", "right"]].set_visible(False)
