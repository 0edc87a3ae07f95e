"""The numbers of a scene: what its maps have in the evidence and in the region, and the table that shows them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from xaiutils.evaluation import METRICS
from xaiutils.evaluation.metrics.metric import Case
from xaiutils.evaluation.metrics.separation import with_warning
from xaiutils.registry import check_parameters
from xaiutils.text import one_line
from xaiutils.widgets.scene import RANDOM_ORDER, ComputedMap, Scene
from xaiutils.widgets.view_settings import READ_AS, THRESHOLDS, Box, View


def box_mask(box: Box, shape: tuple[int, ...]) -> np.ndarray:
    """Bool ``shape``, True inside left, top, right, bottom."""
    left, top, right, bottom = box
    inside = np.zeros(shape, bool)
    inside[top:bottom, left:right] = True
    return inside


def measure(
    maps: Sequence[ComputedMap],
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
        values, mask = found.values[None], found.answer.mask
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
    maps = dict(enumerate(scene.maps, 1))
    labels = _labels(scene, len(maps))
    table = pd.DataFrame("", list(labels), list(maps))
    for k, quantity, value, chance in scene.numbers[["map", "quantity", "value", "chance"]].itertuples(index=False):
        table.loc[quantity, k] = _text(quantity, value, chance)
    for k, found in maps.items():
        if found.values is not None:
            table.loc["range", k] = f"{found.values.min():.3g}, {found.values.max():.3g} (in {found.seconds:.2f} s)"
            if any(m.reading for m in scene.maps):
                table.loc["read", k] = READ_AS[found.reading] if found.reading else "no sign"
        if k in areas:
            random = "" if scene.own(found) else f" (random {areas[RANDOM_ORDER]:.2f})"  # of the view's model and class
            table.loc["deletion", k] = f"{areas[k]:.2f}{random}"
    table = table[table.ne("").any(axis=1)]
    titles = [f"{k}: {one_line(found.choice.title + scene.own(found))}" for k, found in maps.items()]
    table = table.set_axis(titles, axis=1).rename_axis(columns=_about(scene))
    classes = pd.DataFrame(dict.fromkeys(table.columns, table.index), table.index)
    style = table.style.format(escape="html").set_td_classes(classes).set_table_attributes('class="xai-numbers"')
    return style.format_index(labels.get).format_index(escape="html", axis=1).to_html()


def _labels(scene: Scene, count: int) -> dict[str, str]:
    """What the table says of each quantity, in its order."""
    view = scene.view
    level = {"fixed": f"{view.level:.2f} of the range", "top_area": f"the top {view.area:.0%}"}
    return {
        "read": "read",
        "iou": f"IoU, over {level.get(view.threshold, THRESHOLDS[view.threshold])}",
        "pointing_game": "maximum in the evidence",
        "relevance_mass": "relevance mass in the evidence",
        "region_positive": "share of the map in the region",
        "region_negative": "share of its negative part",
        **{f"correlation_{k}": f"rank correlation with map {k}" for k in range(1, count + 1)},
        "deletion": with_warning("area under the deletion curve", "deletion_auc"),
        "range": "values from, to",
    }


def _about(scene: Scene) -> str:
    """How large the evidence and the region are: what an uninformed map has in them."""
    size = 0.0 if scene.mask is None else float(scene.mask.mean())
    parts = [f"evidence {size:.1%}" if size else "no known evidence"]
    if scene.view.region is not None:
        parts.append(f"region {box_mask(scene.view.region, scene.image.shape[:2]).mean():.1%}")
    return ", ".join(parts)


def _text(quantity: str, value: float, chance: float) -> str:
    """A measured value with what chance gives."""
    if np.isnan(value):
        return "undefined"
    form = "{:.1%}" if quantity.startswith("region") else "{:.2f}"
    text = form.format(round(value, 2 if form == "{:.2f}" else 4) + 0)  # + 0: no -0.00
    if quantity == "pointing_game":
        text = {1.0: "yes", 0.0: "no"}.get(value, text)
    return text if np.isnan(chance) else f"{text} (chance {form.format(chance)})"
