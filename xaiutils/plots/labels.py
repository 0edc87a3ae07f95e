"""Figures of classifiers of several labels, and of models of a measured quantity: of `classification.LabelReport` and
`classification.ValueReport`."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xaiutils.classification.curves import threshold_table
from xaiutils.classification.labels import LabelReport
from xaiutils.classification.values import ValueReport
from xaiutils.plots.style import COLOURS, WIDEST, legend_below, line_style, panels, tidy
from xaiutils.statistics.formatting import score
from xaiutils.text import drawn


def auc_forest(reports: Mapping[str, LabelReport]) -> Figure:
    """AUC with its interval of each label, and their macro and micro averages, a row each; a colour for each model."""
    first = next(iter(reports.values()))
    rows = [*first.table.index, *first.averages.index]
    figure = Figure(figsize=(6, 0.4 * len(rows) + 0.2 * len(reports) + 0.9), layout="constrained")
    axes = figure.subplots()
    for i, (name, report) in enumerate(reports.items()):
        whole = pd.concat([report.table, report.averages]).loc[rows]
        y = np.arange(len(rows)) + (i - (len(reports) - 1) / 2) * 0.6 / len(reports)
        auc = whole["AUC"].to_numpy(float)
        errors = np.abs(np.nan_to_num(whole[["AUC low", "AUC high"]].to_numpy(float).T - auc))
        axes.errorbar(auc, y, xerr=errors, fmt="o", color=COLOURS[i % len(COLOURS)], capsize=3, label=drawn(name))
    counts = [f"{drawn(label)} ({first.table.loc[label, 'positive']:.0f})" for label in first.table.index]
    axes.set_yticks(range(len(rows)), [*counts, *first.averages.index])
    axes.axvline(0.5, color="0.4", linestyle=":", linewidth=1)
    axes.axhline(len(first.table) - 0.5, color="0.8", linewidth=0.8)
    axes.set(xlabel=f"AUC, {first.split} split ({first.confidence:.0%} interval)", ylim=(len(rows) - 0.4, -0.6))
    axes.set_ylabel("label (images with it)")
    tidy(axes)
    if len(reports) > 1:
        legend_below(figure, axes, len(reports))
    return figure


def label_roc_curves(reports: Mapping[str, LabelReport]) -> Figure:
    """Sensitivity against 1 - specificity of each label, with a dot at its threshold (filled: chosen on validation
    images; open: on these); a panel for each model."""
    figure, grid = panels(len(reports), 3, (4.4, 5.2))
    for axes, (name, report) in zip(grid, reports.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.4", linestyle=":", linewidth=1)
        for i, (label, row) in enumerate(report.table[report.table["AUC"].notna()].iterrows()):
            found = report.reports[str(label)].predictions
            curve = threshold_table(found.labels == 1, found.probabilities[:, 1])
            style = line_style(i)
            text = drawn(f"{label}: AUC {score(row['AUC'])}")
            axes.plot(1 - curve["specificity"], curve["sensitivity"], label=text, **style)
            inside = style["color"] if row["chosen on"] == "validation" else "white"
            place = (1 - row["specificity"], row["sensitivity"])
            axes.plot(*place, "o", color=style["color"], markerfacecolor=inside, markersize=5)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set_title(drawn(f"{name}, {report.split} split"), fontsize=10)
        axes.set_aspect("equal")
        tidy(axes)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure


def predicted_values(reports: Mapping[str, ValueReport]) -> Figure:
    """Predicted against measured values, and below the difference of both against their mean, with bias and limits of
    agreement (Bland & Altman 1986); a column for each model."""
    figure = Figure(figsize=(min(WIDEST, 3.8 * len(reports) + 0.3), 6.8), layout="constrained")
    grid = figure.subplots(2, len(reports), squeeze=False)
    for column, (name, report) in enumerate(reports.items()):
        _scatter(grid[0, column], name, report, COLOURS[column % len(COLOURS)])
        _bland_altman(grid[1, column], report, COLOURS[column % len(COLOURS)])
    return figure


def _scatter(axes: Axes, name: str, report: ValueReport, colour: str) -> None:
    y, p = report.predictions.values, report.predictions.predicted
    ends = min(y.min(), p.min()), max(y.max(), p.max())
    axes.plot(ends, ends, color="0.4", linestyle=":", linewidth=1)
    axes.plot(y, p, ".", color=colour, alpha=0.6)
    axes.axhline(report.constant, color="0.7", linewidth=0.8, label=f"mean of {report.constant_of}")
    values = report.metrics["value"]
    figures = f"MAE {values['MAE']:.3g}, R2 {values['R2']:.2f}, Spearman {values['Spearman']:.2f}"
    axes.set_title(drawn(f"{name}, {report.split} split\n{figures}"), fontsize=9)
    what = drawn(report.value_name or "value")
    axes.set(xlabel=f"measured {what}", ylabel=f"predicted {what}")
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)


def _bland_altman(axes: Axes, report: ValueReport, colour: str) -> None:
    y, p = report.predictions.values, report.predictions.predicted
    axes.plot((y + p) / 2, p - y, ".", color=colour, alpha=0.6)
    axes.axhline(0, color="0.4", linestyle=":", linewidth=1)
    for key, row in report.agreement.iterrows():
        axes.axhline(row["value"], color="black", linestyle="-" if key == "bias" else "--", linewidth=1)
        if np.isfinite(row["low"]):
            axes.axhspan(row["low"], row["high"], color="0.5", alpha=0.15, linewidth=0)
        side = axes.get_yaxis_transform()
        axes.text(1.0, row["value"], f"{key} {row['value']:.3g}", transform=side, fontsize=7, ha="right", va="bottom")
    axes.set(xlabel="mean of both", ylabel="predicted - measured")
    tidy(axes)
