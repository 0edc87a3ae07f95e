"""The numbers of a scene: what its maps have in the evidence and in the region, and the table that shows them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from xaiutils.evaluation import METRICS
from xaiutils.evaluation.metrics.metric import Case
from xaiutils.registry import check_parameters
from xaiutils.text import one_line
from xaiutils.widgets.scene import RANDOM_ORDER, ComputedMap, Scene
from xaiutils.widgets.view_settings import READ_AS, Box, View

_THRESHOLDS = {"mean_std": "mean + 1 SD", "otsu": "Otsu"}


def box_mask(box: Box, shape: tuple[int, ...]) -> np.ndarray:
    """Bool ``shape``, True inside left, top, right, bottom."""
    left, top, right, bottom = box
    inside = np.zeros(shape, bool)
    inside[top:bottom, left:right] = True
    return inside


def measure(
    maps: Sequence[ComputedMap],
    mask: np.ndarray | None,
    view: View,
    correlation: Callable[[ComputedMap, ComputedMap], float],
) -> pd.DataFrame:
    """What the maps, as they were read, have in the evidence and in the region: a row for each map and quantity.

    Columns: map (1, 2, 3), method, quantity, value, chance (what an uninformed map is expected to have, NaN where that
    is not known). Quantities: with a mask that is not empty, the metrics iou (at the view's threshold), pointing_game
    and relevance_mass; with a region, region_positive, the share of the map's positive sum that falls into it, and
    region_negative, that of the negative sum; correlation_k, Spearman's with map k.
    """
    rows: list[tuple[int, str, str, float, float]] = []
    for i, found in enumerate(maps, 1):
        if found.values is None:
            continue
        values = found.values[None]
        measured: dict[str, tuple[float, float]] = {}
        if mask is not None and mask.any():
            for name, given in (("iou", view.threshold_parameters), ("pointing_game", {}), ("relevance_mass", {})):
                metric = METRICS[name]
                parameters = check_parameters(f"metric {name!r}", metric.parameters, given)
                chance = np.nan if metric.chance is None else metric.chance(mask[None], **parameters)[0]
                measured[name] = metric.compute(Case(values, mask[None]), **parameters)[0], chance
        if view.region is not None:
            inside = box_mask(view.region, found.values.shape)
            share = METRICS["relevance_mass"].compute
            measured["region_positive"] = share(Case(values, inside[None]))[0], inside.mean()
            if found.signed:
                measured["region_negative"] = share(Case(-values, inside[None]))[0], inside.mean()
        for k, other in enumerate(maps, 1):
            if k != i and other.values is not None:
                measured[f"correlation_{k}"] = correlation(found, other), np.nan
        rows += [(i, found.choice.method, name, float(v), float(c)) for name, (v, c) in measured.items()]
    return pd.DataFrame(rows, columns=["map", "method", "quantity", "value", "chance"])


def numbers_table(scene: Scene, areas: Mapping[int, float]) -> str:
    """The table below the picture as HTML, a column for each map; the cells' classes are the names of the quantities.

    ``areas``: areas under the deletion curves by the map's number, where they are known.
    """
    numbers = range(1, len(scene.maps) + 1)
    found = scene.numbers.set_index(["quantity", "map"])
    rows: dict[str, tuple[str, list[str]]] = {}
    if any(m.reading for m in scene.maps):
        read = [READ_AS[m.reading] if m.reading else "no sign" for m in scene.maps]
        rows["read"] = "read", ["" if m.values is None else r for m, r in zip(scene.maps, read, strict=True)]
    for quantity, label, form in _quantities(scene):
        rows[quantity] = label, [_cell(found, quantity, k, form) for k in numbers]
    if areas:
        random = f" (random {areas[RANDOM_ORDER]:.2f})"
        cells = [f"{areas[k]:.2f}{random}" if k in areas else "" for k in numbers]
        rows["deletion"] = "area under the deletion curve", cells
    rows["range"] = "values from, to", [_range(m) for m in scene.maps]
    rows = {quantity: row for quantity, row in rows.items() if any(row[1])}
    titles = [f"{k}: {one_line(m.choice.title)}" for k, m in enumerate(scene.maps, 1)]
    table = pd.DataFrame([cells for _, cells in rows.values()], [label for label, _ in rows.values()], titles)
    table.columns.name = _about(scene)
    classes = pd.DataFrame({title: list(rows) for title in titles}, table.index)
    style = table.style.format(escape="html").format_index(escape="html").format_index(escape="html", axis=1)
    return style.set_td_classes(classes).set_table_attributes('class="xai-numbers"').to_html()


def _quantities(scene: Scene) -> list[tuple[str, str, Callable[[float], str]]]:
    """Name, label and form of each measured quantity, in the table's order."""
    view = scene.view
    level = {"fixed": f"{view.level:.2f} of the range", "top_area": f"the top {view.area:.0%}"}
    threshold = _THRESHOLDS.get(view.threshold) or level[view.threshold]
    return [
        ("iou", f"IoU, over {threshold}", _plain),
        ("pointing_game", "maximum in the evidence", _hit),
        ("relevance_mass", "relevance mass in the evidence", _plain),
        ("region_positive", "share of the map in the region", _share),
        ("region_negative", "share of its negative part", _share),
        *((f"correlation_{k}", f"rank correlation with map {k}", _plain) for k in range(1, len(scene.maps) + 1)),
    ]


def _about(scene: Scene) -> str:
    """How large the evidence and the region are: what an uninformed map has in them."""
    size = 0.0 if scene.mask is None else float(scene.mask.mean())
    parts = [f"evidence {size:.1%}" if size else "no known evidence"]
    if scene.view.region is not None:
        parts.append(f"region {box_mask(scene.view.region, scene.image.shape[:2]).mean():.1%}")
    return ", ".join(parts)


def _cell(found: pd.DataFrame, quantity: str, number: int, form: Callable[[float], str]) -> str:
    if (quantity, number) not in found.index:
        return ""
    value, chance = found.loc[(quantity, number), ["value", "chance"]].astype(float)
    if np.isnan(value):
        return "undefined"
    expected = _share(chance) if form is _share else _plain(chance)
    return form(value) + ("" if np.isnan(chance) else f" (chance {expected})")


def _plain(value: float) -> str:
    return f"{round(value, 2) + 0:.2f}"  # + 0: no -0.00


def _share(value: float) -> str:
    return f"{value:.1%}"


def _hit(value: float) -> str:
    return {1.0: "yes", 0.0: "no"}.get(value, f"{value:.2f}")


def _range(found: ComputedMap) -> str:
    if found.values is None:
        return ""
    return f"{found.values.min():.3g}, {found.values.max():.3g} (in {found.seconds:.2f} s)"
