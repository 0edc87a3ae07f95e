"""Figures. Every function takes arrays or tables and returns a `matplotlib.figure.Figure`, drawn without pyplot.

Colours are safe for colour-blind readers: viridis for maps without sign, blue-white-red around 0 for signed ones,
and the Okabe-Ito palette for lines and marks.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from xaiutils.datasets import ImageDataset
from xaiutils.datasets.phantom import Phantom

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
OUTLINE = "#E69F00"
COMPOSITION = ("view", "side", "density", "abnormality", "tag")  # columns of the metadata that are shown
MAP_COLOURS = {True: "RdBu_r", False: "viridis"}  # by whether the map is signed
CLIP_PERCENTILE = 99.0  # the strongest hundredth of the pixels would else hide the rest


def display_range(maps: np.ndarray, signed: bool) -> Normalize:
    """Colour limits of raw maps: symmetric about 0 if signed, else from the smallest value, up to a high percentile."""
    if signed:
        top = float(np.percentile(np.abs(maps), CLIP_PERCENTILE)) or float(np.abs(maps).max()) or 1.0
        return Normalize(-top, top)
    low, top = float(maps.min()), float(np.percentile(maps, CLIP_PERCENTILE))
    top = top if top > low else float(maps.max())
    return Normalize(low, top if top > low else low + 1.0)


def class_balance(splits: Mapping[str, ImageDataset]) -> Figure:
    """Images by class and split; bars lie where there are many classes, or long names."""
    names = next(iter(splits.values())).class_names
    lying = len(names) > 6 or sum(map(len, names)) > 40
    figure = Figure(figsize=(6.5, max(3, 0.24 * len(names) * len(splits) ** 0.5)) if lying else (6.5, 3))
    axes = figure.subplots()
    for i, (split, ds) in enumerate(splits.items()):
        counts = np.bincount(ds.labels, minlength=len(names))
        bars = _bars(axes, counts, i, len(splits), split, lying)
        if len(names) <= 12:
            axes.bar_label(bars, fontsize=7 if lying else 8)
    if lying:
        axes.set_yticks(np.arange(len(names)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("images")
    else:
        axes.set_xticks(np.arange(len(names)), names)
        axes.set_ylabel("images")
        axes.margins(y=0.15)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _tidy(axes)
    return figure


def _bars(axes: Axes, values: np.ndarray, i: int, n: int, label: str, lying: bool = False):
    """The ``i``-th of ``n`` bars side by side at each value's place."""
    width = 0.8 / n
    places = np.arange(len(values)) + (i - (n - 1) / 2) * width
    draw = axes.barh if lying else axes.bar
    return draw(places, values, width, label=label, color=COLOURS[i % len(COLOURS)])


