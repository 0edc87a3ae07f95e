"""Figures of comparisons: ranks of methods, agreement of metrics, and image by image."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.metrics import METRICS
from xaiutils.evaluation.ranking import Ranking
from xaiutils.plots.maps import attribution_grid
from xaiutils.plots.relations import cluster_map
from xaiutils.plots.style import COLOURS, SLANTED, heat_map, legend_below, numbers_as_text, panels, tidy, title_of
from xaiutils.statistics.formatting import p_value
from xaiutils.statistics.summaries import check_one_reading
from xaiutils.text import drawn


def critical_difference(ranking: Ranking, titles: Mapping[str, str] = MappingProxyType({})) -> Figure:
    """Mean ranks on a line, best on the left; bars join methods that Nemenyi's test does not distinguish (Demsar 2006,
    JMLR 7). Where Friedman's test finds no difference at all, one bar joins all, and the title says so.
    """
    ranks, k = ranking.ranks, len(ranking.ranks)
    differ = ranking.p < ranking.alpha
    groups = ranking.groups if differ else [list(ranks.index)]
    left = (k + 1) // 2
    depth = 0.9 + 0.22 * len(groups)
    bottom = depth + 0.45 * max(left, k - left)
    figure = Figure(figsize=(8.5, 0.5 * bottom + 1.1), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(1 - 0.45 * (k - 1), k + 0.45 * (k - 1))
    axes.set_ylim(bottom, -1.2)
    axes.set_axis_off()
    axes.plot([1, k], [0, 0], color="black", linewidth=1)
    for place in range(1, k + 1):
        axes.plot([place, place], [0, -0.15], color="black", linewidth=1)
        axes.text(place, -0.25, str(place), ha="center", va="bottom", fontsize=9)
    axes.text(1 - 0.05 * k, 0, "mean rank", ha="right", va="center", fontsize=9, color="0.3")
    reach = min(ranking.critical, k - 1)
    axes.plot([1, 1 + reach], [-0.95, -0.95], color=COLOURS[1], linewidth=2)
    axes.text(1 + reach / 2, -1.0, f"critical difference {ranking.critical:.2f}", ha="center", va="bottom", fontsize=9)
    for i, (name, value) in enumerate(ranks.items()):
        on_left = i < left
        level = depth + 0.45 * (i if on_left else k - 1 - i)
        end = 1 - 0.06 * (k - 1) if on_left else k + 0.06 * (k - 1)
        axes.plot([value, value, end], [0, level, level], color="0.4", linewidth=1)
        words = [title_of(name, titles), f"{value:.2f}"]
        text = f" {'  '.join(words if on_left else words[::-1])} "
        axes.text(end, level, text, ha="right" if on_left else "left", va="center", fontsize=9)
    for i, group in enumerate(groups):
        ends = ranks[group[0]] - 0.03, ranks[group[-1]] + 0.03
        axes.plot(ends, [0.4 + 0.22 * i] * 2, color=COLOURS[0], linewidth=4, solid_capstyle="butt")
    found = f"{p_value(ranking.p)}{'' if differ else ': no difference found'}"
    axes.set_title(f"{METRICS[ranking.metric].label}: Friedman's test over {ranking.n} units, {found}", fontsize=10)
    return figure


def two_orders(found: Mapping[str, pd.DataFrame], titles: Mapping[str, str] = MappingProxyType({})) -> Figure:
    """A panel for each model: its methods by how well they find the evidence (across) and name what the model uses
    (up), mean ranks as `xaiutils.evaluation.ranking.two_orders` has them; the best of both is at the upper right."""
    figure, grid = panels(len(found), 2, (4.6, 4.3), (0.3, 0.3), sharex=True, sharey=True)
    worst = max((float(np.nanmax(ranks.to_numpy(), initial=1)) for ranks in found.values()), default=1.0)
    known = {model: ranks.dropna() for model, ranks in found.items()}
    methods = list(dict.fromkeys(name for ranks in known.values() for name in ranks.index))
    for axes, (model, ranks) in zip(grid, known.items(), strict=True):
        axes.plot([1, worst], [1, worst], color="0.6", linestyle=":", linewidth=1)
        for i, name in enumerate(methods):  # in all panels alike, also where a model lacks some
            across, up = ranks.loc[name] if name in ranks.index else ([], [])
            colour, mark = COLOURS[i % len(COLOURS)], "os^D"[i // len(COLOURS) % 4]
            axes.plot(across, up, mark, color=colour, markersize=5, label=title_of(name, titles))
        axes.set(xlim=(worst + 0.5, 0.5), ylim=(worst + 0.5, 0.5), aspect="equal")
        axes.set_xlabel("finds the evidence: mean rank, 1 is best", fontsize=9)
        axes.set_title(drawn(model), fontsize=10)
        tidy(axes)
    grid[0].set_ylabel("names what the model uses: mean rank", fontsize=9)
    legend_below(figure, grid[0], 4)
    return figure


def rank_heatmap(
    ranks: pd.DataFrame, titles: Mapping[str, str] = MappingProxyType({}), controls: Sequence[str] = ()
) -> Figure:
    """Mean ranks (1 is best) of methods (rows) by metrics (columns), as `mean_ranks` gives them; controls in grey
    letters. Rows keep their order."""
    names = [f"{METRICS[m].title}\n({METRICS[m].direction})" for m in ranks]
    rows = [titles.get(m, m) for m in ranks.index]
    figure = Figure(figsize=(0.85 * len(names) + 3.0, 0.34 * len(rows) + 1.9), layout="constrained")
    axes = figure.subplots()
    values = ranks.to_numpy(float)
    texts = numbers_as_text(values, "{:.1f}")
    shown = heat_map(axes, values, texts, rows, names, "viridis_r", (1, len(ranks)), **SLANTED)
    figure.colorbar(shown, ax=axes, label="mean rank (1: best)", shrink=0.8)
    for label, method in zip(axes.get_yticklabels(), ranks.index, strict=True):
        label.set_color("0.5" if method in controls else "black")
    return figure


def agreement_heatmap(tau: pd.DataFrame) -> Figure:
    """Kendall's tau of every two metrics, as `agreement` gives it, those that agree beside each other."""
    return cluster_map(tau, "Kendall's tau", {name: METRICS[name].label for name in tau})


