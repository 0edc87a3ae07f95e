"""The panel of notebook 03: one image, one model, one method, and all their controls, built from the declarations.

Work runs in one thread behind the panel, because a callback that blocks cannot be stopped and blocks the other
controls. A newer request drops an older one; figures are drawn without pyplot, which is not safe in threads, into an
Image widget.
"""

import io
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import ipywidgets as widgets
import numpy as np
import yaml
from matplotlib.figure import Figure

from xaiutils import plots
from xaiutils.adversarial import TRANSFORMS
from xaiutils.attribution import METHODS, explain, predict
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.progress import listening
from xaiutils.registry import Parameter

_STYLE = {"description_width": "95px"}
_WIDE = widgets.Layout(width="272px")  # three columns fit JupyterLab's notebook in a window of 1280 pixels
_LIVE: list["Explorer"] = []  # the panel on show: running its cell again closes it instead of leaving two


class _Cancelled(Exception):
    """Raised inside a computation whose result nobody waits for any more."""


@dataclass(frozen=True)
class View:
    """All that one picture of the panel depends on."""

    model: str
    image: int
    target: int  # -1: the class predicted for the untransformed image
    transform: str
    method: str
    library: str = "xaiutils"
    transform_parameters: Mapping[str, Any] = field(default_factory=dict)
    method_parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    opacity: float = 0.8
    show_mask: bool = True


@dataclass(frozen=True)
class Shown:
    """A drawn `View`: the figure, the map ``(height, width)``, the probabilities and the explained class."""

    figure: Figure
    attribution: np.ndarray
    probabilities: np.ndarray
    target: int


def draw(view: View, models: Mapping[str, keras.Model], ds: ImageDataset, batch_size: int = 32) -> Shown:
    """Compute and draw a view; the panel and the static figure beside it both come from here."""
    one, model = ds.select([view.image]), models[view.model]
    transform, method = TRANSFORMS[view.transform], METHODS[view.method]
    target = int(predict(model, one.images)[0].argmax()) if view.target < 0 else view.target
    # An attack turns the model from its own answer, whichever class is explained: the image stays when that changes.
    image = transform.apply(one.images, seed=view.seed, model=model, batch_size=batch_size, **view.transform_parameters)
    probabilities = predict(model, image, probabilities=True)[0]
    maps = explain(model, image, target, view.method, view.library, batch_size, **view.method_parameters)
    mask = None
    if view.show_mask and one.masks is not None:
        mask = transform.apply_to_masks(one.masks, **view.transform_parameters)[0]
    signed = method.is_signed(view.method_parameters)
    figure = plots.explanation(
        image[0],
        maps[0],
        signed,
        f"{method.title} for {ds.class_names[target]!r}, p = {probabilities[target]:.2f}",
        probabilities,
        ds.class_names,
        mask,
        view.opacity,
        f"{transform.title}, true class {ds.class_names[one.labels[0]]!r}",
    )
    return Shown(figure, maps[0], probabilities, target)


def control(parameter: Parameter) -> widgets.Widget:
    """The control that suits a declared parameter."""
    common = {"description": parameter.name, "tooltip": parameter.help, "style": _STYLE, "layout": _WIDE}
    if parameter.choices and parameter.kind is str:
        return widgets.Dropdown(options=parameter.choices, value=parameter.default, **common)
    if parameter.kind is bool:
        return widgets.Checkbox(value=parameter.default, **common)
    if parameter.kind in (list, dict):  # as YAML: [a, b] or {name: value}
        text = yaml.safe_dump(parameter.default, default_flow_style=True).strip()
        return widgets.Text(value=text, continuous_update=False, **common)
    if parameter.kind is float and None in (parameter.low, parameter.high):
        return widgets.FloatText(value=parameter.default, continuous_update=False, **common)
    if parameter.kind is float:
        step = (parameter.high - parameter.low) / 100
        digits = ".3f" if step < 0.01 else ".2f"
        return widgets.FloatSlider(
            value=parameter.default,
            min=parameter.low,
            max=parameter.high,
            step=step,
            readout_format=digits,
            continuous_update=False,
            **common,
        )
    if parameter.kind is int:
        high = parameter.high if parameter.high is not None else 2**31 - 1
        return widgets.BoundedIntText(value=parameter.default, min=parameter.low or 0, max=int(high), **common)
    return widgets.Text(value=parameter.default, continuous_update=False, **common)


def read_control(parameter: Parameter, widget: widgets.Widget) -> Any:
    """The value that the control of a parameter shows."""
    return yaml.safe_load(widget.value) if parameter.kind in (list, dict) else widget.value


