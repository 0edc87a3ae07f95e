"""Figures. Every function takes arrays or tables and returns a `matplotlib.figure.Figure`, drawn without pyplot.

Colours are safe for colour-blind readers: viridis for maps without sign, blue-white-red around 0 for signed ones,
and the Okabe-Ito palette for lines and marks.
"""

from xaiutils.plots.classification import (
    confusion_matrices,
    decision_curves,
    precision_recall_curves,
    reliability,
    roc_curves,
)
from xaiutils.plots.data import (
    COMPOSITION,
    class_balance,
    composition,
    image_grid,
    intensities,
    lesion_lengths,
    patch_grid,
    twins,
)
from xaiutils.plots.evaluation import forest
from xaiutils.plots.maps import CLIP_PERCENTILE, attribution_grid, display_range, draw_map, explanation
from xaiutils.plots.style import COLOURS, MAP_COLOURS, OUTLINE, outline
from xaiutils.plots.training import toy_accuracy, training_curves

__all__ = [
    "CLIP_PERCENTILE",
    "COLOURS",
    "COMPOSITION",
    "MAP_COLOURS",
    "OUTLINE",
    "attribution_grid",
    "class_balance",
    "composition",
    "confusion_matrices",
    "decision_curves",
    "display_range",
    "draw_map",
    "explanation",
    "forest",
    "image_grid",
    "intensities",
    "lesion_lengths",
    "outline",
    "patch_grid",
    "precision_recall_curves",
    "reliability",
    "roc_curves",
    "toy_accuracy",
    "training_curves",
    "twins",
]
