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
    pictures,
    twins,
)
from xaiutils.plots.evaluation import forest
from xaiutils.plots.labels import auc_forest, label_roc_curves, predicted_values
from xaiutils.plots.lines import summary_lines
from xaiutils.plots.maps import CLIP_PERCENTILE, attribution_grid, display_range, draw_map, explanation, gallery
from xaiutils.plots.ranking import (
    against,
    agreement_heatmap,
    critical_difference,
    disagreement_grid,
    rank_heatmap,
    scatter_pair,
    two_orders,
)
from xaiutils.plots.relations import cluster_map, metric_pairs
from xaiutils.plots.retraining import retraining_curves
from xaiutils.plots.sanity import consistency_matrix, dropout_maps, randomisation_curves, randomisation_grid
from xaiutils.plots.study_tables import cell_tables, pareto
from xaiutils.plots.style import COLOURS, MAP_COLOURS, OUTLINE, outline
from xaiutils.plots.training import toy_accuracy, training_curves

__all__ = [
    "CLIP_PERCENTILE",
    "COLOURS",
    "COMPOSITION",
    "MAP_COLOURS",
    "OUTLINE",
    "against",
    "agreement_heatmap",
    "attribution_grid",
    "auc_forest",
    "cell_tables",
    "class_balance",
    "cluster_map",
    "composition",
    "confusion_matrices",
    "consistency_matrix",
    "critical_difference",
    "decision_curves",
    "disagreement_grid",
    "display_range",
    "draw_map",
    "dropout_maps",
    "explanation",
    "forest",
    "gallery",
    "image_grid",
    "intensities",
    "label_roc_curves",
    "lesion_lengths",
    "metric_pairs",
    "outline",
    "pareto",
    "patch_grid",
    "pictures",
    "precision_recall_curves",
    "predicted_values",
    "randomisation_curves",
    "randomisation_grid",
    "rank_heatmap",
    "reliability",
    "retraining_curves",
    "roc_curves",
    "scatter_pair",
    "summary_lines",
    "toy_accuracy",
    "training_curves",
    "twins",
    "two_orders",
]
