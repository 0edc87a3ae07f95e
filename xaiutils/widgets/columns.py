"""The controls of one map, made from what its method declares."""

import html
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from xaiutils.attribution import METHODS
from xaiutils.widgets.controls import ParameterBox, labelled
from xaiutils.widgets.view import MethodChoice, taken_parameters


class MapColumn:
    """The controls of one map: method, library, parameters. ``defaults`` are parameters by the method's name."""

    def __init__(
        self,
        number: int,
        changed: Callable[[], None],
        guarded: Callable[[Callable], Callable],
        defaults: Mapping[str, Mapping[str, Any]],
    ):
        self._changed, self._defaults, self._layers = changed, defaults, ()
        methods = [(entry.title, name) for name, entry in METHODS.items()]
        self._optional = number > 1
        if self._optional:
            methods.insert(0, ("none", ""))
        method = labelled(f"map {number}", "attribution method", label_width="46px")
        self.method = widgets.Dropdown(options=methods, **method)
        self.library = widgets.Dropdown(**labelled("by", "the library that computes it", label_width="46px"))
        self.cost = widgets.HTML()
        self._quiet = False
        self.parameters = ParameterBox(guarded(lambda _: None if self._quiet else changed()))
        self.box = widgets.VBox([self.method, self.library, self.parameters.box, self.cost])
        self.box.add_class("xai-column")
        self.set(None)
        self.method.observe(guarded(self._switched), names="value")
        self.library.observe(guarded(self._library_switched), names="value")

    @property
    def choice(self) -> MethodChoice | None:
        if not self.method.value:
            return None
        return MethodChoice(self.method.value, self.parameters.values(), self.library.value)

    def set(self, choice: MethodChoice | None) -> None:
        """Show a choice without telling of it."""
        self._quiet = True
        try:
            name = "" if choice is None else choice.method
            if name or self._optional:
                self.method.value = name
            name = self.method.value
            self._fill(name, {} if choice is None else choice.parameters, choice.library if choice else "xaiutils")
        finally:
            self._quiet = False

    def offer_layers(self, layers: tuple[str, ...]) -> None:
        """Suggest these names where a layer is asked for."""
        self._layers = layers
        if "layer" in self.parameters.controls and self.parameters.controls["layer"].options != layers:
            self.parameters.controls["layer"].options = layers

    def _fill(self, name: str, values: Mapping[str, Any], library: str) -> None:
        libraries = METHODS[name].libraries if name else ("xaiutils",)
        self.library.options = libraries
        self.library.value = library
        self.library.layout.display = "" if len(libraries) > 1 else "none"
        self.parameters.show(METHODS[name].parameters if name else (), values, self._layers)
        self._enable()
        self.cost.value = _about(name) if name else ""

    def _enable(self) -> None:
        if self.method.value:
            self.parameters.enable([p.name for p in taken_parameters(self.method.value, self.library.value)])

    def _switched(self, change: Mapping[str, Any]) -> None:
        if not self._quiet:
            self._quiet = True
            try:
                self._fill(change["new"], self._defaults.get(change["new"], {}), "xaiutils")
            finally:
                self._quiet = False
            self._changed()

    def _library_switched(self, _change: Any) -> None:
        if not self._quiet:
            self._enable()
            self._changed()


def _about(method: str) -> str:
    entry = METHODS[method]
    only = (
        " For transformers only." if entry.suits == ("vit",) else " For CNNs only." if entry.suits == ("cnn",) else ""
    )
    text = html.escape(f"Cost: {entry.cost}.{only} {entry.paper}")
    return f'<div class="xai-cost">{text}</div>'
