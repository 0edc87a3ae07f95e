"""Figures of what goes together: methods or metrics in the order of their agreement, and metrics in pairs.

Seaborn draws them through pyplot, whose list of open figures they leave at once.
"""

from collections.abc import Mapping
from types import MappingProxyType

import pandas as pd
import seaborn as sns
from matplotlib import pyplot
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from xaiutils.evaluation.metrics import METRICS
from xaiutils.plots.style import COLOURS, WIDEST, title_of
from xaiutils.statistics.summaries import check_one_reading
from xaiutils.text import drawn

_MOST_METRICS = 6


def cluster_map(agreement: pd.DataFrame, label: str, titles: Mapping[str, str] = MappingProxyType({})) -> Figure:
    """A symmetric table of agreements in [-1, 1] (1 on its diagonal), those that agree beside each other: the tree on
    the left joins them by average linkage of 1 - agreement. What is not known (NaN) is blank, and joined as if 0.

    ``label`` says what the numbers are. `xaiutils.evaluation.map_similarity.method_agreement` makes such a table of
    maps, `xaiutils.evaluation.ranking.agreement` of metrics.
    """
    n = len(agreement)
    names = [title_of(name, titles) for name in agreement]
    table = pd.DataFrame(agreement.to_numpy(float), names, names)
    apart = (1 - table.fillna(0).to_numpy()).clip(0)
    tree = linkage(squareform(apart, checks=False), "average") if n > 2 else None
    grid = sns.clustermap(
        table, row_linkage=tree, col_linkage=tree, row_cluster=n > 2, col_cluster=n > 2, mask=table.isna(),
        cmap="RdBu", vmin=-1, vmax=1, annot=table.round(2) + 0.0, fmt=".2f", annot_kws={"fontsize": 8},
        xticklabels=True, yticklabels=True, dendrogram_ratio=(0.12, 0.02),
        figsize=(min(WIDEST, 0.55 * n + 3.6), 0.36 * n + 1.9),
        cbar_pos=None,
    )  # fmt: skip
    grid.ax_col_dendrogram.set_visible(False)
    grid.ax_heatmap.set(xlabel="", ylabel="")
    grid.ax_heatmap.set_title(drawn(label), fontsize=9)
    grid.ax_heatmap.tick_params(labelsize=8, length=0)
    return _left_to_itself(grid.figure)


def metric_pairs(table: pd.DataFrame, titles: Mapping[str, str] = MappingProxyType({})) -> Figure:
    """Every two metrics of ``table`` (at most 6), a dot for each image and method that has both, and on the diagonal
    how often which value occurs; a colour for each method. ``table`` has the columns image_id, method, metric, value.

    ValueError for fewer than two metrics or more than 6, and where images are there under several readings.
    """
    check_one_reading(table)
    wide = table.pivot_table("value", ["image_id", "method"], "metric", sort=False, observed=True)
    metrics = [drawn(METRICS[m].label) for m in wide]
    if not 2 <= len(metrics) <= _MOST_METRICS:
        raise ValueError(
            f"{len(metrics)} metrics; 2 to {_MOST_METRICS} can be read in pairs: choose rows of the table."
        )
    wide = (
        wide.set_axis(metrics, axis=1)
        .reset_index()
        .replace({"method": {m: title_of(m, titles) for m in table["method"]}})
    )
    many = wide["method"].nunique() > len(COLOURS)
    grid = sns.pairplot(
        wide, hue="method", vars=metrics, corner=True, height=WIDEST / len(metrics) * 0.8, aspect=1.1,
        palette="husl" if many else COLOURS[: wide["method"].nunique()], diag_kind="hist",
        plot_kws={"s": 12, "alpha": 0.6, "linewidth": 0}, diag_kws={"element": "step", "fill": False},
    )  # fmt: skip
    sns.move_legend(grid, "upper right", title="", frameon=False, fontsize=8)
    return _left_to_itself(grid.figure)


def _left_to_itself(figure: Figure) -> Figure:
    """A figure of pyplot's as all others here are: not in its list, and laid out anew when its size changes."""
    pyplot.close(figure)
    figure.set_layout_engine("tight", pad=0.2)
    return figure
