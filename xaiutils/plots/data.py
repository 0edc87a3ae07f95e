"""Figures of data sets: their classes, what is in them, how they look."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xaiutils.datasets import ImageDataset
from xaiutils.datasets.phantom import Phantom
from xaiutils.plots.maps import draw_image
from xaiutils.plots.style import COLOURS, MAP_COLOURS, SLANTED, WIDEST, panels, tidy
from xaiutils.text import drawn

COMPOSITION = ("view", "side", "density", "abnormality", "tag")  # columns of the metadata that are shown


def class_balance(splits: Mapping[str, ImageDataset]) -> Figure:
    """Images by class and split; horizontal bars where there are many classes or long names."""
    names = next(iter(splits.values())).class_names
    horizontal = len(names) > 6 or sum(map(len, names)) > 40
    height = max(3, 0.24 * len(names) * len(splits) ** 0.5) if horizontal else 3
    figure = Figure(figsize=(6.5, height), layout="constrained")
    axes = figure.subplots()
    for i, (split, ds) in enumerate(splits.items()):
        bars = _bars(axes, ds.class_counts, i, len(splits), split, horizontal)
        if len(names) <= 12:
            axes.bar_label(bars, fontsize=7 if horizontal else 8)
    if horizontal:
        axes.set_yticks(np.arange(len(names)), list(map(drawn, names)), fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("images")
    else:
        axes.set_xticks(np.arange(len(names)), list(map(drawn, names)))
        axes.set_ylabel("images")
        axes.margins(y=0.15)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    tidy(axes)
    return figure


def _bars(axes: Axes, values: np.ndarray, i: int, n: int, label: str, horizontal: bool = False):
    """The ``i``-th of ``n`` bars side by side at each value's place."""
    width = 0.8 / n
    places = np.arange(len(values)) + (i - (n - 1) / 2) * width
    draw = axes.barh if horizontal else axes.bar
    return draw(places, values, width, label=drawn(label), color=COLOURS[i % len(COLOURS)])