def composition(splits: Mapping[str, ImageDataset], columns: Sequence[str] = COMPOSITION) -> Figure | None:
    """What the data says of the images (view, side, density, ...): by split above, by class below. None where it says
    nothing, or the same of every image."""
    known = {}
    for name in columns:
        found = [d.metadata[name].map(_said) for d in splits.values() if name in d.metadata]
        if found and 1 < len(values := sorted(set().union(*found))) <= 12:
            known[name] = values
    if not known:
        return None
    class_names = next(iter(splits.values())).class_names
    rows = 2 if len(class_names) <= 6 else 1
    figure = Figure(figsize=(3.2 * len(known), 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, len(known), squeeze=False)
    for column, (name, values) in enumerate(known.items()):
        groups = [(s, d.metadata[name].map(_said)) for s, d in splits.items() if name in d.metadata]
        having = [d for d in splits.values() if name in d.metadata]
        labels = np.concatenate([d.labels for d in having])
        pooled = pd.concat([said for _, said in groups], ignore_index=True)
        by_class = [(c, pooled[labels == i]) for i, c in enumerate(class_names)]
        for axes, found, order in zip(grid[:, column], (groups, by_class), (list(splits), class_names), strict=False):
            for label, said in found:
                parts = np.array([(said == v).mean() if len(said) else 0 for v in values])
                _bars(axes, parts, list(order).index(label), len(order), label)
            axes.set_xticks(np.arange(len(values)), values, rotation=35 if max(map(len, values)) > 5 else 0)
            axes.set_title(name, fontsize=10)
            _tidy(axes)
    for axes, what in zip(grid[:, 0], ("part of the split", "part of the class"), strict=False):
        axes.set_ylabel(what)
    for axes in grid[:, -1]:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _said(value: object) -> str:
    text = "" if value is None or value != value else str(value).strip()
    return text or "not stated"


def intensities(ds: ImageDataset, most: int = 300) -> Figure:
    """How often each grey value (mean of the channels) occurs, by class: the mean over images (at most ``most`` of a
    class, evenly spread), with the middle half of them shaded. Over six classes are drawn as one."""
    figure = Figure(figsize=(6.5, 3))
    axes = figure.subplots()
    edges = np.arange(0, 257, 8)
    few = len(ds.class_names) <= 6
    groups = {c: np.flatnonzero(ds.labels == i) for i, c in enumerate(ds.class_names)} if few else {}
    groups = {c: m for c, m in groups.items() if len(m)} or {"all classes": np.arange(len(ds))}
    for i, (name, members) in enumerate(groups.items()):
        members = members[np.linspace(0, len(members) - 1, min(len(members), most)).astype(int)]
        parts = np.array([np.histogram(ds.pixels[m].mean(axis=-1), edges)[0] for m in members], float)
        parts /= parts.sum(axis=1, keepdims=True)
        low, high = np.percentile(parts, [25, 75], axis=0)
        axes.fill_between(edges[:-1] + 4, low, high, color=COLOURS[i], alpha=0.2, linewidth=0)
        axes.plot(edges[:-1] + 4, parts.mean(axis=0), color=COLOURS[i], label=name)
    axes.set(xlabel="grey value", ylabel="part of the pixels", xlim=(0, 255), yscale="log")
    axes.set_ylim(bottom=1e-5)
    axes.legend(frameon=False, fontsize=8)
    _tidy(axes)
    return figure


def lesion_lengths(lengths: Mapping[str, np.ndarray], image_size: int) -> Figure | None:
    """Lengths of the evidence in pixels by class, with the sides of a ViT's patches (16, 32) for comparison; None
    where there are none. Over six classes are drawn as one."""
    found = {name: np.asarray(v, float)[np.isfinite(v)] for name, v in lengths.items()}
    found = {name: values for name, values in found.items() if len(values)}
    if not found:
        return None
    every = np.concatenate(list(found.values()))
    found = found if len(found) <= 6 else {"all classes": every}
    low, high = max(0.5, every.min() / 1.1), max(2.0, every.max() * 1.1)
    edges = np.unique(np.round(np.geomspace(low, high, 25))) - 0.5  # between whole pixels: no bin is empty by its place
    figure = Figure(figsize=(6.5, 3))
    axes = figure.subplots()
    for i, (name, values) in enumerate(found.items()):
        axes.hist(values, edges, histtype="step", linewidth=1.6, color=COLOURS[i], label=name)
        axes.axvline(float(np.median(values)), color=COLOURS[i], linewidth=1, linestyle="--")
    axes.set_xscale("log", base=2)
    for side in (16, 32):
        if edges[0] < side < edges[-1]:
            axes.axvline(side, color="0.4", linestyle=":", linewidth=1)
            axes.text(side, axes.get_ylim()[1], f"patch of {side}", ha="center", va="bottom", fontsize=7, color="0.3")
    axes.set(xlabel=f"length in pixels of {image_size}; dashed: medians", ylabel="images")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False, fontsize=8)
    _tidy(axes)
    return figure


