"""The controls of a `View`: what is explained, how its maps are made, and how they are drawn."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import ipywidgets as widgets
import numpy as np

from xaiutils.attribution import METHODS
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.thresholds import THRESHOLD
from xaiutils.transforms import TRANSFORMS
from xaiutils.widgets.compute_scene import SceneComputer
from xaiutils.widgets.map_controls import MapControls, MapOffers
from xaiutils.widgets.parameter_controls import Guard, ParameterBox, Quiet, check_shown, dropdown, labelled, options
from xaiutils.widgets.view_settings import (
    GREYS,
    MOST_MAPS,
    PALETTES,
    READ_AS,
    SCALES,
    STYLES,
    THRESHOLDS,
    View,
    clip_box,
    read_box,
)

_SOURCE = ("dataset", "model", "image", "target", "transform")
_LOOK = ("style", "opacity", "palette", "reading", "scale", "window", "threshold", "level", "area")
_OUTLINES = ("show_mask", "show_found", "show_grid")


class ViewControls:
    """All controls of a view.

    ``widgets`` are those of its plain values, by name; ``transform_parameters`` and ``maps`` those of its transform and
    methods. ``source`` has those of what is explained, ``columns`` those of the drawing and of the maps.

    Args:
        computer: whose models and data sets can be chosen.
        changed: called with the name of each value that the user changes.
        guard: wraps the handlers of events.
        defaults: parameters by method's name, which take the place of the declared defaults.
    """

    def __init__(
        self,
        computer: SceneComputer,
        changed: Callable[[str], None],
        guard: Guard,
        defaults: Mapping[str, Mapping[str, Any]],
    ):
        self._computer, self._changed, self._quiet = computer, changed, Quiet()
        self.widgets: dict[str, widgets.Widget] = {**_source(computer), **_look(), "region": _region()}
        self.transform_parameters = ParameterBox(guard(lambda _: self._tell("transform_parameters")))
        self.zoom: list[int] | None = None  # the part of the image that is drawn
        offers = MapOffers(
            lambda: self._tell("maps"),
            guard,
            self._quiet,
            defaults,
            list(computer.models),
            self._class_names,
            lambda: self.maps[0].choice,
        )
        self.maps = [MapControls(k + 1, offers) for k in range(MOST_MAPS)]
        for name, widget in self.widgets.items():
            widget.observe(guard(partial(self._value_changed, name)), names="value")
        w = self.widgets
        self.source = widgets.VBox([*(w[name] for name in _SOURCE), self.transform_parameters.box, w["seed"]])
        ticks = widgets.HBox([widgets.Label("outline"), *(w[name] for name in _OUTLINES)])
        ticks.add_class("xai-ticks")
        look = widgets.VBox([*(w[name] for name in _LOOK), ticks])
        look.add_class("xai-column")
        self.columns = widgets.HBox([look, *(one.box for one in self.maps)])

    @property
    def dataset(self) -> ImageDataset:
        """The chosen data set."""
        return self._computer.datasets[self.widgets["dataset"].value]

    def read(self) -> View:
        """What the controls ask for. Raises ValueError for texts that cannot be read."""
        values = {name: widget.value for name, widget in self.widgets.items()}
        rows, columns = self.dataset.pixels.shape[1:3]
        values["region"] = read_box(values["region"], rows, columns)
        maps = tuple(choice for one in self.maps if (choice := one.choice) is not None)
        values["zoom"] = None if self.zoom is None else tuple(self.zoom)
        return View(**values, transform_parameters=self.transform_parameters.values(), maps=maps)

    def show(self, view: View) -> None:
        """Set all controls to a checked view that names its data set, without calling ``changed``. Raises ValueError
        for parameters that are arrays, before a control is set."""
        for asked in view.maps:
            check_shown(METHODS[asked.method].parameters, asked.parameters)
        with self._quiet:
            self.widgets["dataset"].value, self.widgets["model"].value = view.dataset, view.model
            self._offer_images_and_classes()
            for name, widget in self.widgets.items():
                if name != "region":
                    widget.value = getattr(view, name)
            self.widgets["region"].value = "" if view.region is None else ", ".join(map(str, view.region))
            self.zoom = None if view.zoom is None else list(view.zoom)
            self._show_what_counts(view)
            self.transform_parameters.show(TRANSFORMS[view.transform].parameters, view.transform_parameters)
            for one, choice in zip(self.maps, [*view.maps, None, None], strict=False):
                one.set(choice)

    def offer(self, view: View, layers: Mapping[str, tuple[str, ...]]) -> None:
        """Show the controls that mean something for a view, and offer the layers of its models, by the model's name."""
        self._show_what_counts(view)
        for one in self.maps:
            model = one.model.value or view.model
            one.offer_layers(layers.get(model, ()))
            one.offer_methods(self._computer.unsuited(model))

    def _show_what_counts(self, view: View) -> None:
        self.widgets["level"].layout.display = "" if view.threshold == "fixed" else "none"
        self.widgets["area"].layout.display = "" if view.threshold == "top_area" else "none"
        self.widgets["opacity"].disabled = view.style != "overlay"
        transform = TRANSFORMS[view.transform]
        self.widgets["seed"].layout.display = "none" if view.transform == "original" or transform.geometric else ""

    def set_region(self, box: list[float]) -> None:
        """The region by its corners as fractions of what an image shows: left, top, right, bottom; empty for none."""
        rows, columns = self.dataset.pixels.shape[1:3]
        left, top, right, bottom = self.zoom or (0, 0, columns, rows)
        size = (right - left, bottom - top)
        found = clip_box((np.multiply(box, size * 2) + (left, top) * 2).tolist(), rows, columns) if box else None
        self.widgets["region"].value = "" if found is None else ", ".join(map(str, found))

    def set_zoom(self, part: list[float]) -> None:
        """The part of the images that is drawn, as fractions of an image: left, top, right, bottom."""
        rows, columns = self.dataset.pixels.shape[1:3]
        found = clip_box(np.multiply(part, (columns, rows, columns, rows)).tolist(), rows, columns)
        zoom = None if found in (None, (0, 0, columns, rows)) else list(found)
        if zoom != self.zoom:
            self.zoom = zoom
            self._tell("zoom")

    def _tell(self, name: str) -> None:
        if not self._quiet.on:
            self._changed(name)

    def _value_changed(self, name: str, _change: Any) -> None:
        if self._quiet.on:
            return
        if name in ("dataset", "model"):
            with self._quiet:
                self._offer_images_and_classes()
                if name == "dataset":
                    self.widgets["region"].value, self.zoom = "", None
        if name == "transform":
            self.transform_parameters.show(TRANSFORMS[self.widgets["transform"].value].parameters, {})
        self._changed(name)

    def _offer_images_and_classes(self) -> None:
        ds, target, model = self.dataset, self.widgets["target"], self.widgets["model"].value
        self.widgets["image"].max = len(ds) - 1
        names = self._class_names("")
        for one in self.maps:
            one.offer_classes()
        predicted = "the score" if self._computer.is_score(model) else "predicted class"
        classes = options({-1: predicted, **{i: str(name) for i, name in enumerate(names)}})
        if list(target.options) != classes:
            target.options = classes
            target.value = -1

    def _class_names(self, model: str) -> Sequence[str]:
        values = self.widgets
        return self._computer.class_names(View(model or values["model"].value, 0, dataset=values["dataset"].value))