def composition(splits: Mapping[str, ImageDataset], columns: Sequence[str] = COMPOSITION) -> Figure | None:
    """What the data says of the images (view, side, density, ...): by split above, by class below. None where it says
    nothing, or the same of every image."""
    known = {}
    for name in columns:
        found = [d.metadata[name].map(_stated) for d in splits.values() if name in d.metadata]
        if found and 1 < len(values := sorted(set().union(*found))) <= 12:
            known[name] = values
    if not known:
        return None
    class_names = next(iter(splits.values())).class_names
    rows = 2 if len(class_names) <= 6 else 1
    figure = Figure(figsize=(min(WIDEST, 3.2 * len(known)), 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, len(known), squeeze=False)
    for column, (name, values) in enumerate(known.items()):
        groups = [(s, d.metadata[name].map(_stated)) for s, d in splits.items() if name in d.metadata]
        having = [d for d in splits.values() if name in d.metadata]
        pooled = pd.concat([column for _, column in groups], ignore_index=True)
        by_class = [(c, pooled[np.concatenate([d.members(i) for d in having])]) for i, c in enumerate(class_names)]
        for axes, found, order in zip(grid[:, column], (groups, by_class), (list(splits), class_names), strict=False):
            for label, stated in found:
                parts = np.array([(stated == v).mean() if len(stated) else 0 for v in values])
                _bars(axes, parts, list(order).index(label), len(order), label)
            slanted = SLANTED if max(map(len, values)) > 5 else {}
            axes.set_xticks(np.arange(len(values)), list(map(drawn, values)), **slanted)
            axes.set_title(drawn(name), fontsize=10)
            tidy(axes)
    for axes, what in zip(grid[:, 0], ("fraction of the split", "fraction of the class"), strict=False):
        axes.set_ylabel(what)
    for axes in grid[:, -1]:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _stated(value: object) -> str:
    text = "" if value is None or value != value else str(value).strip()
    return text or "not stated"


def intensities(ds: ImageDataset, most: int = 300) -> Figure:
    """How often each grey value (mean of the channels) occurs, by class: the mean over images (at most ``most`` of a
    class, evenly spread), with the middle half of them shaded. Over six classes are drawn as one."""
    figure = Figure(figsize=(6.5, 3), layout="constrained")
    axes = figure.subplots()
    edges = np.arange(0, 257, 8)
    few = len(ds.class_names) <= 6
    groups = {c: np.flatnonzero(ds.members(i)) for i, c in enumerate(ds.class_names)} if few else {}
    groups = {c: m for c, m in groups.items() if len(m)} or {"all classes": np.arange(len(ds))}
    for i, (name, members) in enumerate(groups.items()):
        members = members[np.linspace(0, len(members) - 1, min(len(members), most)).astype(int)]
        parts = np.array([np.histogram(ds.pixels[m].mean(axis=-1), edges)[0] for m in members], float)
        parts /= parts.sum(axis=1, keepdims=True)
        low, high = np.percentile(parts, [25, 75], axis=0)
        axes.fill_between(edges[:-1] + 4, low, high, color=COLOURS[i], alpha=0.2, linewidth=0)
        axes.plot(edges[:-1] + 4, parts.mean(axis=0), color=COLOURS[i], label=drawn(name))
    axes.set(xlabel="grey value", ylabel="fraction of pixels", xlim=(0, 255), yscale="log")
    axes.set_ylim(bottom=1e-5)
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
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
    edges = (
        np.unique(np.round(np.geomspace(low, high, 25))) - 0.5
    ).tolist()  # between whole pixels: no bin is empty by its place
    figure = Figure(figsize=(6.5, 3), layout="constrained")
    axes = figure.subplots()
    for i, (name, values) in enumerate(found.items()):
        axes.hist(values, edges, histtype="step", linewidth=1.6, color=COLOURS[i], label=drawn(name))
        axes.axvline(float(np.median(values)), color=COLOURS[i], linewidth=1, linestyle="--")
    axes.set_xscale("log", base=2)
    for side in (16, 32):
        if edges[0] < side < edges[-1]:
            axes.axvline(side, color="0.4", linestyle=":", linewidth=1)
            axes.text(side, axes.get_ylim()[1], f"patch of {side}", ha="center", va="bottom", fontsize=7, color="0.3")
    axes.set(xlabel=f"length in pixels of {image_size}; dashed: medians", ylabel="images")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return figure


def twins(phantoms: Sequence[Phantom], others: Sequence[Phantom], names: Sequence[str]) -> Figure:
    """Phantoms over their counterfactual twins over the evidence, the difference between the two; ``names`` are the
    classes by label."""
    figure = Figure(figsize=(min(WIDEST, 2.2 * len(phantoms)), 6.9), layout="compressed")
    grid = figure.subplots(3, len(phantoms), squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    top = max(float(p.evidence.max()) for p in phantoms) or 1.0
    for column, (one, other) in enumerate(zip(phantoms, others, strict=True)):
        for axes, shown in zip(grid[:, column], (one, other), strict=False):
            axes.imshow(shown.image, cmap="gray", vmin=0, vmax=1)
            axes.set_title(drawn(names[shown.label]), fontsize=9)
        found = grid[2, column].imshow(one.evidence, cmap=MAP_COLOURS[False], vmin=0, vmax=top)
    for axes, text in zip(grid[:, 0], ("image", "twin", "evidence"), strict=True):
        axes.set_ylabel(text)
    figure.colorbar(found, ax=grid[2, :].tolist(), label="|image - twin|", shrink=0.8)
    return figure


def patch_grid(ds: ImageDataset, patch_sizes: Sequence[int] = (16, 32)) -> Figure:
    """The images as a Vision Transformer cuts them, a column for each patch size; the line is the evidence's border."""
    figure = Figure(figsize=(3.4 * len(patch_sizes), 3.5 * len(ds)), layout="compressed")
    names = ds.label_texts()
    for row, axes_row in enumerate(figure.subplots(len(ds), len(patch_sizes), squeeze=False)):
        for axes, patch in zip(axes_row, patch_sizes, strict=True):
            draw_image(axes, ds.pixels[row], None if ds.masks is None else ds.masks[row])
            n = ds.image_size // patch
            for k in range(n + 1):
                axes.plot([k * patch - 0.5] * 2, [-0.5, n * patch - 0.5], color=COLOURS[5], linewidth=0.5)
                axes.plot([-0.5, n * patch - 0.5], [k * patch - 0.5] * 2, color=COLOURS[5], linewidth=0.5)
            axes.set_title(f"{drawn(names[row])}: {n} x {n} = {n * n} patches of {patch}", fontsize=9)
    return figure


def image_grid(ds: ImageDataset, columns: int = 6, titles: Sequence[str] | None = None) -> Figure:
    """The images of ``ds`` with the outlines of their masks; titles default to the class, or the labels."""
    titles = ds.label_texts() if titles is None else titles
    return pictures(ds.pixels, titles, columns, ds.masks)


def pictures(images: np.ndarray, titles: Sequence[str], columns: int = 6, masks: np.ndarray | None = None) -> Figure:
    """Images ``(n, height, width, 3)`` in [0, 255] with a title each, and the outlines of masks."""
    figure, grid = panels(len(images), columns, (1.55, 1.75), layout="compressed")
    for i, axes in enumerate(grid):
        draw_image(axes, images[i], None if masks is None else masks[i])
        axes.set_title(drawn(titles[i]), fontsize=9)
    return figure