def write_control(parameter: Parameter, widget: widgets.Widget, value: Any) -> None:
    """Make the control of a parameter show ``value``."""
    as_text = parameter.kind in (list, dict)
    widget.value = yaml.safe_dump(value, default_flow_style=True).strip() if as_text else value


class Explorer:
    """The panel. Show it with ``display(explorer.panel)`` or as a cell's last value.

    Args:
        models: Keras classifiers by name.
        ds: images of the models' size.
        method_parameters: parameters by method's name, which take the place of the declared defaults.
        view: what to show first; the other fields of a View as keywords.
        batch_size: images in one pass.

    ``status`` is a line of text that starts with "done", "computing" or "error"; ``wait()`` blocks until the panel
    is idle (for tests).
    """

    def __init__(
        self,
        models: Mapping[str, keras.Model],
        ds: ImageDataset,
        batch_size: int = 32,
        method_parameters: Mapping[str, Mapping[str, Any]] | None = None,
        **view: Any,
    ):
        while _LIVE:
            _LIVE.pop().close()
        self.models, self.ds, self.batch_size = dict(models), ds, batch_size
        self.method_parameters = dict(method_parameters or {})
        first = {
            "model": next(iter(self.models)),
            "image": 0,
            "target": -1,
            "transform": "original",
            "method": "grad_cam",
        }
        first = {**first, **view}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="explorer")
        self._generation, self._lock = 0, threading.Lock()
        self._pending: Any = None
        self._build(View(**first))
        self.shown: Shown | None = None
        self._compute(self.view, self._next_generation())  # the first picture is there when the cell ends
        _LIVE.append(self)

    # Controls -------------------------------------------------------------------------------------------------------

    def _build(self, view: View) -> None:
        common = {"style": _STYLE, "layout": _WIDE}
        titles = {
            name: [(entry.title, key) for key, entry in r.items()] for name, r in (("m", METHODS), ("t", TRANSFORMS))
        }
        classes = [("predicted class", -1), *((str(name), i) for i, name in enumerate(self.ds.class_names))]
        self.controls: dict[str, widgets.Widget] = {
            "model": widgets.Dropdown(options=list(self.models), value=view.model, description="model", **common),
            "image": widgets.BoundedIntText(
                value=view.image, min=0, max=len(self.ds) - 1, description="image", **common
            ),
            "target": widgets.Dropdown(options=classes, value=view.target, description="class", **common),
            "transform": widgets.Dropdown(options=titles["t"], value=view.transform, description="transform", **common),
            "seed": widgets.BoundedIntText(value=view.seed, min=0, max=10**6, description="seed", **common),
            "method": widgets.Dropdown(options=titles["m"], value=view.method, description="method", **common),
            "library": widgets.Dropdown(
                options=METHODS[view.method].libraries, value=view.library, description="library", **common
            ),
            "opacity": widgets.FloatSlider(
                value=view.opacity, min=0, max=1, step=0.05, continuous_update=False, description="opacity", **common
            ),
            "show_mask": widgets.Checkbox(value=view.show_mask, description="outline the mask", **common),
        }
        self._parameters: dict[str, dict[str, widgets.Widget]] = {"transform": {}, "method": {}}
        self._boxes = {name: widgets.VBox() for name in self._parameters}
        self._show_parameters("transform", view.transform_parameters)
        self._show_parameters("method", self.method_parameters.get(view.method, {}))
        self.picture = widgets.Image(
            format="png", layout=widgets.Layout(width="100%", max_width="1000px", min_height="270px")
        )
        self._status = widgets.Label("")
        self._bar = widgets.FloatProgress(min=0, max=1, layout=widgets.Layout(width="200px", display="none"))
        self.stop = widgets.Button(description="Stop", disabled=True, tooltip="stop the computation")
        self.stop.on_click(self._guarded(lambda _: self._stop()))
        c = self.controls
        left = widgets.VBox([c["model"], c["image"], c["target"], c["opacity"], c["show_mask"]])
        middle = widgets.VBox([c["transform"], self._boxes["transform"], c["seed"]])
        right = widgets.VBox([c["method"], c["library"], self._boxes["method"]])
        foot = widgets.HBox([self.stop, self._bar, self._status])
        self.panel = widgets.VBox([widgets.HBox([left, middle, right]), foot, self.picture])
        for name, widget in c.items():
            handler = self._switch if name in ("transform", "method") else self._changed
            widget.observe(self._guarded(handler), names="value")

    def _show_parameters(self, kind: str, values: Mapping[str, Any]) -> None:
        entry = (METHODS if kind == "method" else TRANSFORMS)[self.controls[kind].value]
        for widget in self._parameters[kind].values():
            widget.close()
        # Arrays can only be given in Python.
        made = {p.name: control(p) for p in entry.parameters if p.kind is not np.ndarray}
        for p in entry.parameters:
            if p.name in values and p.name in made:
                write_control(p, made[p.name], values[p.name])
        for widget in made.values():
            widget.observe(self._guarded(self._changed), names="value")
        self._parameters[kind] = made
        self._boxes[kind].children = tuple(made.values())

    def _switch(self, change: Mapping[str, Any]) -> None:
        kind = "method" if change["owner"] is self.controls["method"] else "transform"
        values = self.method_parameters.get(self.controls["method"].value, {}) if kind == "method" else {}
        self._show_parameters(kind, values)
        if kind == "method":
            library = self.controls["library"]
            with library.hold_trait_notifications():
                library.options = METHODS[self.controls["method"].value].libraries
                library.value = "xaiutils"
        self._changed(change)

    @property
    def view(self) -> View:
        """What the controls ask for now."""
        c = self.controls
        return View(
            **{name: widget.value for name, widget in c.items()},
            method_parameters=self._values("method", self._taken),
            transform_parameters=self._values("transform"),
        )

    def _values(self, kind: str, taken: Callable[[str], bool] = lambda _: True) -> dict[str, Any]:
        shown = self._parameters[kind]
        entry = (METHODS if kind == "method" else TRANSFORMS)[self.controls[kind].value]
        return {p.name: read_control(p, shown[p.name]) for p in entry.parameters if p.name in shown and taken(p.name)}

    def _taken(self, parameter: str) -> bool:
        """Whether the chosen library takes a parameter of the method; its control is off where it does not."""
        from xaiutils.attribution.libraries import ADAPTERS

        library = self.controls["library"].value
        return library == "xaiutils" or parameter in ADAPTERS[library, self.controls["method"].value].parameters

    # Work -----------------------------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        return self._status.value

    def wait(self, timeout: float = 120) -> None:
        """Block until the last request is drawn or has failed."""
        if self._pending is not None:
            self._pending.result(timeout)

    def close(self) -> None:
        """Remove the panel and stop its work."""
        self._next_generation()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.panel.close()

    def _next_generation(self) -> int:
        with self._lock:
            self._generation += 1
            return self._generation

    def _changed(self, _change: Any) -> None:
        for name, widget in self._parameters["method"].items():
            widget.disabled = not self._taken(name)
        self._status.value = "computing ..."
        self.picture.layout.opacity = "0.4"  # the old picture does not belong to the new controls
        self.stop.disabled = False
        self._pending = self._pool.submit(self._compute, self.view, self._next_generation())

    def _stop(self) -> None:
        self._next_generation()
        self._status.value = "stopped; the picture shows the last finished view"
        self._idle()

    def _idle(self) -> None:
        self.stop.disabled = True
        self._bar.layout.display = "none"
        self._bar.value = 0

    def _compute(self, view: View, generation: int) -> None:
        def tick(done: int, total: int | None) -> None:
            if generation != self._generation:
                raise _Cancelled
            if total and total > 4:
                self._bar.layout.display = ""
                self._bar.value = done / total

        try:
            with listening(tick):
                tick(0, None)
                shown = draw(view, self.models, self.ds, self.batch_size)
            png = io.BytesIO()
            shown.figure.savefig(png, format="png", dpi=100)
            tick(0, None)
        except _Cancelled:
            return
        except Exception as error:
            if generation == self._generation:
                self._fail(error)
            if os.environ.get("XAI_STRICT") or not _LIVE:
                raise
            return
        self.shown = shown
        self.picture.value = png.getvalue()
        self.picture.layout.opacity = "1"
        self._status.value = (
            f"done: {view.method} of image {view.image} on {view.model}, {view.transform} ({self.ds.ids[view.image]})"
        )
        self._idle()

    def _fail(self, error: Exception) -> None:
        self._status.value = f"error: {error}"
        self._idle()

    def _guarded(self, handler: Callable[[Any], None]) -> Callable[[Any], None]:
        """Errors in callbacks go to a log that nobody reads; show them in the panel."""

        def guarded(argument: Any) -> None:
            try:
                handler(argument)
            except Exception as error:
                self._fail(error)
                if os.environ.get("XAI_STRICT"):
                    raise

        return guarded


def thumbnails(ds: ImageDataset, indices: Sequence[int]) -> Figure:
    """Numbered small images, to choose from."""
    chosen = ds.select(list(indices))
    titles = [f"{i}: {ds.class_names[ds.labels[i]]}" for i in indices]
    return plots.image_grid(chosen, columns=8, titles=titles)