def _source(computer: SceneComputer) -> dict[str, widgets.Widget]:
    """The controls of what is explained."""
    predicted = "what is explained; the predicted class is what the model says of the untransformed image"
    transforms = {name: entry.title for name, entry in TRANSFORMS.items()}
    return {
        "dataset": dropdown("data set", {name: name for name in computer.datasets}),
        "model": dropdown("model", {name: name for name in computer.models}),
        "image": widgets.BoundedIntText(min=0, max=0, **labelled("image", "position in the data set")),
        "target": dropdown("class", {}, predicted),
        "transform": dropdown("transform", transforms, "change of the image before it is explained"),
        "seed": widgets.BoundedIntText(min=0, max=10**6, **labelled("seed", "of the transform's random draws")),
    }


def _look() -> dict[str, widgets.Widget]:
    """The controls of the drawing, and of which pixels count as found."""

    def choose(name: str, texts: Mapping[str, str], tooltip: str) -> widgets.Dropdown:
        return dropdown(name, texts, tooltip)

    def slide(name: str, value: float, tooltip: str) -> widgets.FloatSlider:
        given = labelled(name, tooltip)
        return widgets.FloatSlider(value=value, min=0, max=1, step=0.01, **given)

    def tick(name: str, tooltip: str) -> widgets.Checkbox:
        layout = widgets.Layout(width="auto")
        return widgets.Checkbox(description=name, tooltip=tooltip, indent=False, layout=layout)

    threshold, level, area = THRESHOLD
    greys = "the grey levels that are drawn black and white; the model sees the image as it is"
    return {
        "style": choose("show", STYLES, "how the maps are drawn"),
        "opacity": slide("opacity", 0.8, "of the overlay"),
        "palette": choose("colours", {name: name for name in PALETTES}, "all safe for any colour vision"),
        "reading": choose("read maps", READ_AS, "what is drawn, outlined, measured and deleted of a sign"),
        "scale": choose("scale", SCALES, "maps of different methods share no unit"),
        "window": widgets.IntRangeSlider(value=GREYS, min=GREYS[0], max=GREYS[1], **labelled("greys", greys)),
        "threshold": choose("threshold", THRESHOLDS, threshold.help),
        "level": slide("level", level.default, level.help),
        "area": slide("area", area.default, area.help),
        "show_mask": tick("evidence", "the border of the known mask"),
        "show_found": tick("found", "the pixels over the threshold, which IoU counts"),
        "show_grid": tick("grid", "the fields that the model sees: patches, or the last feature map"),
    }


def _region() -> widgets.Text:
    tooltip = "in pixels; or draw it on an image; a click clears it"
    return widgets.Text(
        placeholder="left, top, right, bottom",
        continuous_update=False,
        **labelled("region", tooltip, label_width="initial") | {"layout": widgets.Layout(width="200px")},
    )