def twins(phantoms: Sequence[Phantom], others: Sequence[Phantom], names: Sequence[str]) -> Figure:
    """Phantoms over their counterfactual twins over the evidence, the difference between the two; ``names`` are the
    classes by label."""
    figure = Figure(figsize=(2.2 * len(phantoms), 6.9), layout="compressed")
    grid = figure.subplots(3, len(phantoms), squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    top = max(float(p.evidence.max()) for p in phantoms) or 1.0
    for column, (one, other) in enumerate(zip(phantoms, others, strict=True)):
        for axes, shown in zip(grid[:, column], (one, other), strict=False):
            axes.imshow(shown.image, cmap="gray", vmin=0, vmax=1)
            axes.set_title(names[shown.label], fontsize=9)
        found = grid[2, column].imshow(one.evidence, cmap=MAP_COLOURS[False], vmin=0, vmax=top)
    for axes, text in zip(grid[:, 0], ("image", "twin", "evidence"), strict=True):
        axes.set_ylabel(text)
    figure.colorbar(found, ax=grid[2, :].tolist(), label="|image - twin|", shrink=0.8)
    return figure


def patch_grid(ds: ImageDataset, patch_sizes: Sequence[int] = (16, 32)) -> Figure:
    """The images as a Vision Transformer cuts them, a column for each patch size; the line is the evidence's border."""
    figure = Figure(figsize=(3.4 * len(patch_sizes), 3.5 * len(ds)), layout="compressed")
    for row, axes_row in enumerate(figure.subplots(len(ds), len(patch_sizes), squeeze=False)):
        for axes, patch in zip(axes_row, patch_sizes, strict=True):
            axes.set_axis_off()
            axes.imshow(ds.pixels[row])
            outline(axes, None if ds.masks is None else ds.masks[row])
            n = ds.image_size // patch
            for k in range(n + 1):
                axes.plot([k * patch - 0.5] * 2, [-0.5, n * patch - 0.5], color=COLOURS[5], linewidth=0.5)
                axes.plot([-0.5, n * patch - 0.5], [k * patch - 0.5] * 2, color=COLOURS[5], linewidth=0.5)
            name = ds.class_names[ds.labels[row]]
            axes.set_title(f"{name}: {n} x {n} = {n * n} patches of {patch}", fontsize=9)
    return figure


def image_grid(ds: ImageDataset, columns: int = 6, titles: Sequence[str] | None = None) -> Figure:
    """The images of ``ds`` with the outlines of their masks; titles default to the class."""
    rows = -(-len(ds) // columns)
    figure = Figure(figsize=(1.7 * columns, 1.9 * rows), layout="compressed")
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if i < len(ds):
            axes.imshow(ds.pixels[i])
            outline(axes, None if ds.masks is None else ds.masks[i])
            axes.set_title(ds.class_names[ds.labels[i]] if titles is None else titles[i], fontsize=9)
    return figure


def outline(axes: Axes, mask: np.ndarray | None, width: float = 0.8) -> None:
    """Draw the border of a bool mask ``(height, width)``; nothing for None or an empty one."""
    if mask is not None and mask.any() and not mask.all():
        axes.contour(mask, levels=[0.5], colors=OUTLINE, linewidths=width)


def training_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss and accuracy of training and validation, a column for each model; a dot marks the epoch that was kept."""
    figure = Figure(figsize=(4 * len(histories), 5), layout="constrained")
    grid = figure.subplots(2, len(histories), squeeze=False)
    for column, (name, history) in enumerate(histories.items()):
        best = history["val_loss"].idxmin()
        for axes, what in zip(grid[:, column], ("loss", "accuracy"), strict=True):
            axes.plot(history["epoch"], history[what], color=COLOURS[0], label="training")
            axes.plot(history["epoch"], history[f"val_{what}"], color=COLOURS[1], linestyle="--", label="validation")
            axes.plot(history["epoch"][best], history[f"val_{what}"][best], "o", color=COLOURS[1])
            axes.set_ylabel(what)
            _tidy(axes)
        grid[0, column].set_title(name)
        grid[1, column].set_xlabel("epoch")
        grid[1, column].set_ylim(0, 1.03)
    grid[0, 0].legend(frameon=False)
    return figure


def confusion_matrices(confusions: Mapping[str, pd.DataFrame]) -> Figure:
    """True classes in rows, predicted ones in columns: counts, shaded by the part of the row."""
    n = len(next(iter(confusions.values())))
    side = max(2.6, 0.45 * n + 1.2)
    figure = Figure(figsize=(side * len(confusions) + 0.6, side), layout="constrained")
    for axes, (name, confusion) in zip(
        figure.subplots(1, len(confusions), squeeze=False)[0], confusions.items(), strict=True
    ):
        counts = confusion.to_numpy()
        part = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(part, cmap="Blues", vmin=0, vmax=1)
        for (i, j), count in np.ndenumerate(counts):
            axes.text(j, i, count, ha="center", va="center", color="white" if part[i, j] > 0.5 else "black", fontsize=9)
        axes.set_xticks(np.arange(n), confusion.columns, rotation=45 if n > 3 else 0)
        axes.set_yticks(np.arange(n), confusion.index)
        axes.set(title=name, xlabel="predicted", ylabel="true")
    return figure


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
    """Lay a map over its image (grey, so that colour means attribution only); returns what a colour bar needs."""
    limits = limits or display_range(attribution, signed)
    # Signed maps lie on a lightened image: their colours meet in white, which grey would hide.
    grey = np.asarray(image, np.float32).mean(axis=-1)
    axes.imshow(grey, cmap="gray", vmin=-1000 if signed else 0, vmax=255)
    # Weak attribution is nearly transparent, so that the image shows where the map says nothing.
    strength = np.clip(np.abs(limits(attribution) - 0.5) * 2 if signed else limits(attribution), 0, 1)
    axes.imshow(attribution, cmap=MAP_COLOURS[signed], norm=limits, alpha=opacity * (0.25 + 0.75 * np.sqrt(strength)))
    outline(axes, mask, outline_width)
    if not np.any(attribution):
        axes.text(0.5, 0.5, "all 0", transform=axes.transAxes, ha="center", va="center", color="#D55E00")
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
    left.set_title(image_title, fontsize=10)
    shown = draw_map(middle, image, attribution, signed, mask, opacity)
    middle.set_title(title, fontsize=10)
    figure.colorbar(shown, ax=middle, shrink=0.85, label="attribution (raw)")
    top = np.argsort(-probabilities, kind="stable")[:10][::-1]
    bars = right.barh([str(class_names[i]) for i in top], probabilities[top], color=COLOURS[0])
    right.bar_label(bars, fmt="%.2f", fontsize=9, padding=2)
    right.set_xlim(0, 1.2)
    right.set_xticks([0, 0.5, 1])
    right.set_title("probability", fontsize=10)
    _tidy(right)
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
        first.set_ylabel(row_titles[row], fontsize=8)
        for axes, (name, found) in zip(grid[row, 1:], maps.items(), strict=True):
            draw_map(axes, images[row], found[row], signed[name], mask, opacity=0.9, outline_width=0.35)
    grid[0, 0].set_title("input", fontsize=9)
    for axes, name in zip(grid[0, 1:], maps, strict=True):
        axes.set_title(column_titles[name], fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def forest(
    summary: pd.DataFrame, metric_titles: Mapping[str, str], chance: Mapping[str, float], controls: Sequence[str]
) -> Figure:
    """Mean and interval of each method (rows) and metric (columns), one colour for each model.

    ``summary`` has the columns method, metric, model, mean, low, high. Control maps are grey; a dotted line marks
    ``chance``.
    """
    metrics, methods = list(dict.fromkeys(summary["metric"])), list(dict.fromkeys(summary["method"]))
    models = list(dict.fromkeys(summary["model"]))
    figure = Figure(figsize=(2.4 * len(metrics) + 1.5, 0.3 * len(methods) + 1.3), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0], metrics, strict=True):
        for i, model in enumerate(models):
            part = summary[(summary["metric"] == metric) & (summary["model"] == model)].set_index("method")
            shift = (i - (len(models) - 1) / 2) * 0.25
            for row, method in enumerate(methods):
                if method in part.index and np.isfinite(part.loc[method, "mean"]):
                    mean, low, high = part.loc[method, ["mean", "low", "high"]].astype(float)
                    colour = "0.55" if method in controls else COLOURS[i]
                    axes.plot([low, high], [row + shift] * 2, color=colour, linewidth=1.5)
                    axes.plot(mean, row + shift, "os^D"[i % 4], color=colour, markersize=4.5)
        if metric in chance:
            axes.axvline(chance[metric], color="0.4", linestyle=":", linewidth=1)
        axes.set_title(metric_titles[metric], fontsize=9)
        _tidy(axes)
    first = figure.axes[0]
    first.set_yticks(np.arange(len(methods)), methods, fontsize=9)
    first.invert_yaxis()
    for i, model in enumerate(models):
        first.plot([], [], "os^D"[i % 4], color=COLOURS[i], label=model)
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=len(models), frameon=False)
    return figure


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def toy_accuracy(table: pd.DataFrame, bayes: float = 0.99) -> Figure:
    """Accuracy and the length of the first kernel by step, a line for each recipe of `training.toy_optimisers`.

    Dotted lines mark chance and ``bayes``, the best possible accuracy.
    """
    figure = Figure(figsize=(8.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, part) in enumerate(table.groupby("recipe", sort=False)):
        for axes, column in ((left, "accuracy"), (right, "weight_norm")):
            axes.plot(part["step"], part[column], color=COLOURS[i], linestyle=("-", "--", "-.", ":")[i % 4], label=name)
    for level, text in ((0.5, "chance"), (bayes, "best possible")):
        left.axhline(level, color="0.4", linestyle=":", linewidth=1)
        left.annotate(text, (1, level), (-2, 3), ("axes fraction", "data"), "offset points", ha="right", fontsize=8)
    left.set_ylim(0.4, 1.06)
    left.set_ylabel("accuracy on new points")
    right.set_ylabel("L2 norm of the first kernel")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlabel("step")
        _tidy(axes)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