def scatter_pair(
    table: pd.DataFrame,
    metric: str,
    a: str,
    b: str,
    titles: Mapping[str, str] = MappingProxyType({}),
    colour_by: str = "correct",
) -> Figure:
    """Two methods image by image: one dot per image, below the diagonal where ``a`` has the larger value. Colours
    by the column ``colour_by`` where the table has it."""
    wide = _pair(table, metric, a, b)
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    groups = wide.groupby(colour_by, sort=True) if colour_by in wide else [("", wide)]
    for i, (name, group) in enumerate(groups):
        label = drawn(f"{colour_by}: {name}") if colour_by in wide else None
        axes.scatter(group[a], group[b], s=22, color=COLOURS[i % len(COLOURS)], alpha=0.75, linewidths=0, label=label)
    low, high = (float(f(wide[[a, b]].to_numpy(), initial=0)) for f in (np.min, np.max))
    axes.plot([low, high], [low, high], color="0.5", linewidth=1, linestyle=":")
    more = int((wide[a] > wide[b]).sum()), int((wide[a] < wide[b]).sum())
    axes.set_xlabel(f"{title_of(a, titles)} (larger on {more[0]})")
    axes.set_ylabel(f"{title_of(b, titles)} (larger on {more[1]})")
    axes.set_title(f"{METRICS[metric].label} of {len(wide)} images", fontsize=10)
    if colour_by in wide:
        axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return figure


def _pair(table: pd.DataFrame, metric: str, a: str, b: str) -> pd.DataFrame:
    """Columns a, b and what else the table says of each image."""
    rows = check_one_reading(table[table["metric"] == metric])
    wide = rows[rows["method"].isin((a, b))].pivot_table("value", "image_id", "method", sort=False).dropna()
    if not {a, b} <= set(wide):
        raise ValueError(f"{metric}: {a!r} and {b!r} are not both in the table with values of the same images.")
    facts = (
        rows.drop_duplicates("image_id")
        .set_index("image_id")
        .drop(columns=["method", "metric", "value", "reading"], errors="ignore")
    )
    return wide.join(facts)


def against(
    table: pd.DataFrame,
    metric: str,
    column: str,
    methods: Sequence[str],
    label: str = "",
    titles: Mapping[str, str] = MappingProxyType({}),
) -> Figure:
    """A metric of each image against a fact of it (size of the lesion, probability), one panel per method, with the
    line of least squares where the fact varies."""
    check_one_reading(table[table["metric"] == metric])
    figure, grid = panels(len(methods), 4, (2.2, 2.1), (0.6, 0.5), sharex=True, sharey=True)
    for axes, method in zip(grid, methods, strict=True):
        chosen = table[(table["metric"] == metric) & (table["method"] == method)].dropna(subset=["value", column])
        x, y = chosen[column].to_numpy(float), chosen["value"].to_numpy(float)
        dots, line = {"s": 14, "alpha": 0.7, "linewidths": 0}, {"color": COLOURS[1], "linewidth": 1.5}
        fits = len(x) > 2 and np.ptp(x) > 0
        sns.regplot(x=x, y=y, ci=None, fit_reg=fits, color=COLOURS[0], scatter_kws=dots, line_kws=line, ax=axes)
        axes.set_title(title_of(method, titles), fontsize=9)
        tidy(axes)
    figure.supxlabel(drawn(label or column), fontsize=9)
    figure.supylabel(METRICS[metric].label, fontsize=9)
    return figure


def disagreement_grid(
    ds: ImageDataset,
    maps: Mapping[str, np.ndarray],
    found: pd.DataFrame,
    a: str,
    b: str,
    metric: str,
    signed: Mapping[str, bool],
    titles: Mapping[str, str] = MappingProxyType({}),
) -> Figure:
    """The images of `disagreements` with the maps of both methods, and the values of each beside them.

    ``maps`` are of all images of ``ds``, read as those that were scored (`xaiutils.map_reading`).
    """
    where, classes = [ds.ids.index(i) for i in found["image_id"]], ds.label_texts()
    rows = [
        f"{classes[i]}\n{one:.2f} | {other:.2f}" for i, one, other in zip(where, found["a"], found["b"], strict=True)
    ]
    both = {name: maps[name][where] for name in (a, b)}
    names = {name: titles.get(name, name) for name in (a, b)}
    masks = None if ds.masks is None else ds.masks[where]
    title = f"{METRICS[metric].label}: {names[a]} | {names[b]}"
    return attribution_grid(ds.select(where).images, both, signed, rows, names, masks, title)
