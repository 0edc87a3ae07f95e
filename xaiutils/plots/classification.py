"""Figures of classifiers: confusions, curves, calibration and net benefit. They take reports of `xaiutils.training`'s
`classification_report` or of `xaiutils.classification.assess`, by model; for results per patient, those of
``report.levels["patient"]``."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xaiutils.classification import SCREENING, Report
from xaiutils.classification.curves import threshold_table
from xaiutils.plots.style import COLOURS, WIDEST, heat_map, line_style, panels, tidy
from xaiutils.statistics.formatting import plural, score, with_interval
from xaiutils.text import drawn

_MARKS = {"specificity": "o", "sensitivity": "s"}  # by the figure that the threshold was chosen to reach
_MOST_CLASSES = 6


def confusion_matrices(confusions: Mapping[str, pd.DataFrame]) -> Figure:
    """True classes in rows, predicted ones in columns: counts, shaded by the fraction of the row."""
    n = max(len(c.columns) for c in confusions.values())
    side = max(2.6, 0.45 * n + 1.2)
    figure, grid = panels(len(confusions), len(confusions), (side, side), (0.6, 0))
    for axes, (name, confusion) in zip(grid, confusions.items(), strict=True):
        counts = confusion.to_numpy()
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        names = list(confusion.index), list(confusion.columns)
        heat_map(axes, shares, counts.astype(str), *names, "Blues", (0, 1), rotation=45 if n > 3 else 0)
        axes.set(title=drawn(name), xlabel="predicted", ylabel="true")
    return figure


def roc_curves(reports: Mapping[str, Report], screening: bool = False) -> Figure:
    """Sensitivity against 1 - specificity, chance dotted.

    Of a positive class all models share the axes, with marks at the operating points (filled: chosen on validation
    images; open: on these) and a cross at the model's own answers; otherwise
    each model has a panel with one line per class.
    ``screening`` adds the star of screening mammography (`xaiutils.classification.SCREENING`).
    """

    def draw(axes: Axes, table: pd.DataFrame, **style) -> None:
        axes.plot(1 - table["specificity"], table["sensitivity"], **style)

    def finish(axes: Axes, shown: Mapping[str, Report]) -> None:
        axes.plot([0, 1], [0, 1], color="0.4", linestyle=":", linewidth=1)
        for i, report in enumerate(shown.values()):
            _mark_points(axes, report, COLOURS[i % len(COLOURS)])
        if any(r.operating_points is not None for r in shown.values()):
            for what, mark in _MARKS.items():
                axes.plot([], [], mark, color="0.4", label=f"threshold for {what} {SCREENING[what]}")
            axes.plot([], [], "X", color="0.4", label="its own answers")
        if screening:
            x, y = 1 - SCREENING["specificity"], SCREENING["sensitivity"]
            axes.plot(x, y, "*", color="black", markersize=11, label="US screening (BCSC 2017)", linestyle="none")
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))

    return _curves(reports, "AUC", "ROC", draw, finish)


def precision_recall_curves(reports: Mapping[str, Report]) -> Figure:
    """Precision against recall; a dotted line marks the prevalence, the precision of calling everything positive.
    Laid out as `roc_curves`."""

    def draw(axes: Axes, table: pd.DataFrame, **style) -> None:
        called = table[table["called"] > 0]
        axes.step(called["sensitivity"], called["precision"], where="pre", **style)

    def finish(axes: Axes, shown: Mapping[str, Report]) -> None:
        report = next(iter(shown.values()))
        if report.positive is not None:
            axes.axhline(float(np.mean(report.predictions.labels == report.positive)), color="0.4", linestyle=":")
            axes.plot([], [], color="0.4", linestyle=":", label="prevalence")
        axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))

    return _curves(reports, "average precision", "Precision and recall", draw, finish)


def reliability(reports: Mapping[str, Report]) -> Figure:
    """Observed frequency against predicted probability, in bins of equal numbers, with Wilson's intervals;
    the diagonal is perfect. Below: how many of each outcome were given which probability."""
    figure = Figure(figsize=(min(WIDEST, 3.6 * len(reports) + 0.4), 4.6), layout="constrained")
    grid = figure.subplots(2, len(reports), squeeze=False, sharex=True, height_ratios=(3, 1))
    for column, (name, report) in enumerate(reports.items()):
        upper, lower = grid[:, column]
        bins, row, colour = report.reliability, report.calibration.iloc[0], COLOURS[column % len(COLOURS)]
        upper.plot([0, 1], [0, 1], color="0.4", linestyle=":", linewidth=1)
        errors = np.abs(bins[["low", "high"]].to_numpy().T - bins["frequency"].to_numpy())
        upper.errorbar(bins["probability"], bins["frequency"], errors, fmt="o-", color=colour, markersize=4, capsize=2)
        slope = f", slope {row['slope']:.2f}" if np.isfinite(row["slope"]) else ""
        error = f"ECE {row['ECE']:.3f} ({row['ECE if calibrated']:.3f} if calibrated){slope}"
        upper.set_title(f"{drawn(name)}, {report.split} split, per {report.level}\n{error}", fontsize=9)
        upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="frequency")
        happened, p = report.event
        edges = np.linspace(0, 1, 21)
        stated = drawn(report.calibration.index[0].removeprefix("probability of "))
        what = "right" if stated == "the top class" else stated
        lower.hist(
            [p[happened], p[~happened]], edges, stacked=True, color=(colour, "0.75"), label=(what, f"not {what}")
        )
        lower.set(xlabel=f"stated probability of {stated}", ylabel=plural(report.level))
        lower.margins(y=0.7)  # for the legend
        lower.legend(frameon=False, fontsize=8)
        for axes in (upper, lower):
            tidy(axes)
    return figure


def decision_curves(reports: Mapping[str, Report]) -> Figure:
    """Net benefit by threshold probability, against treating all and treating none; of models with a positive class.

    Raises ValueError where no report has a decision curve.
    """
    shown = {name: (r, r.decision) for name, r in reports.items() if r.decision is not None}
    if not shown:
        raise ValueError("no report has a decision curve: name a positive class, of which there are images.")
    figure = Figure(figsize=(6.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for i, (name, (_, table)) in enumerate(shown.items()):
        axes.plot(table["threshold"], table["model"], label=drawn(name), **line_style(i))
    first, table = next(iter(shown.values()))
    axes.plot(table["threshold"], table["treat all"], color="0.35", linewidth=1, label="treat all")
    axes.axhline(0, color="0.35", linewidth=1, linestyle=":", label="treat none")
    prevalence = float(np.mean(first.predictions.labels == first.positive))
    axes.set(xlim=(0, 1), ylim=(-0.15 * prevalence, 1.08 * prevalence))
    axes.set_xlabel("threshold probability")
    axes.set_ylabel(f"net benefit (true positives per {first.level})")
    axes.set_title(_title("Decision curve", first), fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return figure


def _curves(
    reports: Mapping[str, Report],
    what: str,
    title: str,
    draw: Callable[..., None],
    finish: Callable[[Axes, Mapping[str, Report]], None],
) -> Figure:
    """One panel for all models with a positive class; otherwise one per model, with one line per class."""
    together = all(r.positive is not None for r in reports.values())
    parts = [reports] if together else [{name: r} for name, r in reports.items()]
    figure, grid = panels(len(parts), 2, (5, 6.2) if together else (4.2, 5.6))
    for axes, shown in zip(grid, parts, strict=True):
        finish(axes, shown)
        for i, (name, report) in enumerate(shown.items()):
            row = report.metrics.loc[what]
            value = f"{what} {with_interval(row)}" if np.isfinite(row["value"]) else f"no {what}"
            if together:
                p, labels = report.probabilities, report.predictions.labels
                table = threshold_table(labels == report.positive, p[:, report.positive])
                draw(axes, table, label=drawn(f"{name}: {value}"), **line_style(i))
                axes.set_title(_title(title, report), fontsize=10)
            else:
                _classes(axes, report, what, draw)
                axes.set_title(drawn(f"{name}, {report.split} split, per {report.level}\nmean {value}"), fontsize=10)
        axes.set_aspect("equal")
        tidy(axes)
        axes.legend(*_models_first(axes), frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure


def _models_first(axes: Axes) -> tuple[list, list]:
    """Handles and labels of the legend, curves before what explains them."""
    handles, labels = axes.get_legend_handles_labels()
    curves = [i for i, h in enumerate(handles) if isinstance(h, Line2D) and len(np.ravel(h.get_xdata())) > 1]
    order = [*curves, *(i for i in range(len(handles)) if i not in curves)]
    return [handles[i] for i in order], [labels[i] for i in order]


def _classes(axes: Axes, report: Report, what: str, draw: Callable[..., None]) -> None:
    """One line per class; of many classes those with the lowest values are named and coloured."""
    values = report.class_intervals[what].dropna().sort_values()
    names = list(report.predictions.class_names)
    for i, (name, value) in enumerate(values.items()):
        c = names.index(name)
        table = threshold_table(report.predictions.labels == c, report.probabilities[:, c])
        if i < _MOST_CLASSES:
            draw(axes, table, zorder=2, label=drawn(f"{name}: {what} {score(value)}"), **line_style(i))
        else:
            others = "the other classes" if i == _MOST_CLASSES else None
            draw(axes, table, zorder=1, label=others, color="0.8", linewidth=0.8)


def _mark_points(axes: Axes, report: Report, colour: str) -> None:
    points = pd.DataFrame() if report.operating_points is None else report.operating_points
    for _, row in points.iterrows():
        inside = colour if row["chosen on"] == "validation" else "white"
        place, mark = (1 - row["specificity"], row["sensitivity"]), _MARKS[row["held"]]
        axes.plot(*place, mark, color=colour, markerfacecolor=inside, markersize=6, zorder=3)
    if len(points):
        value = report.metrics["value"]
        axes.plot(1 - value["specificity"], value["sensitivity"], "X", color=colour, markersize=7, zorder=3)


def _title(what: str, report: Report) -> str:
    if report.positive is None:
        raise ValueError("the report has no positive class.")
    labels = report.predictions.labels
    n, name = int((labels == report.positive).sum()), drawn(report.predictions.class_names[report.positive])
    return f"{what}, {report.split} split, per {report.level}\n{n} of {len(labels)} are '{name}'"
