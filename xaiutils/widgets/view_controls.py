"""The controls of a `View`: what is explained, how its maps are made, and how they are drawn."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ipywidgets as widgets
import numpy as np

from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.thresholds import THRESHOLD
from xaiutils.transforms import TRANSFORMS
from xaiutils.widgets.compute_scene import SceneComputer
from xaiutils.widgets.map_controls import MapControls
from xaiutils.widgets.parameter_controls import Guard, ParameterBox, Quiet, dropdown, labelled, options
from xaiutils.widgets.view_settings import MOST_MAPS, PALETTES, READ_AS, SCALES, STYLES, View, clip_box, read_box

_SOURCE = ("dataset", "model", "image", "target", "transform")
_LOOK = ("style", "opacity", "palette", "reading", "scale", "threshold", "level", "area")
_OUTLINES = ("show_mask", "show_found", "show_grid")
_WRAP = {"flex_flow": "row wrap", "align_items": "center"}


class ViewControls:
    """All controls of a view.

    ``widgets`` are those of its plain values, by name; ``transform_parameters`` and ``maps`` those of its transform and
    methods; ``columns`` and ``look`` are boxes with all of them but the region.

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
        self.maps = [
            MapControls(k + 1, lambda: self._tell("maps"), guard, self._quiet, defaults) for k in range(MOST_MAPS)
        ]
        for name, widget in self.widgets.items():
            widget.observe(guard(partial(self._value_changed, name)), names="value")
        w = self.widgets
        source = widgets.VBox([*(w[name] for name in _SOURCE), self.transform_parameters.box, w["seed"]])
        source.add_class("xai-column")
        across = widgets.Layout(flex_flow="row wrap", align_items="flex-start", grid_gap="10px")
        self.columns = widgets.HBox([source, *(one.box for one in self.maps)], layout=across)
        rows = [[w[name] for name in names] for names in (_LOOK, _OUTLINES)]
        self.look = widgets.VBox([widgets.HBox(row, layout=widgets.Layout(**_WRAP)) for row in rows])

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
        return View(**values, transform_parameters=self.transform_parameters.values(), maps=maps)

    def show(self, view: View) -> None:
        """Set all controls to a checked view that names its data set, without calling ``changed``."""
        with self._quiet:
            self.widgets["dataset"].value, self.widgets["model"].value = view.dataset, view.model
            self._offer_images_and_classes()
            for name, widget in self.widgets.items():
                if name != "region":
                    widget.value = getattr(view, name)
            self.widgets["region"].value = "" if view.region is None else ", ".join(map(str, view.region))
            self.transform_parameters.show(TRANSFORMS[view.transform].parameters, view.transform_parameters)
            for one, choice in zip(self.maps, [*view.maps, None, None], strict=False):
                one.set(choice)

    def offer(self, view: View, layers: tuple[str, ...]) -> None:
        """Show the controls that mean something for a view, and offer the layers of its model."""
        self.widgets["level"].layout.display = "" if view.threshold == "fixed" else "none"
        self.widgets["area"].layout.display = "" if view.threshold == "top_area" else "none"
        self.widgets["opacity"].disabled = view.style != "overlay"
        for one in self.maps:
            one.offer_layers(layers)
            one.offer_methods(self._computer.unsuited(view.model))

    def set_region(self, box: list[float]) -> None:
        """The region by its corners as fractions of the image: left, top, right, bottom; empty for none."""
        rows, columns = self.dataset.pixels.shape[1:3]
        found = clip_box(np.multiply(box, (columns, rows, columns, rows)).tolist(), rows, columns) if box else None
        self.widgets["region"].value = "" if found is None else ", ".join(map(str, found))

    def _tell(self, name: str) -> None:
        if not self._quiet.on:
            self._changed(name)

    def _value_changed(self, name: str, _change: Any) -> None:
        if self._quiet.on:
            return
        if name in ("dataset", "model"):
            with self._quiet:
                self._offer_images_and_classes()
                self.widgets["region"].value = "" if name == "dataset" else self.widgets["region"].value
        if name == "transform":
            self.transform_parameters.show(TRANSFORMS[self.widgets["transform"].value].parameters, {})
        self._changed(name)

    def _offer_images_and_classes(self) -> None:
        ds, target, model = self.dataset, self.widgets["target"], self.widgets["model"].value
        self.widgets["image"].max = len(ds) - 1
        names = self._computer.class_names(View(model, 0, dataset=self.widgets["dataset"].value))
        predicted = "the score" if self._computer.is_score(model) else "predicted class"
        classes = options({-1: predicted, **{i: str(name) for i, name in enumerate(names)}})
        if list(target.options) != classes:
            target.options = classes
            target.value = -1


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
        return dropdown(name, texts, tooltip, "max-content", "initial")

    def slide(name: str, value: float, tooltip: str) -> widgets.FloatSlider:
        given = labelled(name, tooltip, "200px", "initial")
        return widgets.FloatSlider(value=value, min=0, max=1, step=0.01, **given)

    def tick(name: str, tooltip: str) -> widgets.Checkbox:
        layout = widgets.Layout(width="auto", margin="2px 14px 2px 2px")
        return widgets.Checkbox(description=name, tooltip=tooltip, indent=False, layout=layout)

    threshold, level, area = THRESHOLD
    return {
        "style": choose("show", STYLES, "how the maps are drawn"),
        "opacity": slide("opacity", 0.8, "of the overlay"),
        "palette": choose("colours", {name: name for name in PALETTES}, "all safe for any colour vision"),
        "reading": choose("read maps", READ_AS, "what is drawn, outlined, measured and deleted of a sign"),
        "scale": choose("scale", SCALES, "maps of different methods share no unit"),
        "threshold": choose("threshold", {name: name for name in threshold.choices}, threshold.help),
        "level": slide("level", level.default, level.help),
        "area": slide("area", area.default, area.help),
        "show_mask": tick("outline the evidence", "the border of the known mask"),
        "show_found": tick("outline what is found", "the pixels over the threshold, which IoU counts"),
        "show_grid": tick("grid of patches", "the fields that the model sees: patches, or the last feature map"),
    }


def _region() -> widgets.Text:
    tooltip = "in pixels; or draw it on an image; a click clears it"
    return widgets.Text(
        placeholder="left, top, right, bottom",
        continuous_update=False,
        **labelled("region", tooltip, "260px", "initial"),
    )
