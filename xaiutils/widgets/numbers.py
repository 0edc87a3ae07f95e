"""The numbers of a scene as a table in HTML, a column for each map."""

import html
from collections.abc import Callable, Mapping

import pandas as pd

from xaiutils.widgets.scene import Map, Scene, box_mask
from xaiutils.widgets.view import READ_AS

_THRESHOLDS = {"mean_std": "mean + 1 SD", "otsu": "Otsu"}


def numbers_table(scene: Scene, areas: Mapping[str, float]) -> str:
    """``areas``: areas under the deletion curves by their names, where they are known."""
    view = scene.view
    level = {"fixed": f"{view.level:.2f} of the range", "top_area": f"the top {view.area:.0%}"}
    threshold = _THRESHOLDS.get(view.threshold) or level[view.threshold]
    rows = [
        ("iou", f"IoU, over {threshold}", _plain),
        ("pointing_game", "maximum in the evidence", _hit),
        ("relevance_mass", "relevance mass in the evidence", _plain),
        ("region_positive", "share of the map in the region", _share),
        ("region_negative", "share of its negative part", _share),
        *((f"correlation_{k}", f"rank correlation with map {k}", _plain) for k in range(1, len(scene.maps) + 1)),
    ]
    found = scene.numbers.set_index(["quantity", "map"])
    count = len(scene.maps)
    body = []
    for quantity, label, form in rows:
        cells = [_cell(found, quantity, k, form) for k in range(1, count + 1)]
        if any(cells):
            body.append((label, cells, quantity))
    if areas:
        named = {
            int(name.split(":")[0].removeprefix("map ")): a for name, a in areas.items() if name.startswith("map ")
        }
        random = f" <small>random {areas['random order']:.2f}</small>"
        cells = [f"{named[k]:.2f}{random}" if k in named else "" for k in range(1, count + 1)]
        body.append(("area under the deletion curve", cells, "deletion"))
    if any(m.reading for m in scene.maps):
        read = [READ_AS[m.reading] if m.reading else "no sign" for m in scene.maps]
        body.insert(0, ("read", ["" if m.values is None else r for m, r in zip(scene.maps, read, strict=True)], "read"))
    body.append(("values from, to", [_range(m) for m in scene.maps], "range"))
    head = "".join(f'<th scope="col">{k}: {html.escape(m.choice.title)}</th>' for k, m in enumerate(scene.maps, 1))
    lines = "".join(
        f'<tr data-quantity="{quantity}"><th scope="row">{html.escape(label)}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
        for label, cells, quantity in body
    )
    width = 100 / (1 + count)
    columns = f'<col style="width:{width:.1f}%">' * (1 + count)
    return (
        f'<table class="xai-numbers"><colgroup>{columns}</colgroup>'
        f'<thead><tr><th scope="col">{_about(scene)}</th>{head}</tr></thead><tbody>{lines}</tbody></table>'
    )


def _about(scene: Scene) -> str:
    """How large the evidence and the region are: what a map without knowledge has in them."""
    has_mask = scene.mask is not None and scene.mask.any()
    parts = [f"evidence {scene.mask.mean():.1%}" if has_mask else "no known evidence"]
    if scene.view.region is not None:
        parts.append(f"region {box_mask(scene.view.region, scene.image.shape[:2]).mean():.1%}")
    return ", ".join(parts)


def _cell(found: pd.DataFrame, quantity: str, number: int, form: Callable[[float], str]) -> str:
    if (quantity, number) not in found.index:
        return ""
    row = found.loc[(quantity, number)]
    if pd.isna(row.value):
        return "undefined"
    chance = (
        ""
        if pd.isna(row.chance)
        else f" <small>chance {form(row.chance) if form is _share else _plain(row.chance)}</small>"
    )
    return form(row.value) + chance


def _plain(value: float) -> str:
    return f"{round(value, 2) + 0:.2f}"  # + 0: no -0.00


def _share(value: float) -> str:
    return f"{value:.1%}"


def _hit(value: float) -> str:
    return {1.0: "yes", 0.0: "no"}.get(value, f"{value:.2f}")


def _range(found: Map) -> str:
    if found.values is None:
        return ""
    return f"{found.values.min():.3g}, {found.values.max():.3g} <small>in {found.seconds:.2f} s</small>"
